"""Convert an estimator of several labels: part by part, put together, and compared as a whole."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from converters.attempts import PLAIN, Way, convert_in_turn, with_repairs
from converters.errors import InvalidRequestError, UnsupportedEstimatorError
from converters.label_interface import LabelTensors, join_labels, make_column, take_labels
from converters.merge_graphs import merge_graphs
from converters.several_labels import LabelPart, PartKind
from converters.source import Conversion, SourceModel, Try
from device_profiles.profile import DeviceProfile
from edge_agent.contract.outputs import LABELS_MAX, NamedLabel
from edge_agent.contract.schema import ModelSchema, Output, Role, Task

Array = NDArray[Any]


PartSource = Callable[[Any, ModelSchema], SourceModel]
"""Makes of a part's estimator, and a schema for it, what converts it."""


def check_labels(
    name: str, classes: Sequence[Array], labels: Sequence[NamedLabel], *, has_shares: bool
) -> None:
    """Check that a schema names the labels of an estimator, as many classes each, in its order.

    Raises:
        UnsupportedEstimatorError: It answers other labels, or tells labels alone undeclared.
        InvalidRequestError: The classes of a label differ.
    """
    if not classes:
        raise UnsupportedEstimatorError(
            name,
            f"it answers one label a row, or several in a way of its own; the schema has"
            f" {len(labels)}",
            f"Train one for each label: MultiOutputClassifier({name}(...)).",
        )
    if len(classes) != len(labels):
        raise UnsupportedEstimatorError(
            name,
            f"it answers {len(classes)} labels a row, the schema has {len(labels)}",
            f"Name as many (2 to {LABELS_MAX}) as labels of the schema's label, in its order."
            if len(classes) <= LABELS_MAX
            else f"A package answers at most {LABELS_MAX}: train several models.",
        )
    for own, label in zip(classes, labels, strict=True):
        texts = [str(value) for value in own.tolist()]
        if len(texts) != len(label.classes):
            raise InvalidRequestError(
                f"label {label.name!r} of the model has {len(texts)} classes, of the schema"
                f" {len(label.classes)}"
            )
        is_indexed = texts == [str(n) for n in range(len(texts))]
        is_other_order = sorted(texts) == sorted(label.classes) and texts != list(label.classes)
        if not is_indexed and is_other_order:
            raise InvalidRequestError(
                f"the schema names the classes of label {label.name!r} in another order than the"
                f" model: {texts[:10]}"
            )
        if label.is_label_only is has_shares:
            raise UnsupportedEstimatorError(
                name,
                f"it has predict_proba, and the schema declares label {label.name!r} alone"
                if has_shares
                else f"it has no predict_proba, and the schema has probabilities of {label.name!r}",
                "Leave is_label_only out of the schema."
                if has_shares
                else "Calibrate its classifiers (CalibratedClassifierCV), or declare that it tells"
                " labels alone (is_label_only of the schema's labels).",
            )


def convert_parts(
    parts: Sequence[LabelPart],
    make_source: PartSource,
    schema: ModelSchema,
    profile: DeviceProfile,
    rows: Array | None,
    truth: Callable[[Array], Mapping[str, Array]],
) -> Conversion:
    """Convert every part by itself, and compare what they are together with the whole.

    Raises:
        ConversionError: A part has no faithful graph.
    """
    done = [_convert_part(part, make_source, schema, profile, rows) for part in parts]

    def together() -> ModelProto:
        return _join(parts, [one.model for one in done], schema.labels)

    whole = convert_in_turn([Way(name=PLAIN, make=together)], schema, profile, rows, truth)
    tries = [
        Try(**{**_fields(one), "way": f"{_say(part, schema.labels)}: {one.way}"})
        for part, conversion in zip(parts, done, strict=True)
        for one in conversion.tries
        if not one.is_exact
    ]
    whole = Conversion(model=whole.model, repairs=whole.repairs, tries=(*tries, *whole.tries))
    return with_repairs(whole, _join_repairs(parts, done, schema.labels))


