"""``schema.json`` of a package: ordered, named, typed inputs and outputs.

All features travel packed in one float32 tensor (``features``, shape [rows, width]) in the order
of the features: one tensor costs the device a fraction of twenty. A category travels as its index
in the schema's list, a boolean as 0 or 1, a missing value as NaN, a category that is not listed
as -1, a text as its length and code points (``contract/texts.py``). A schema with an image takes
pictures instead (``contract/image.py``).

Format 1 has plain numbers only; whatever older code would misread makes it a later format, which
that code refuses.
"""

import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.image import IMAGE_INPUT, ImageInput
from edge_agent.contract.outputs import (
    CLASS_CHARS_MAX,
    NamedLabel,
    Output,
    Role,
    output_from_json,
    output_to_json,
    read_class,
    read_member,
)

__all__ = [
    "CATEGORIES_MAX",
    "CATEGORY_CHARS_MAX",
    "CLASSES_MAX",
    "CLASS_CHARS_MAX",
    "FEATURES_MAX",
    "INPUT_NAME",
    "SCHEMA_BYTES_MAX",
    "SCHEMA_FORMAT",
    "SCHEMA_FORMAT_LABELS",
    "SCHEMA_FORMAT_TARGETS",
    "SCHEMA_FORMAT_TEXTS",
    "SCHEMA_FORMAT_TYPED",
    "TEXT_CHARS_MAX",
    "UNKNOWN_CODE",
    "WIDTH_MAX",
    "Dtype",
    "Feature",
    "ModelSchema",
    "NamedLabel",
    "Output",
    "Role",
    "Task",
]

SCHEMA_BYTES_MAX = 1_048_576
SCHEMA_FORMAT = 1
SCHEMA_FORMAT_TYPED = 2
"""Of schemas with categories, booleans, missing values or an image."""
SCHEMA_FORMAT_TARGETS = 3
"""Of schemas whose value has several targets."""
SCHEMA_FORMAT_TEXTS = 4
"""Of schemas with a free text among the features."""
SCHEMA_FORMAT_LABELS = 5
"""Of schemas of several labels, whatever else they have."""
FEATURES_MAX = 4_096
WIDTH_MAX = 1_048_576
CLASSES_MAX = 4_096
CATEGORIES_MAX = 65_536
CATEGORY_CHARS_MAX = 256
TEXT_CHARS_MAX = 8_192
"""Most characters a schema may allow in one text."""
INPUT_NAME = "features"
UNKNOWN_CODE = -1
"""What a category that is not listed travels as."""


