"""Choose the source of a model object by the library it comes from; imports none of them.

What each source keeps and cannot is in its ``NOTES``; ``list_notes`` has them all, for the
documentation.
"""

from typing import Any

from converters.errors import MissingLibraryError
from converters.source import SourceModel, SourceNotes
from edge_agent.contract.schema import ModelSchema


def make_source(model: Any, schema: ModelSchema, *, is_fed_float32: bool = False) -> SourceModel:
    """Give the source of a model object that the caller made in this process.

    Args:
        model: Fitted estimator or pipeline, ``TableModel`` of one, bare booster, PyTorch module or
            exported program.
        schema: What goes in and comes out.
        is_fed_float32: Whether its rows come as float32.

    Raises:
        InvalidRequestError: None of these, not fitted, or on columns in another order.
        MissingLibraryError: Its converter needs a library that is not installed.
    """
    if is_torch(model):
        try:
            from converters.from_torch import TorchSource
        except ImportError as error:
            raise MissingLibraryError("torch and onnxscript", "a PyTorch model") from error
        return TorchSource(model, schema)
    from converters.from_boosted import is_booster, wrap_booster
    from converters.from_sklearn import SklearnSource
    from converters.named_columns import settle_columns
    from converters.table_feed import TableModel

    if isinstance(model, TableModel):
        from converters.from_table import TableSource

        return TableSource(model, schema)
    estimator = wrap_booster(model) if is_booster(model) else model
    return SklearnSource(
        settle_columns(estimator, schema),
        schema.task,
        is_fed_float32=is_fed_float32,
        targets=len(schema.targets),
        labels=schema.labels,
    )


def is_torch(model: Any) -> bool:
    """Tell PyTorch's modules and exported programs, without importing it."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(model).__mro__}
    return bool(
        kinds & {"torch.nn.modules.module.Module", "torch.export.exported_program.ExportedProgram"}
    )


def list_notes() -> tuple[SourceNotes, ...]:
    """Give what every kind of source keeps and what it cannot."""
    from converters.from_boosted import LIGHTGBM_NOTES, XGBOOST_NOTES
    from converters.from_onnx import NOTES as ONNX_NOTES
    from converters.from_sklearn import NOTES as SKLEARN_NOTES
    from converters.torch_notes import NOTES as TORCH_NOTES

    return SKLEARN_NOTES, LIGHTGBM_NOTES, XGBOOST_NOTES, TORCH_NOTES, ONNX_NOTES
