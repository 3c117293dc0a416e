"""``schema.json`` of a package: ordered, named, typed inputs and outputs.

All numeric features travel packed in one float32 tensor (``features``, shape [rows, width]) in
the order of the features: one tensor costs the device a fraction of twenty.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields, dump_object, parse_object

SCHEMA_BYTES_MAX = 1_048_576
SCHEMA_FORMAT = 1
FEATURES_MAX = 4_096
WIDTH_MAX = 1_048_576
CLASSES_MAX = 4_096
CLASS_CHARS_MAX = 1_024
INPUT_NAME = "features"

_EnumT = TypeVar("_EnumT", bound=StrEnum)


class Task(StrEnum):
    """What the model answers."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


class Role(StrEnum):
    """What an output tensor means."""

    LABEL = "label"
    """int64 [rows]: index into ``classes``."""
    PROBABILITIES = "probabilities"
    """float32 [rows, classes]."""
    VALUE = "value"
    """float32 [rows]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One declared feature: a number or a small array of numbers.

    Attributes:
        name: As in the spec; its columns are ``name`` or ``name_0`` and up.
        dtype: ``float32`` or ``int64`` as declared; both travel as float32.
        shape: () for a number, else its dimensions; columns are in row-major order.
        low: Smallest allowed value, None when unlimited.
        high: Largest allowed value, None when unlimited.
        unit: For people.
    """

    name: str
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None
    unit: str = ""

    @property
    def width(self) -> int:
        """Columns this feature takes in the packed tensor."""
        width = 1
        for size in self.shape:
            width *= size
        return width

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names in tables and in the packed tensor.

        >>> Feature(name="pixels", shape=(1, 2)).columns
        ('pixels_0', 'pixels_1')
        """
        if not self.shape:
            return (self.name,)
        return tuple(f"{self.name}_{n}" for n in range(self.width))


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output tensor of the graph."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSchema:
    """Inputs and outputs of one package.

    Attributes:
        model: Model name.
        task: Classification or regression.
        features: In the order of the packed tensor.
        outputs: In the order of the graph.
        classes: Names of the classes by label index, as text; empty for a regression.
    """

    model: str
    task: Task
    features: tuple[Feature, ...]
    outputs: tuple[Output, ...]
    classes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Columns of the packed input tensor."""
        return sum(feature.width for feature in self.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names of the packed input tensor, in order."""
        return tuple(c for feature in self.features for c in feature.columns)

    def encode(self) -> bytes:
        """Encode as JSON; the same schema always gives the same bytes."""
        return dump_object(
            {
                "format": SCHEMA_FORMAT,
                "model": self.model,
                "task": str(self.task),
                "input": INPUT_NAME,
                "features": [_feature_to_json(f) for f in self.features],
                "outputs": [{"name": o.name, "role": str(o.role)} for o in self.outputs],
                "classes": list(self.classes),
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "ModelSchema":
        """Decode; raises ContractError."""
        what = "schema.json"
        fields = Fields(parse_object(payload, what=what, limit_bytes=SCHEMA_BYTES_MAX), what=what)
        if fields.integer("format") != SCHEMA_FORMAT or fields.text("input") != INPUT_NAME:
            raise MalformedError(f"{what}: needs format {SCHEMA_FORMAT} and input {INPUT_NAME!r}")
        schema = cls(
            model=fields.text("model"),
            task=_member(Task, fields.text("task"), what),
            features=fields.items("features", _feature_from_json, items_max=FEATURES_MAX),
            outputs=fields.items("outputs", _output_from_json, items_max=8),
            classes=fields.items("classes", _class_name, items_max=CLASSES_MAX),
        )
        if not 1 <= schema.width <= WIDTH_MAX:
            raise MalformedError(f"{what}: {schema.width} columns, must be 1 to {WIDTH_MAX}")
        return schema


def _feature_to_json(feature: Feature) -> dict[str, Any]:
    return {
        "name": feature.name,
        "dtype": feature.dtype,
        "shape": list(feature.shape),
        "low": feature.low,
        "high": feature.high,
        "unit": feature.unit,
    }


def _feature_from_json(value: Any) -> Feature:
    fields = Fields(value, what="schema.json feature")
    low, high = fields.optional("low"), fields.optional("high")
    for bound in (low, high):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float)):
            raise MalformedError(f"schema.json feature: bound {bound!r} is not a number")
    return Feature(
        name=fields.text("name", chars_max=128),
        dtype=fields.text("dtype", "float32", chars_max=16),
        shape=fields.items("shape", _dimension, (), items_max=4),
        low=low,
        high=high,
        unit=fields.text("unit", ""),
    )


def _class_name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > CLASS_CHARS_MAX:
        raise MalformedError(
            f"schema.json: class {str(value)[:80]!r} is not text of at most {CLASS_CHARS_MAX}"
        )
    return value


def _dimension(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= WIDTH_MAX:
        raise MalformedError(f"schema.json feature: dimension {value!r} is not 1 to {WIDTH_MAX}")
    return value


def _output_from_json(value: Any) -> Output:
    fields = Fields(value, what="schema.json output")
    return Output(
        name=fields.text("name", chars_max=128),
        role=_member(Role, fields.text("role"), "schema.json output"),
    )


def _member(kind: type[_EnumT], text: str, what: str) -> _EnumT:
    try:
        return kind(text)
    except ValueError as error:
        raise MalformedError(f"{what}: {text[:40]!r} is not one of {list(kind)}") from error
