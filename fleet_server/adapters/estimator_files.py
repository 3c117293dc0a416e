"""Source models as skops files, read back under our own list of allowed types; never pickle.

A network is kept as an exported program of PyTorch (.pt2), which holds numbers and operators alone.

scikit-learn's compiled parts (trees, neighbour indexes, optimizers) are not trusted by skops
itself; the ones our supported estimators use are listed by exact name, so a file that names
anything else is refused before any of it is made.
"""

from typing import Any

from converters.errors import say_reason
from converters.skops_library import import_skops
from converters.source_files import check_archive
from fleet_server.errors import RefusedError
from fleet_server.training.picture_network import PictureNetwork

_DISTANCES = ("Euclidean", "Manhattan", "Minkowski", "Chebyshev", "Hamming", "Canberra")
ALLOWED_TYPES = frozenset(
    {
        "converters.text_table.TextTable",
        "numpy.dtype",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        *(f"sklearn.metrics._dist_metrics.{name}Distance64" for name in _DISTANCES),
    }
)


class SkopsEstimatorWriter:
    """``EstimatorWriter`` with skops; networks write themselves."""

    def write(self, estimator: Any) -> bytes:
        """Give the bytes of a fitted estimator.

        Raises:
            RefusedError: They could not be read back under the list.
        """
        if isinstance(estimator, PictureNetwork):
            return estimator.encode()
        try:
            data: bytes = import_skops().dumps(estimator)
        except (AttributeError, TypeError) as error:
            raise RefusedError(f"the source model cannot be kept: {error}") from error
        _check(data)
        return data


def read_estimator(data: bytes) -> Any:
    """Read back what ``SkopsEstimatorWriter`` wrote.

    Raises:
        RefusedError: Not such a file, or it holds a type that is not on the list.
    """
    try:
        check_archive(data)
        _check(data)
        return import_skops().loads(data, trusted=sorted(ALLOWED_TYPES))
    except RefusedError:
        raise
    except Exception as error:  # a damaged archive raises a dozen kinds
        raise RefusedError(f"the source model is refused: {say_reason(error)}") from error


def _check(data: bytes) -> None:
    unknown = sorted(set(import_skops().get_untrusted_types(data=data)) - ALLOWED_TYPES)
    if unknown:
        raise RefusedError(
            f"the source model holds {unknown[0]}, which is not on the list of allowed types;"
            " take other parameters in train.params"
        )
