"""Raw pictures of any size to answers: package, self-test, HTTP, files, telemetry."""

import io
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from converters.build import BuildRequest, build_package
from converters.errors import InvalidRequestError
from converters.image_front import pack_pictures
from converters.image_package import take_pictures
from converters.request import BuiltPackage as Built
from device_profiles.catalog import load_profile
from edge_agent.adapters.camera_folder import CameraFolder
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.package_check import check_package
from edge_agent.adapters.shadow_child import find_difference
from edge_agent.cli import main
from edge_agent.client import connect
from edge_agent.contract.image import FIGURES, ColourOrder, ImageInput
from edge_agent.errors import InputError
from edge_agent.local_camera import predict_frames
from edge_agent.ports import SelfTestLimits
from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import Reference
from edge_agent.statistics.varint import decode_counters
from tests.support.convert import QUICK, fit_quietly, schema_of
from tests.support.edges import agent_directory
from tests.support.serving import TARGET, BuiltPackage, make_service
from tests.support.serving_http import World

Array = NDArray[Any]
IMAGE = ImageInput(
    height=8, width=8, colours=ColourOrder.GREY, mean=(0.3,), deviation=(0.35,), pixels_max=40_000
)
PROFILE = load_profile("camera")


def _draw(digit: Array, seed: int) -> Array:
    """Blow a digit of 8 x 8 up to a coloured picture of some size."""
    draw = np.random.default_rng(seed)
    height, width = (int(n) for n in draw.integers(30, 120, 2))
    grey = Image.fromarray((digit.reshape(8, 8) * 15.9).astype(np.uint8))
    sized = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    tint = draw.uniform(0.9, 1.0, 3)
    return np.clip(sized[..., None] * tint, 0, 255).astype(np.uint8)


@cache
def _pictures() -> tuple[list[Array], Array, Array]:
    digits, targets = load_digits(return_X_y=True)
    pictures = [_draw(digit, n) for n, digit in enumerate(digits[:700])]
    return pictures, targets[:700], pack_pictures(pictures, IMAGE, PROFILE)[0]


def drawn() -> list[Array]:
    return _pictures()[0]


def truths() -> Array:
    return _pictures()[1]


def pixels() -> Array:
    return _pictures()[2]


def _inner() -> Built:
    model = fit_quietly(
        MLPClassifier((48,), max_iter=200, random_state=0), pixels()[:500], truths()[:500]
    )
    schema = schema_of(64, [str(n) for n in range(10)])
    return build_package(
        BuildRequest(
            estimator=model,
            schema=schema,
            profile=PROFILE,
            calibration=pixels()[:500],
            holdout=pixels()[500:],
            holdout_targets=truths()[500:],
            plan=QUICK,
        )
    )


@pytest.fixture(scope="module")
def inner() -> Built:
    return _inner()


@pytest.fixture(scope="module")
def package(inner: Built) -> Built:
    return take_pictures(inner, IMAGE, drawn()[500:], PROFILE)


@pytest.fixture(scope="module")
def agent(package: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, World]]:
    directory = tmp_path_factory.mktemp("pictures")
    served = BuiltPackage(
        blob=package.blob,
        sha256=package.sha256,
        schema=package.schema,
        rows=np.zeros((1, 4), np.float32),
    )
    with agent_directory(directory, served) as world:
        yield directory, world


