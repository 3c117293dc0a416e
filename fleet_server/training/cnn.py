"""Train the small network of convolutions that ``estimator = "cnn"`` names. Needs PyTorch.

The same rows, seed, settings, processor and number of threads give the same network. Part of the
training pictures only says when to stop, whole groups of them; the network of the best pass counts.
Left out: schedules of the learning rate, training from a network that is there, GPUs.
"""

import contextlib
import copy
import importlib.util
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_agent.contract.image import ImageInput
from fleet_server.errors import RefusedError
from fleet_server.training.cnn_settings import CnnSettings
from fleet_server.training.dataset import Side
from fleet_server.training.picture_network import PictureNetwork

ASKED_ROWS = 256
PICTURES_MIN = 8
WEIGHT_DECAY = 1e-4
_POOLED_SIDE = 4
"""What is left of each side before the dense layers, about."""

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passes:
    """What a training came to.

    Attributes:
        done: Passes over the pictures.
        best: The one that counts, from 1.
        losses: On the validation pictures after each.
    """

    done: int
    best: int
    losses: tuple[float, ...]


def train_cnn(
    settings: CnnSettings,
    image: ImageInput,
    train: Side,
    *,
    classes: int,
    seed: int,
    tell: Callable[[str], None],
) -> PictureNetwork:
    """Train one.

    Args:
        settings: Of the spec.
        image: What the network sees.
        train: Training rows and their pictures.
        classes: How many; 0 for a regression.
        seed: Of everything drawn.
        tell: Hears of each pass.

    Raises:
        RefusedError: Too few pictures, a loss that is no number, or too little memory.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise RefusedError("a network is converted with onnxscript: pip install 'edgefleet[torch]'")
    if settings.shift_pixels >= min(image.height, image.width):
        raise RefusedError(
            f"train.params.shift {settings.shift_pixels} moves a picture of {image.height} x"
            f" {image.width} out of itself; take less"
        )
    is_held = choose_validation(train, share=settings.validation, classes=classes, seed=seed)
    shape = (image.channels, image.height, image.width)
    with _one_stage(settings.threads, seed):
        try:
            truth, centre, spread = _scale(train.targets, ~is_held, is_value=classes == 0)
            net = _make(settings, shape, classes or truth.shape[1])
            rows = torch.from_numpy(np.ascontiguousarray(train.features)).reshape(-1, *shape)
            passes = _fit(net, settings, rows, truth, is_held, classes, tell)
            _unscale(net, centre, spread)
            program = _export(net, shape)
        except RuntimeError as error:  # what torch raises, no memory included
            raise RefusedError(f"the network cannot be trained: {_first(error)}") from error
    return PictureNetwork(
        module=program,
        is_classifier=classes > 0,
        ask=partial(_ask, net, shape),
        encode=partial(_encode, program),
        record={
            "passes": passes.done,
            "best_pass": passes.best,
            "validation_pictures": int(is_held.sum()),
            "validation_losses": [round(loss, 6) for loss in passes.losses],
            "parameters": sum(one.numel() for one in net.parameters()),
        },
    )


def choose_validation(train: Side, *, share: float, classes: int, seed: int) -> NDArray[np.bool_]:
    """Tell which training rows only say when to stop: whole groups, never all of a class.

    Raises:
        RefusedError: There are too few pictures, or they are of one group.
    """
    groups = np.arange(len(train)) if train.pictures is None else train.pictures.groups
    if len(train) < PICTURES_MIN:
        raise RefusedError(f"a cnn is trained on {PICTURES_MIN} pictures or more, not {len(train)}")
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    labels = train.targets if classes else np.zeros(len(train), np.int64)
    left = np.bincount(labels, minlength=max(1, classes))
    is_held = np.zeros(len(train), bool)
    order = np.random.default_rng(seed).permutation(np.array(list(members)))
    for group in order.tolist():
        rows = members[group]
        own = np.bincount(labels[rows], minlength=len(left))
        if is_held.sum() + len(rows) > max(1.0, share * len(train)) * 1.5:
            continue
        if np.any((own > 0) & (left <= own)):
            continue
        is_held[rows] = True
        left -= own
        if is_held.sum() >= share * len(train):
            break
    if not is_held.any():
        raise RefusedError(
            "no training picture can be kept back to say when to stop: every group is too large or"
            " has all pictures of a class. Give more pictures or smaller groups"
        )
    return is_held


def _make(settings: CnnSettings, shape: tuple[int, int, int], answers: int) -> Any:
    nn = torch.nn
    channels, height, width = shape
    layers: list[Any] = []
    for own in settings.channels:
        layers += [
            nn.Conv2d(channels, own, 3, padding=1, bias=False),
            nn.BatchNorm2d(own),
            nn.ReLU(),
        ]
        channels = own
        if min(height, width) >= _POOLED_SIDE:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    kernel = (math.ceil(height / _POOLED_SIDE), math.ceil(width / _POOLED_SIDE))
    if kernel != (1, 1):
        layers.append(nn.AvgPool2d(kernel))
        height, width = height // kernel[0], width // kernel[1]
    layers += [
        nn.Flatten(),
        nn.Linear(channels * height * width, settings.hidden),
        nn.ReLU(),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.hidden, answers),
    ]
    return nn.Sequential(*layers)


def _scale(
    targets: NDArray[Any], is_learned: NDArray[np.bool_], *, is_value: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Give what the network learns, and centre and spread that values were brought to."""
    if not is_value:
        return torch.from_numpy(targets.astype(np.int64)), None, None
    values = targets.reshape(len(targets), -1).astype(np.float64)
    centre, spread = values[is_learned].mean(axis=0), values[is_learned].std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    scaled = torch.from_numpy(((values - centre) / spread).astype(np.float32))
    return scaled, _float(centre), _float(spread)


