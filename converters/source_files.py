"""Read source models and packages from files, none of which may run code when it is read.

skops files are read under a list of exact types: scikit-learn's compiled parts, which skops itself
does not trust, as far as estimators that convert need them. Pickle files are refused.
"""

import io
import stat
import zipfile
from pathlib import Path
from typing import Any

from converters.errors import InvalidRequestError, MissingLibraryError, say_reason
from converters.skops_library import import_skops
from edge_agent.contract.errors import ContractError
from edge_agent.contract.package import unpack_members

MODEL_BYTES_MAX = 1_073_741_824
ARCHIVE_MEMBERS_MAX = 100_000
_DISTANCES = ("Euclidean", "Manhattan", "Minkowski", "Chebyshev", "Hamming", "Canberra")
_KERNELS = (
    *("RBF", "Matern", "RationalQuadratic", "ExpSineSquared", "DotProduct", "WhiteKernel"),
    *("ConstantKernel", "Sum", "Product", "Exponentiation"),
)
ALLOWED_TYPES = frozenset(
    {
        "converters.text_table.TextTable",
        "numpy.dtype",
        "numpy.mean",
        "scipy.sparse._csr.csr_matrix",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.metrics._classification.balanced_accuracy_score",
        "sklearn.metrics._scorer._CurveScorer",
        "sklearn.metrics._scorer._PassthroughScorer",
        "sklearn.metrics._scorer._Scorer",
        "sklearn.model_selection._split.KFold",
        "sklearn.model_selection._split.StratifiedKFold",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils._metadata_requests.MetadataRequest",
        "sklearn.utils._metadata_requests.MethodMetadataRequest",
        *(f"sklearn.gaussian_process.kernels.{name}" for name in _KERNELS),
        *(f"sklearn.metrics._dist_metrics.{name}Distance64" for name in _DISTANCES),
    }
)
_PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".sav"})
_TORCH_PICKLES = frozenset({".pt", ".pth", ".ckpt"})


def read_file(path: Path) -> bytes:
    """Read a whole file of bounded size.

    Raises:
        InvalidRequestError: Larger than any model may be, or no regular file.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe never comes, a device never ends
        raise InvalidRequestError(f"{path.name} is no regular file")
    size = found.st_size
    if size > MODEL_BYTES_MAX:
        raise InvalidRequestError(f"{path.name} has {size} bytes, the limit is {MODEL_BYTES_MAX}")
    return path.read_bytes()


def load_estimator(path: Path) -> Any:
    """Read a fitted estimator from a skops file.

    Raises:
        InvalidRequestError: A pickle, not a skops file, or one with a type outside the list.
        MissingLibraryError: skops is not installed.
    """
    if path.suffix.lower() in _PICKLES:
        raise InvalidRequestError(
            f"{path.name} is a pickle, and reading one runs whatever code it holds; save the model"
            f" with skops.io.dump(model, {path.stem + '.skops'!r})"
        )
    if path.suffix.lower() in _TORCH_PICKLES:
        raise InvalidRequestError(
            f"{path.name} is a pickle of torch.save, and reading one runs whatever code it holds;"
            f" export the module: torch.export.save(program, {path.stem + '.pt2'!r})"
        )
    try:
        skops_io = import_skops()
    except ImportError as error:
        raise MissingLibraryError("skops", path.name) from error
    content = read_file(path)
    try:
        check_archive(content)
        unknown = sorted(set(skops_io.get_untrusted_types(data=content)) - ALLOWED_TYPES)
        model = None if unknown else skops_io.loads(content, trusted=sorted(ALLOWED_TYPES))
    except Exception as error:  # a damaged archive raises a dozen kinds
        raise InvalidRequestError(
            f"{path.name} is not a readable skops file: {say_reason(error)}"
        ) from error
    if unknown:
        raise InvalidRequestError(
            f"{path.name} holds {unknown[0]}, which is not among the types that are read; save what"
            " answers alone (the best_estimator_ of a search), without functions of your own, or"
            " build from Python (converters.build)"
        )
    if not hasattr(model, "fit"):
        raise InvalidRequestError(
            f"{path.name} holds a {type(model).__name__}, which is no estimator; save the fitted"
            " model itself: skops.io.dump(model, FILE)"
        )
    return model


def check_archive(content: bytes) -> None:
    """Refuse a zip archive that unfolds to more than a model may have.

    Raises:
        InvalidRequestError: It does, it has too many members, or is no zip archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InvalidRequestError(f"not a zip archive: {error}") from error
    size = sum(member.file_size for member in members)
    if len(members) > ARCHIVE_MEMBERS_MAX or size > MODEL_BYTES_MAX:
        raise InvalidRequestError(
            f"unfolds to {size} bytes in {len(members)} members, the limits are {MODEL_BYTES_MAX}"
            f" and {ARCHIVE_MEMBERS_MAX}"
        )


def load_package(path: Path) -> dict[str, bytes]:
    """Read the members of a package.

    Raises:
        InvalidRequestError: Not a package.
    """
    try:
        return unpack_members(read_file(path))
    except ContractError as error:
        raise InvalidRequestError(f"{path.name}: {error}") from error


def is_package(path: Path) -> bool:
    """Tell packages from graphs and estimators by the end of the name."""
    return path.suffix.lower() == ".tar"


def is_graph(path: Path) -> bool:
    """Tell an ONNX file by the end of its name."""
    return path.suffix.lower() == ".onnx"