def _encode(picture: Array, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


def test_the_package_reads_digits_from_pictures_of_any_size(
    package: Built, agent: tuple[Path, World]
) -> None:
    service = agent[1].service
    labels = [int(service.predict("main", p[None]).outputs["label"][0]) for p in drawn()[500:]]
    assert np.mean(np.array(labels) == truths()[500:]) > 0.85
    assert package.evidence["image"]["pictures"] == 200


def test_a_device_tests_it_with_golden_pictures(package: Built) -> None:
    limits = SelfTestLimits(latency_ms_p95_max=1_000, rss_bytes_max=2**32, timeout_s=60)
    result = check_package(package.blob, package.sha256, limits, 1)
    assert result.ok, result.detail
    assert package.evidence["image"]["golden"][3] == 3


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_file_in_the_body_is_answered_as_its_pixels(agent: tuple[Path, World], kind: str) -> None:
    content = _encode(drawn()[3], kind.upper())
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    status, answer = agent[1].ask(
        "/v1/models/main/predict", content, headers={"Content-Type": f"image/{kind}"}
    )
    assert status == 200, answer
    want = agent[1].service.predict("main", pixels[None]).outputs["probabilities"][0]
    got = list(answer["predictions"][0]["probabilities"].values())
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_tensor_of_several_pictures_is_answered_raw_and_as_json(
    agent: tuple[Path, World],
) -> None:
    pictures = np.stack([drawn()[3], drawn()[3][:, ::-1]])
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(pictures.shape)}
    raw = pictures.tobytes()
    head = json.dumps(
        {"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    status, one = agent[1].ask("/v2/models/main/infer", head + raw, headers=headers)
    assert status == 200, one
    plain = {"inputs": [{**tensor, "data": pictures.ravel().tolist()}]}
    status, two = agent[1].ask("/v2/models/main/infer", plain)
    assert status == 200, two
    assert one["outputs"] == two["outputs"]
    _, told = agent[1].ask("/v2/models/main")
    assert told["inputs"][0]["shape"] == [-1, -1, -1, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "features"}, "name must be 'image'"),
        ({"datatype": "FP32"}, "datatype must be UINT8"),
        ({"shape": [1, 2, 2, 4]}, "shape must be [1 to 64 pictures, height, width, 3]"),
        ({"shape": [1, 2, 2, 3], "data": [0] * 11}, "data has 11 numbers"),
        ({"shape": [1, 2**32, 2**32, 3], "data": []}, "pixels, the limit is"),
        ({"shape": [1, 10**30, 1, 3]}, "pixels, the limit is"),
        ({"shape": [1, 1, 1, 3], "data": [0, 0, 256]}, "data has 256, a UINT8 goes to 255"),
        ({"shape": [1, 1, 1, 3], "data": [0, 0, -1]}, "negative"),
        (
            {"shape": [1, 40_001, 1, 3], "data": [0] * 120_003},
            "40001 x 1 pixels, the limit is 40000",
        ),
    ],
)
def test_a_wrong_tensor_is_refused_by_what_is_wrong(
    agent: tuple[Path, World], change: dict[str, Any], words: str
) -> None:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0, 0, 0]}
    status, answer = agent[1].ask("/v2/models/main/infer", {"inputs": [tensor | change]})
    assert status == 400
    assert words in answer["error"]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"{}", "application/json", "takes pictures: send the bytes of a file"),
        (b"not a picture", "image/png", "the body is no PNG or JPEG picture"),
        (_encode(np.zeros((300, 300, 3), np.uint8)), "image/png", "300 x 300 pixels, the limit is"),
    ],
)
def test_a_wrong_body_is_refused(
    agent: tuple[Path, World], body: bytes, kind: str, words: str
) -> None:
    headers = {"Content-Type": kind}
    status, answer = agent[1].ask("/v1/models/main/predict", body, headers=headers)
    assert (status, words in answer["error"]) == (400, True), answer


def test_a_candidate_gets_no_shadow_that_would_wait_for_rows_in_vain(package: Built) -> None:
    assert find_difference(package.schema, package.schema) == "models of pictures are not compared"


def test_telemetry_counts_figures_of_the_pictures(package: Built) -> None:
    outbox = Outbox(None)
    service = make_service(outbox=outbox)
    service.activate("main", blob=package.blob, target=TARGET, sha256=package.sha256)
    service.predict("main", np.full((3, 50, 60, 3), 4, np.uint8))
    service.predict("main", drawn()[520][None])
    service.close()
    ((_, window),) = outbox.pending(10)
    reference = Reference.decode(package.reference)
    layout = CounterLayout.of(reference)
    counters = decode_counters(window.counters, layout.size)
    assert tuple(feature.name for feature in reference.features) == FIGURES
    assert window.rows == 4
    # Three are as dark as no picture the reference was made of.
    assert counters[layout.features[0]][-1] == 3


def test_what_does_not_fit_is_refused_before_anything_is_built(inner: Built) -> None:
    with pytest.raises(InvalidRequestError, match="64 numbers a row, a picture of 9 x 8 x 1"):
        take_pictures(
            inner,
            ImageInput(height=9, width=8, colours=ColourOrder.GREY),
            drawn()[500:],
            PROFILE,
        )
    with pytest.raises(InvalidRequestError, match="no pictures"):
        take_pictures(inner, IMAGE, [], PROFILE)


def test_floats_and_rows_are_no_pictures(agent: tuple[Path, World]) -> None:
    with pytest.raises(InputError, match="image must be UINT8"):
        agent[1].service.predict("main", np.zeros((1, 4), np.float32))


def test_files_folders_and_the_client_are_answered_alike(
    agent: tuple[Path, World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, world = agent
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(_encode(drawn()[number]))
    (tmp_path / "3.png").write_bytes(b"damaged")
    want = [
        world.service.predict("main", drawn()[number][None]).outputs["label"].tolist()
        for number in (1, 2)
    ]
    assert main(["predict", str(tmp_path / "1.png"), "--dir", str(directory)]) == 0
    (single,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [single["label"]] == want[0]
    assert main(["predict", str(tmp_path), "--dir", str(directory)]) == 1
    folder = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[answer["label"]] for answer in folder[:2]] == want
    assert "is no PNG or JPEG picture" in folder[2]["error"]
    with connect(directory) as client:
        assert client.predict(drawn()[1]).outputs["label"].tolist() == want[0]
        content = (tmp_path / "2.png").read_bytes()
        assert client.predict_picture(content).outputs["label"].tolist() == want[1]
    (tmp_path / "rows.csv").write_text("a\n1\n")
    assert main(["predict", str(tmp_path / "rows.csv"), "--dir", str(directory)]) == 1
    assert "main takes pictures" in capsys.readouterr().err


def test_a_camera_s_folder_feeds_it(agent: tuple[Path, World], tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(_encode(drawn()[5]))
    stop = Event()
    camera = CameraFolder(tmp_path, stop, every_s=0.05, is_taking_existing=True)
    answer = next(predict_frames(agent[0], None, camera, stop))
    stop.set()
    want = agent[1].service.predict("main", drawn()[5][None]).outputs["label"][0]
    assert answer["label"] == want
