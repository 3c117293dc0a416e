"""A CNN of PyTorch behind the front answers raw pictures as torch answers resized ones."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from converters.build import BuildRequest, ProfileLimits, build_package
from converters.image_front import pack_pictures
from converters.image_package import take_pictures
from converters.request import Effort
from device_profiles.catalog import load_profile
from edge_agent.contract.image import ColourOrder, ImageInput
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
from tests.support.convert import QUICK
from tests.support.serving import TARGET, make_service

# Not imported here: every process of a test run collects this file.
pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
PROFILE = load_profile("camera")
MEAN, DEVIATION = (0.48, 0.45, 0.4), (0.23, 0.22, 0.22)
IMAGE = ImageInput(height=16, width=16, mean=MEAN, deviation=DEVIATION, colours=ColourOrder.BGR)


def _picture(seed: int) -> Any:
    draw = np.random.default_rng(seed)
    height, width = (int(n) for n in draw.integers(20, 90, 2))
    base = draw.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return np.repeat(np.repeat(base, height // 4, 0), width // 5, 1)


def _network() -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 8 * 8, 3),
        torch.nn.Softmax(dim=1),
    ).eval()


def _answer_with_torch(network: Any, picture: Any) -> Any:
    torch = pytest.importorskip("torch")
    planes = torch.from_numpy(picture[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32))
    sized = torch.nn.functional.interpolate(
        planes, (16, 16), mode="bilinear", align_corners=False, antialias=True
    )
    shape = (1, 3, 1, 1)
    mean, deviation = (torch.tensor(part).reshape(shape) for part in (MEAN, DEVIATION))
    with torch.no_grad():
        return network((sized / 255 - mean) / deviation)[0].numpy()


def test_a_network_answers_raw_pictures_as_torch_does() -> None:
    pictures = [_picture(seed) for seed in range(90)]
    rows, _ = pack_pictures(pictures, IMAGE, PROFILE)
    network = _network()
    truth = np.array([_answer_with_torch(network, picture) for picture in pictures])
    schema = ModelSchema(
        model="shapes",
        task=Task.CLASSIFICATION,
        features=(Feature(name="pixels", shape=(3, 16, 16)),),
        outputs=(
            Output(name="label", role=Role.LABEL),
            Output(name="probabilities", role=Role.PROBABILITIES),
        ),
        classes=("a", "b", "c"),
    )
    built = build_package(
        BuildRequest(
            estimator=network,
            schema=schema,
            profile=PROFILE,
            calibration=rows[:50],
            holdout=rows[50:],
            holdout_targets=truth[50:].argmax(axis=1),
            limits=ProfileLimits(metric_drop_max=0.5, label_flips_max=0.5),
            plan=QUICK,
            effort=Effort.BRIEF,
        )
    )
    package = take_pictures(built, IMAGE, pictures[50:], PROFILE)
    service = make_service()
    service.activate("main", blob=package.blob, target=TARGET, sha256=package.sha256)
    got = np.array([service.predict("main", p[None]).outputs["probabilities"][0] for p in pictures])
    np.testing.assert_allclose(got, truth, atol=1e-4)
