"""Source models in files that only a child process with limits reads.

ONNX graphs may do anything to a runtime; LightGBM and XGBoost read their files in C++, PyTorch its
programs by name. None of that happens in this process: the bytes are held here, looked at where
that is cheap, and every answer, figure and graph comes from a child (``guarded.py``).
"""

from enum import StrEnum
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from converters.guarded import GuardLimits, answer_guarded, describe_guarded
from converters.guarded_files import FileFacts
from converters.onnx_graph import index_targets
from converters.pt2_check import clean_program
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import ModelSchema

Array = NDArray[Any]


class FileKind(StrEnum):
    """What a file holds."""

    ONNX = "onnx"
    TORCH = "torch"
    LIGHTGBM = "lightgbm"
    XGBOOST = "xgboost"


_ENDS = {
    ".pt2": FileKind.TORCH,
    ".lgb": FileKind.LIGHTGBM,
    ".txt": FileKind.LIGHTGBM,
    ".ubj": FileKind.XGBOOST,
    ".json": FileKind.XGBOOST,
}


class ForeignModel:
    """A model from a file, held as bytes.

    Args:
        content: The file.
        kind: What it holds.
        schema: What it takes and answers.
        profile: Its threads and limits are used to run the source.
        limits: Of the child processes that run it; None takes the usual ones.
    """

    kind = FileKind.ONNX

    def __init__(
        self,
        content: bytes,
        schema: ModelSchema,
        profile: DeviceProfile,
        limits: GuardLimits | None = None,
        *,
        kind: FileKind = FileKind.ONNX,
    ) -> None:
        self.content, self.kind = content, kind
        self.limits = limits or GuardLimits()
        self._schema, self._profile = schema, profile

    def answer(self, rows: Array) -> dict[str, Array]:
        """Answer rows, rounded to float32, by output name; starts a child process.

        Raises:
            ConversionError: The library of its kind refuses, crashes, hangs or asks for too much
                memory.
        """
        return answer_guarded(
            self.content, self._schema, self._profile, rows, self.limits, kind=self.kind
        )

    def index_targets(self, targets: Array) -> Array:
        """Check that targets are class indexes; values of a regression stay."""
        return index_targets(self._schema, targets)


def find_kind(path: Path) -> FileKind | None:
    """Tell the kind of a file by the end of its name; None for what is read otherwise."""
    return _ENDS.get(path.suffix.lower())


def describe_model(content: bytes, kind: FileKind, limits: GuardLimits | None = None) -> FileFacts:
    """Ask a child what a file takes and answers.

    Raises:
        ConversionError: It is not such a file.
    """
    check_start(content, kind)
    return describe_guarded(content, limits or GuardLimits(), kind=kind)


def check_start(content: bytes, kind: FileKind) -> None:
    """Refuse what is plainly another file, before a process is started for it.

    Raises:
        InvalidRequestError: With what was expected.
    """
    if kind is FileKind.TORCH:
        clean_program(content)
    elif kind is FileKind.LIGHTGBM and not content.startswith(b"tree\n"):
        raise InvalidRequestError(
            "the file does not begin as LightGBM's text files do; write it with"
            ' booster.save_model("model.lgb")'
        )
    elif kind is FileKind.XGBOOST and content[:1] != b"{":
        raise InvalidRequestError(
            "the file is neither JSON nor UBJSON of XGBoost; write it with"
            ' model.save_model("model.ubj")'
        )