class Task(StrEnum):
    """What the model answers."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


class Dtype(StrEnum):
    """What a feature is declared as; every kind travels as float32."""

    FLOAT32 = "float32"
    INT64 = "int64"
    BOOL = "bool"
    """Travels as 0 or 1."""
    CATEGORY = "category"
    """Travels as the index of its text in ``categories``."""
    TEXT = "text"
    """Travels as its length, then its code points, ``chars_max`` of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One declared feature: a number, a boolean, a category, a text, or an array of numbers.

    Attributes:
        name: As in the spec; its columns are ``name`` or ``name_0`` and up.
        dtype: A ``Dtype``, as declared; all travel as float32.
        shape: () for one value, else the dimensions of numbers; columns are in row-major order.
        low: Smallest allowed number, None when unlimited.
        high: Largest allowed number, None when unlimited.
        unit: For people.
        categories: Texts of a category by index; empty for the other kinds.
        is_nullable: Whether a value may be missing (NaN); a missing text reads as an empty one.
        is_open: Whether a category may be one that is not listed.
        chars_max: Most characters (code points) of a text; 0 for the other kinds.
    """

    name: str
    dtype: str = Dtype.FLOAT32
    shape: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None
    unit: str = ""
    categories: tuple[str, ...] = ()
    is_nullable: bool = False
    is_open: bool = False
    chars_max: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in list(Dtype):
            raise MalformedError(
                f"feature {self.name!r}: type {self.dtype[:40]!r} is not one of {list(Dtype)};"
                " a later version may know it"
            )
        is_category = self.dtype == Dtype.CATEGORY
        if is_category and not 1 <= len(self.categories) <= CATEGORIES_MAX:
            raise MalformedError(
                f"feature {self.name!r}: {len(self.categories)} categories, must be 1 to"
                f" {CATEGORIES_MAX}"
            )
        if len(set(self.categories)) != len(self.categories):
            raise MalformedError(f"feature {self.name!r}: a category is listed twice")
        if not is_category and (self.categories or self.is_open):
            raise MalformedError(f"feature {self.name!r}: only a category lists categories")
        has_numbers = self.dtype in (Dtype.FLOAT32, Dtype.INT64)
        if not has_numbers and (self.shape or self.low is not None or self.high is not None):
            raise MalformedError(f"feature {self.name!r}: a {self.dtype} has no shape and no range")
        if self.is_text and not 1 <= self.chars_max <= TEXT_CHARS_MAX:
            raise MalformedError(
                f"feature {self.name!r}: a text of at most {self.chars_max} characters, must be 1"
                f" to {TEXT_CHARS_MAX}"
            )
        if not self.is_text and self.chars_max:
            raise MalformedError(f"feature {self.name!r}: only a text has chars_max")

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers by themselves."""
        return self.dtype in (Dtype.FLOAT32, Dtype.INT64)

    @property
    def is_text(self) -> bool:
        """Whether it is free text."""
        return self.dtype == Dtype.TEXT

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Smallest and largest value in the packed tensor, None when unlimited.

        >>> Feature(name="hue", dtype="category", categories=("red", "blue"), is_open=True).bounds
        (-1, 1)
        """
        if self.dtype == Dtype.BOOL:
            return 0, 1
        if self.dtype == Dtype.CATEGORY:
            return (UNKNOWN_CODE if self.is_open else 0), len(self.categories) - 1
        if self.is_text:
            return 0, sys.maxunicode
        return self.low, self.high

    @property
    def width(self) -> int:
        """Columns this feature takes in the packed tensor."""
        if self.is_text:
            return 1 + self.chars_max
        width = 1
        for size in self.shape:
            width *= size
        return width

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names in the packed tensor; those in tables but for a text.

        >>> Feature(name="pixels", shape=(1, 2)).columns
        ('pixels_0', 'pixels_1')
        >>> Feature(name="note", dtype="text", chars_max=2).columns
        ('note.length', 'note.0', 'note.1')
        """
        if self.is_text:
            return f"{self.name}.length", *(f"{self.name}.{n}" for n in range(self.chars_max))
        if not self.shape:
            return (self.name,)
        return tuple(f"{self.name}_{n}" for n in range(self.width))

    @property
    def table_columns(self) -> tuple[str, ...]:
        """Column names in tables: a text is one cell."""
        return (self.name,) if self.is_text else self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSchema:
    """Inputs and outputs of one package.

    Attributes:
        model: Model name.
        task: Classification or regression.
        features: In the order of the packed tensor.
        outputs: In the order of the graph.
        classes: Names of the classes by label index, as text; empty for a regression, and where
            several labels have their own.
        image: The picture the model takes instead of the packed tensor; the features are then
            the figures of the picture that telemetry watches, which the graph answers.
    """

    model: str
    task: Task
    features: tuple[Feature, ...]
    outputs: tuple[Output, ...]
    classes: tuple[str, ...] = ()
    image: ImageInput | None = None

    def __post_init__(self) -> None:
        if self.labels and (self.classes or self.task is not Task.CLASSIFICATION):
            raise MalformedError(
                f"schema.json: a {self.task} of {len(self.labels)} labels names"
                f" {len(self.classes)} classes; several labels are of a classification, and each"
                " has classes of its own"
            )

    @property
    def width(self) -> int:
        """Columns of the packed input tensor."""
        return sum(feature.width for feature in self.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names of the packed input tensor, in order."""
        return tuple(c for feature in self.features for c in feature.columns)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the values a row is answered with; empty where it is one, or a label."""
        return next((output.targets for output in self.outputs if output.targets), ())

    @property
    def labels(self) -> tuple[NamedLabel, ...]:
        """The labels a row is answered with; empty where it is one, or a value."""
        return next((output.labels for output in self.outputs if output.labels), ())

    @property
    def answer_names(self) -> tuple[str, ...]:
        """Names of a row's several targets or labels; empty where it has one answer."""
        return self.targets or tuple(label.name for label in self.labels)

    @property
    def probability_columns(self) -> int:
        """Columns of the probabilities; 0 for a regression."""
        return len(self.classes) or sum(len(label.classes) for label in self.labels)

    @property
    def is_numeric(self) -> bool:
        """Whether every feature is a number that is always there: what format 1 can say."""
        return self.image is None and all(f.is_number and not f.is_nullable for f in self.features)

    @property
    def texts(self) -> tuple[Feature, ...]:
        """The features that are free text, in the order of the packed tensor."""
        return tuple(feature for feature in self.features if feature.is_text)

    @property
    def input_name(self) -> str:
        """Name of the graph's only input."""
        return INPUT_NAME if self.image is None else IMAGE_INPUT

    @property
    def _format(self) -> int:
        if self.labels:
            return SCHEMA_FORMAT_LABELS
        if self.texts:
            return SCHEMA_FORMAT_TEXTS
        if self.targets:
            return SCHEMA_FORMAT_TARGETS
        return SCHEMA_FORMAT if self.is_numeric else SCHEMA_FORMAT_TYPED

    def encode(self) -> bytes:
        """Encode as JSON; the same schema always gives the same bytes."""
        fields: dict[str, Any] = {
            "format": self._format,
            "model": self.model,
            "task": str(self.task),
            "input": self.input_name,
            "features": [_feature_to_json(f) for f in self.features],
            "outputs": [output_to_json(o) for o in self.outputs],
            "classes": list(self.classes),
        }
        if self.image is not None:
            fields["image"] = self.image.to_json()
        return dump_object(fields)

    @classmethod
    def decode(cls, payload: bytes) -> "ModelSchema":
        """Decode; raises ContractError."""
        what = "schema.json"
        fields = Fields(parse_object(payload, what=what, limit_bytes=SCHEMA_BYTES_MAX), what=what)
        if not SCHEMA_FORMAT <= fields.integer("format") <= SCHEMA_FORMAT_LABELS:
            raise MalformedError(
                f"{what}: needs format {SCHEMA_FORMAT} to {SCHEMA_FORMAT_LABELS}; upgrade what"
                " reads it"
            )
        image = fields.optional("image")
        schema = cls(
            model=fields.text("model"),
            task=read_member(Task, fields.text("task"), what),
            features=fields.items("features", _feature_from_json, items_max=FEATURES_MAX),
            outputs=fields.items("outputs", output_from_json, items_max=8),
            classes=fields.items("classes", read_class, items_max=CLASSES_MAX),
            image=None if image is None else ImageInput.from_json(image),
        )
        if fields.text("input") != schema.input_name:
            raise MalformedError(f"{what}: needs input {schema.input_name!r}")
        if not 1 <= schema.width <= WIDTH_MAX:
            raise MalformedError(f"{what}: {schema.width} columns, must be 1 to {WIDTH_MAX}")
        return schema


def _feature_to_json(feature: Feature) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": feature.name,
        "dtype": str(feature.dtype),
        "shape": list(feature.shape),
        "low": feature.low,
        "high": feature.high,
        "unit": feature.unit,
    }
    if feature.categories:
        fields["categories"] = list(feature.categories)
    if feature.is_nullable:
        fields["missing"] = True
    if feature.is_open:
        fields["unknown"] = True
    if feature.chars_max:
        fields["chars_max"] = feature.chars_max
    return fields


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
        categories=fields.items("categories", _category, (), items_max=CATEGORIES_MAX),
        is_nullable=fields.flag("missing", default=False),
        is_open=fields.flag("unknown", default=False),
        chars_max=fields.integer("chars_max", 0),
    )


def _category(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= CATEGORY_CHARS_MAX:
        raise MalformedError(
            f"schema.json feature: category {str(value)[:80]!r} is not text of 1 to"
            f" {CATEGORY_CHARS_MAX} characters"
        )
    return value


def _dimension(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= WIDTH_MAX:
        raise MalformedError(f"schema.json feature: dimension {value!r} is not 1 to {WIDTH_MAX}")
    return value
