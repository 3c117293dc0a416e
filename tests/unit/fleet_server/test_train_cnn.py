"""The small network of a spec of pictures: the same from the same rows, stopped in time."""

import importlib.util
from typing import Any

import numpy as np
import pytest

from edge_agent.contract.image import ColourOrder, ImageInput
from fleet_server.errors import RefusedError
from fleet_server.training.cnn_settings import CnnSettings
from fleet_server.training.dataset import Side
from fleet_server.training.picture_network import PictureNetwork
from fleet_server.training.picture_set import PictureSet
from tests.support.convert import Array

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch"),
    pytest.mark.xdist_group("torch"),  # one process loads PyTorch for all
]
IMAGE = ImageInput(height=6, width=5, colours=ColourOrder.GREY)
TINY = CnnSettings(channels=(4,), hidden=8, epochs_max=12, patience=4, batch=16, dropout=0.0)


def _side(rows: int = 80, *, groups: Array | None = None) -> Side:
    """Dark and bright halves: the class is which half is bright."""
    draw = np.random.default_rng(1)
    targets = draw.integers(0, 2, rows)
    grid = draw.normal(0, 0.2, (rows, 6, 5))
    grid[np.arange(rows), targets * 5] += 1.5
    pictures = PictureSet(
        [str(n) for n in range(rows)],
        lambda _: np.zeros((1, 1, 3), np.uint8),
        np.arange(rows),
        np.arange(rows) if groups is None else groups,
        np.zeros((rows, 4), np.float32),
    )
    return Side(
        features=grid.reshape(rows, -1).astype(np.float32), targets=targets, pictures=pictures
    )


def _train(settings: CnnSettings, side: Side, classes: int = 2, **options: Any) -> PictureNetwork:
    from fleet_server.training.cnn import train_cnn

    heard: list[str] = options.pop("heard", [])
    return train_cnn(settings, IMAGE, side, classes=classes, seed=3, tell=heard.append, **options)


def test_the_same_rows_and_seed_give_the_same_network_that_learned() -> None:
    side, heard = _side(), list[str]()
    first, again = _train(TINY, side, heard=heard), _train(TINY, side)
    assert (
        first.predict_proba(side.features).tolist() == again.predict_proba(side.features).tolist()
    )
    assert np.mean(first.predict(side.features) == side.targets) > 0.95
    assert first.record["validation_pictures"] == 12
    assert heard[0].startswith("pass 1 of 12 at most: validation loss ")


def test_it_stops_when_the_validation_loss_no_longer_falls_and_keeps_the_best() -> None:
    side = _side()
    wrong = Side(
        features=side.features,
        targets=np.random.default_rng(0).integers(0, 2, len(side)),
        pictures=side.pictures,
    )
    record = _train(
        CnnSettings(channels=(4,), hidden=8, epochs_max=40, patience=2, learning_rate=0.02), wrong
    ).record
    losses = record["validation_losses"]
    assert record["passes"] == record["best_pass"] + 2 == len(losses) < 40
    assert min(losses) == losses[record["best_pass"] - 1]


def test_values_come_back_in_their_own_unit() -> None:
    side = _side()
    values = Side(
        features=side.features,
        targets=np.stack([1e4 + 500.0 * side.targets, -3.0 * side.targets], axis=1),
        pictures=side.pictures,
    )
    varied = CnnSettings(
        channels=(4,), hidden=8, epochs_max=25, learning_rate=0.01, is_flipped=True, shift_pixels=1
    )
    answers = _train(varied, values, classes=0).predict(side.features)
    assert np.abs(answers[:, 0] - values.targets[:, 0]).mean() < 150
    assert np.abs(answers[:, 1] - values.targets[:, 1]).mean() < 1


def test_validation_keeps_groups_together_and_leaves_every_class_to_learn() -> None:
    from fleet_server.training.cnn import choose_validation

    groups = np.repeat(np.arange(8), 10)
    side = _side(groups=groups)
    targets = side.targets.copy()
    targets[:] = 0
    targets[:10] = 1  # the second class is in one group alone
    own = Side(features=side.features, targets=targets, pictures=side.pictures)
    for seed in range(8):
        is_held = choose_validation(own, share=0.2, classes=2, seed=seed)
        assert {len(set(is_held[groups == group])) for group in range(8)} == {1}
        assert not is_held[:10].any()
        assert 10 <= is_held.sum() <= 20


@pytest.mark.parametrize(
    ("settings", "rows", "words"),
    [
        (TINY, 7, "8 pictures or more, not 7"),
        (CnnSettings(shift_pixels=5), 20, "shift 5 moves a picture of 6 x 5 out of itself"),
        (CnnSettings(learning_rate=1.0, channels=(4,), epochs_max=1), 20, ""),
    ],
)
def test_what_cannot_be_trained_is_refused(settings: CnnSettings, rows: int, words: str) -> None:
    side = _side(rows)
    if not words:
        side.features[0] = np.inf
        words = "the loss of the network is no finite number"
    with pytest.raises(RefusedError, match=words):
        _train(settings, side)
