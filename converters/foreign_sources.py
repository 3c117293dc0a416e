"""Make a source of the bytes of a file. Called in the child process of ``guarded.py`` only."""

from typing import Any

import numpy as np

from converters.errors import InvalidRequestError, MissingLibraryError
from converters.guarded_files import FileFacts
from converters.source import SourceModel
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import WIDTH_MAX, ModelSchema


def open_foreign(
    kind: str, content: bytes, schema: ModelSchema, profile: DeviceProfile
) -> SourceModel:
    """Read a file of a kind.

    Raises:
        InvalidRequestError: Not such a file.
        MissingLibraryError: The library of its kind is not installed.
    """
    if kind == "onnx":
        from converters.onnx_graph import OnnxGraph

        return OnnxGraph(content, schema, profile)
    from converters.sources import make_source

    source = make_source(read_model(kind, content), schema)
    return _Indexed(source, schema)


class _Indexed:
    """A source from a file: its true answers are class indexes."""

    def __init__(self, source: SourceModel, schema: ModelSchema) -> None:
        self.name, self.convert, self.answer = source.name, source.convert, source.answer
        self._schema = schema

    def index_targets(self, targets: Any) -> Any:
        """Check that targets are class indexes; values of a regression stay."""
        from converters.onnx_graph import index_targets

        return index_targets(self._schema, targets)


def read_model(kind: str, content: bytes) -> Any:
    """Give the booster or program of a file.

    Raises:
        InvalidRequestError: Its library refuses it.
        MissingLibraryError: Its library is not installed.
    """
    try:
        if kind == "torch":
            from converters.torch_archive import read_program

            return read_program(content)
        if kind == "lightgbm":
            import lightgbm

            return lightgbm.Booster(model_str=content.decode(), params={"verbosity": -1})
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(bytearray(content))
    except ImportError as error:
        raise MissingLibraryError(kind, f"a file of {kind}") from error
    except InvalidRequestError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise InvalidRequestError(f"{kind} does not read the file: {first[-1][:300]}") from error
    return booster


def describe_model(kind: str, content: bytes) -> FileFacts:
    """Tell what the model of a file takes and answers; raises as ``read_model``."""
    model = read_model(kind, content)
    if kind == "torch":
        return _describe_program(model)
    from converters.from_boosted import wrap_booster

    estimator = wrap_booster(model)
    names = model.feature_name() if kind == "lightgbm" else (model.feature_names or [])
    width = int(estimator.n_features_in_)
    is_named = len(names) == width and not str(names[0]).startswith("Column_")
    return FileFacts(
        width=width,
        columns=tuple(map(str, names)) if is_named else (),
        classes=len(getattr(estimator, "classes_", ())),
    )


def _describe_program(program: Any) -> FileFacts:
    names = program.graph_signature.user_inputs
    nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
    shape = [int(size) for size in getattr(nodes.get(names[0]), "shape", [0, 0])[1:]]
    answers = program.graph_signature.user_outputs
    out = list(getattr(nodes.get(answers[0]), "shape", []))[1:]
    width = int(np.prod(shape)) if shape else 0
    if not 1 <= width <= WIDTH_MAX:
        raise InvalidRequestError(f"the exported program takes rows of {shape}")
    many = int(out[0]) if len(out) == 1 else 1
    sides = tuple(shape) if len(shape) > 1 else ()
    return FileFacts(width=width, columns=(), classes=many if many > 1 else 0, shape=sides)
