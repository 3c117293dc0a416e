"""What real retraining costs on the way: warm starts and new heads at most a quarter of plain zstd.

Sizes are of the bare ONNX files, as the measurements behind the limits were.
"""

import copy
from collections.abc import Callable, Iterator

import pytest
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from edge_agent.contract.transfer import Encoding
from fleet_server.adapters.package_encoder import Sizes, measure_encodings
from tests.support.retrained import (
    X,
    Y,
    boosted,
    camera_net_with_a_new_head,
    convert,
    forest,
    net_with_a_new_head,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
QUARTER = 0.25


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small fits are slower on many threads."""
    with threadpool_limits(1):
        yield


def measure(base: bytes, target: bytes) -> Sizes:
    """Measure, and hold the law: never more than the best of plain zstd and patch."""
    sizes = measure_encodings(target, base)
    assert sizes.zstd is not None
    assert sizes.patch is not None
    assert sizes.chosen <= min(sizes.zstd, sizes.patch)
    return sizes


@pytest.mark.parametrize("make", [boosted, forest, net_with_a_new_head], ids=lambda f: f.__name__)
def test_a_warm_start_or_a_new_head_travels_as_a_quarter(
    make: Callable[[], tuple[bytes, bytes]],
) -> None:
    base, target = make()
    sizes = measure(base, target)
    assert sizes.zstd is not None
    assert sizes.encoding is Encoding.DELTA
    assert sizes.chosen <= QUARTER * sizes.zstd


def test_a_net_that_was_trained_on_travels_as_less_than_a_patch() -> None:
    """Every weight has moved a little: only its significant bytes say so."""
    model = MLPClassifier((128, 64), max_iter=5, random_state=0).fit(X, Y)
    new = copy.deepcopy(model).set_params(warm_start=True, max_iter=2, learning_rate_init=1e-4)
    sizes = measure(convert(model), convert(new.fit(X[::2], Y[::2])))
    assert sizes.patch is not None
    assert sizes.patch_regrouped == sizes.chosen
    assert sizes.chosen <= 0.85 * sizes.patch


def test_a_net_trained_from_scratch_gains_from_its_planes_alone() -> None:
    old, new = (MLPClassifier((128, 64), max_iter=5, random_state=n).fit(X, Y) for n in (0, 1))
    sizes = measure(convert(old), convert(new))
    assert sizes.zstd is not None
    assert sizes.chosen <= 0.95 * sizes.zstd


def test_a_camera_net_with_a_new_head_travels_as_a_quarter() -> None:
    torch = pytest.importorskip("torch")
    sizes = measure(*camera_net_with_a_new_head(torch))
    assert sizes.zstd is not None
    assert sizes.chosen <= QUARTER * sizes.zstd