def _unscale(net: Any, centre: Tensor | None, spread: Tensor | None) -> None:
    """Let the last layer answer in the unit of the targets."""
    if centre is None or spread is None:
        return
    with torch.no_grad():
        net[-1].weight.mul_(spread[:, None])
        net[-1].bias.mul_(spread).add_(centre)


def _fit(
    net: Any,
    settings: CnnSettings,
    rows: Tensor,
    truth: Tensor,
    is_held: NDArray[np.bool_],
    classes: int,
    tell: Callable[[str], None],
) -> _Passes:
    learned = torch.from_numpy(np.flatnonzero(~is_held))
    held = torch.from_numpy(np.flatnonzero(is_held))
    loss_of = _make_loss(settings, truth[learned], classes)
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY
    )
    best, kept, losses = 0, None, list[float]()
    for number in range(1, settings.epochs_max + 1):
        net.train()
        for batch in torch.split(learned[torch.randperm(len(learned))], settings.batch):
            if len(batch) < 2:  # one picture has no spread to normalise by
                continue
            optimiser.zero_grad()
            loss_of(net(_vary(rows[batch], settings)), truth[batch]).backward()
            optimiser.step()
        net.eval()
        losses.append(float(loss_of(_answer(net, rows[held]), truth[held])))
        if math.isfinite(losses[-1]) and (not best or losses[-1] < losses[best - 1]):
            best, kept = number, copy.deepcopy(net.state_dict())
        tell(
            f"pass {number} of {settings.epochs_max} at most: validation loss {losses[-1]:.4g},"
            f" best {losses[best - 1] if best else math.nan:.4g}"
        )
        if number - best >= settings.patience:
            break
    if kept is None:
        raise RefusedError(
            "the loss of the network is no finite number; take a smaller learning_rate, or scale"
            " pixels and targets"
        )
    net.load_state_dict(kept)
    return _Passes(done=len(losses), best=best, losses=tuple(losses))


def _make_loss(settings: CnnSettings, truth: Tensor, classes: int) -> Any:
    if not classes:
        return torch.nn.MSELoss()
    if not settings.is_balanced:
        return torch.nn.CrossEntropyLoss()
    counts = torch.bincount(truth, minlength=classes).clamp(min=1)
    return torch.nn.CrossEntropyLoss(weight=len(truth) / (classes * counts.float()))


def _vary(rows: Tensor, settings: CnnSettings) -> Tensor:
    """Mirror half of the pictures and move all of them, as far as the spec says."""
    if settings.is_flipped:
        is_mirrored = torch.rand(len(rows)) < 0.5
        rows = torch.where(is_mirrored[:, None, None, None], rows.flip(3), rows)
    by = settings.shift_pixels
    if by:
        down, right = (int(n) for n in torch.randint(0, 2 * by + 1, (2,)))
        wide = torch.nn.functional.pad(rows, (by, by, by, by), mode="replicate")
        rows = wide[:, :, down : down + rows.shape[2], right : right + rows.shape[3]]
    return rows


def _answer(net: Any, rows: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(part) for part in torch.split(rows, ASKED_ROWS)])


def _ask(net: Any, shape: tuple[int, int, int], rows: NDArray[np.float32]) -> NDArray[np.float64]:
    packed = torch.from_numpy(np.ascontiguousarray(rows, np.float32)).reshape(-1, *shape)
    return np.asarray(_answer(net, packed).numpy(), np.float64)


def _export(net: Any, shape: tuple[int, int, int]) -> Any:
    """Give the network as an exported program of any number of rows, without code of Python."""
    rows = torch.zeros((3, *shape))
    with _quiet():
        return torch.export.export(net, (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},))


def _encode(program: Any) -> bytes:
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file)
    return file.getvalue()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's talk, which is not for our caller."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _one_stage(threads: int, seed: int) -> Iterator[None]:
    """Draw by the seed and compute with so many threads; what was set before returns."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _float(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