def part_schema(part: LabelPart, schema: ModelSchema) -> ModelSchema:
    """Give the schema a part is converted by."""
    labels = [schema.labels[place] for place in part.labels]
    if part.kind is PartKind.LABEL:
        (label,) = labels
        return ModelSchema(
            model=schema.model,
            task=Task.CLASSIFICATION,
            features=schema.features,
            outputs=(
                Output(name="label", role=Role.LABEL),
                Output(
                    name="probabilities",
                    role=Role.PROBABILITIES,
                    is_label_only=label.is_label_only,
                ),
            ),
            classes=label.classes,
        )
    count = len(labels)
    if part.kind is PartKind.SHARES:
        count = sum(len(label.classes) for label in labels)
    targets = tuple(str(n) for n in range(count)) if count > 1 else ()
    return ModelSchema(
        model=schema.model,
        task=Task.REGRESSION,
        features=schema.features,
        outputs=(Output(name="value", role=Role.VALUE, targets=targets),),
    )


def _convert_part(
    part: LabelPart,
    make_source: PartSource,
    schema: ModelSchema,
    profile: DeviceProfile,
    rows: Array | None,
) -> Conversion:
    own = part_schema(part, schema)
    try:
        return make_source(part.estimator, own).convert(own, profile, rows)
    except UnsupportedEstimatorError as error:
        if len(part.labels) > 1:
            raise
        label = schema.labels[part.labels[0]].name
        raise UnsupportedEstimatorError(
            error.estimator, f"{error.reason} (label {label!r})", error.advice
        ) from error


def _join(
    parts: Sequence[LabelPart], models: Sequence[ModelProto], labels: Sequence[NamedLabel]
) -> ModelProto:
    merged, outputs = merge_graphs(models)
    taken: dict[int, LabelTensors] = {}
    for part, names in zip(parts, outputs, strict=True):
        if part.kind is PartKind.LABEL:
            label, probabilities = names
            taken[part.labels[0]] = LabelTensors(make_column(merged, label), probabilities)
            continue
        own = [labels[place] for place in part.labels]
        is_positive = part.kind is PartKind.POSITIVE
        found = take_labels(merged, names[0], own, is_positive=is_positive)
        taken |= dict(zip(part.labels, found, strict=True))
    join_labels(merged, [taken[place] for place in range(len(labels))], labels)
    return merged


def _join_repairs(
    parts: Sequence[LabelPart], done: Sequence[Conversion], labels: Sequence[NamedLabel]
) -> list[str]:
    """Give every repair once, with the labels it was made for where it was not for all."""
    made: dict[str, list[int]] = {}
    for part, conversion in zip(parts, done, strict=True):
        for repair in conversion.repairs:
            made.setdefault(repair, []).extend(part.labels)
    return [
        repair
        if len(set(places)) == len(labels)
        else f"{repair} (label {', '.join(labels[n].name for n in dict.fromkeys(places))})"
        for repair, places in made.items()
    ]


def _say(part: LabelPart, labels: Sequence[NamedLabel]) -> str:
    return f"label {', '.join(labels[place].name for place in part.labels)}"


def _fields(one: Try) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Try.__dataclass_fields__}


def find_wrong(given: Array, indexes: Array, labels: Sequence[NamedLabel]) -> None:
    """Refuse labels that the model was not trained on, where an index is -1.

    Raises:
        InvalidRequestError: Names the first such label with its values.
    """
    for place, label in enumerate(labels):
        unknown = indexes[:, place] < 0
        if np.any(unknown):
            strange = np.unique(np.asarray(given)[unknown, place])[:3].tolist()
            raise InvalidRequestError(
                f"label {label.name!r}: {strange} were not among the classes the model was"
                f" trained on: {list(label.classes[:10])}"
            )
