"""Turn files into a build request: what ``edge-convert`` does before it builds.

Without a schema file the columns of the table are the features and the estimator's classes the
classes. Without held-out rows every figure comes from 30 % of the table, drawn with a fixed seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.answers import find_classes, find_last_step
from converters.errors import InvalidRequestError
from converters.foreign_forms import straighten
from converters.from_file import FileKind, ForeignModel, describe_model, find_kind
from converters.from_onnx import OnnxSource
from converters.graph import parse_foreign, tensor_shape, tensor_type
from converters.label_requests import (
    find_originals,
    labels_of_table,
    labels_schema,
    name_labels,
    read_labels,
)
from converters.named_columns import check_order
from converters.request import BuildRequest
from converters.source_files import (
    is_graph,
    is_package,
    load_estimator,
    load_package,
    read_file,
)
from converters.table_schema import (
    infer_features,
    list_categories,
    list_texts,
    wrap_table_model,
)
from converters.tables import Table, read_table
from device_profiles.profile import DeviceProfile
from edge_agent.contract.errors import ContractError
from edge_agent.contract.outputs import TARGETS_MAX
from edge_agent.contract.package import MODEL, SCHEMA
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task

Array = NDArray[Any]
HOLDOUT_SHARE = 0.3
_SEED = 0
_INT64 = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A source model read from a file, with the schema it is to have.

    Attributes:
        model: Estimator, or a ``ForeignModel``.
        schema: Given, or made from the table.
        labels: What the source calls its classes; empty for a regression; of several labels a
            tuple for each.
    """

    model: Any
    schema: ModelSchema
    labels: tuple[Any, ...]


def read_schema(path: Path) -> ModelSchema:
    """Read a ``schema.json``.

    Raises:
        InvalidRequestError: Not a schema.
    """
    try:
        return ModelSchema.decode(read_file(path))
    except ContractError as error:
        raise InvalidRequestError(f"{path.name}: {error}") from error


def open_source(
    path: Path,
    table: Table,
    *,
    target: str | None,
    name: str,
    schema: ModelSchema | None,
    profile: DeviceProfile,
    is_of_labels: bool = False,
) -> FileSource:
    """Read a source model.

    Args:
        path: A ``.skops``, ``.onnx``, ``.pt2``, ``.lgb``, ``.ubj``, ``.json`` or package file.
        table: Its columns but the target are the features when no schema is given.
        target: Column of the true answers, if the table has one; several as ``find_targets``.
        name: Model name of a made schema.
        schema: What the source takes and answers; None makes one.
        profile: An ONNX source runs with its threads.
        is_of_labels: Whether several targets of a graph or network are labels, not numbers; their
            classes are then those of the columns. An estimator says so itself.
    """
    targets = find_targets(table, target)
    columns = [column for column in table.columns if column not in targets]
    several = targets if len(targets) > 1 else ()
    if schema is None and is_of_labels and several:
        features = tuple(Feature(name=column) for column in columns)
        schema = labels_schema(name, features, labels_of_table(table, several))
    if is_package(path):
        members = load_package(path)
        own = ModelSchema.decode(members[SCHEMA])
        return _graph_source(members[MODEL], schema or own, profile)
    if is_graph(path):
        content = read_file(path)
        made = schema or _schema_of_graph(content, columns, name, several)
        return _graph_source(content, made, profile)
    kind = find_kind(path)
    if kind is not None:
        given = schema, several
        return _file_source(read_file(path), kind, columns, name, *given, profile)
    estimator = load_estimator(path)
    named = name_labels(estimator, targets if schema is None else schema.answer_names)
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        columns = [str(column) for column in names]
    width = int(getattr(estimator, "n_features_in_", len(columns)))
    is_there = set(targets) <= set(table.columns)
    if schema is None and is_there and len(columns) != width:
        raise InvalidRequestError(
            f"the model was trained on {width} columns, {table.name} has {len(columns)} besides the"
            " target"
        )
    classes = None if named else find_classes(find_last_step(estimator))
    labels = find_originals(estimator) if classes is None else tuple(classes.tolist())
    kinds = list_texts(estimator, columns), list_categories(estimator, columns)
    features = infer_features(table, columns, *kinds) if not schema else ()
    made = schema or (
        labels_schema(name, features, named)
        if named
        else schema_of(
            name,
            features,
            [str(label) for label in labels],
            is_label_only=bool(labels) and not hasattr(estimator, "predict_proba"),
            targets=several,
        )
    )
    model, made = wrap_table_model(estimator, made, is_schema_given=schema is not None)
    if not named and len(made.classes) != len(labels):
        raise InvalidRequestError(
            f"{path.name} tells {len(labels)} classes apart, the schema {len(made.classes)}"
        )
    return FileSource(model=model, schema=made, labels=labels)


def read_request(
    source: FileSource,
    table: Table,
    holdout_path: Path | None,
    *,
    target: str,
    **settings: Any,
) -> BuildRequest:
    """Take rows and answers from tables.

    Args:
        source: The source model.
        table: Training rows; a part is held out when there is no other file.
        holdout_path: Held-out rows.
        target: Column of the true answers; several as ``find_targets``.
        settings: Further attributes of the request.
    """
    features = source.schema.features
    answers, rows = _read_targets(source, table, target), table.read_packed(features)
    if holdout_path is None:
        kept, held = split_rows(len(rows), table.name)
        calibration, holdout, targets = rows[kept], rows[held], answers[held]
    else:
        other = read_table(holdout_path)
        calibration, holdout = rows, other.read_packed(features)
        targets = _read_targets(source, other, target)
    return BuildRequest(
        estimator=source.model,
        schema=source.schema,
        calibration=calibration,
        holdout=holdout,
        holdout_targets=targets,
        **settings,
    )


def split_rows(count: int, name: str) -> tuple[Array, Array]:
    """Draw the rows to hold out, with a fixed seed; gives the places kept and those held out.

    Raises:
        InvalidRequestError: There are too few.
    """
    order = np.random.default_rng(_SEED).permutation(count)
    cut = max(1, round(HOLDOUT_SHARE * count))
    if cut == count:
        raise InvalidRequestError(f"{name} has too few rows to hold some out")
    return np.sort(order[cut:]), np.sort(order[:cut])


def _graph_source(content: bytes, schema: ModelSchema, profile: DeviceProfile) -> FileSource:
    return FileSource(
        model=OnnxSource(content, schema, profile),
        schema=schema,
        labels=_indexes(schema),
    )


def _indexes(schema: ModelSchema) -> tuple[Any, ...]:
    """Give the classes of a source that calls them by their index."""
    each = tuple(tuple(range(len(label.classes))) for label in schema.labels)
    return each or tuple(range(len(schema.classes)))


def _file_source(
    content: bytes,
    kind: FileKind,
    columns: Sequence[str],
    name: str,
    schema: ModelSchema | None,
    targets: tuple[str, ...],
    profile: DeviceProfile,
) -> FileSource:
    """Give a booster or exported program; a child tells what it takes and answers."""
    facts = describe_model(content, kind)
    names = list(facts.columns or columns)
    if len(names) != facts.width:
        raise InvalidRequestError(
            f"the model takes {facts.width} columns, the table has {len(names)} besides the target"
        )
    features = tuple(Feature(name=column) for column in names)
    classes = () if targets else range(facts.classes)
    made = schema or schema_of(name, features, [str(n) for n in classes], targets=targets)
    check_order(names, made)
    return FileSource(
        model=ForeignModel(content, made, profile, kind=kind),
        schema=made,
        labels=_indexes(made),
    )


def _read_targets(source: FileSource, table: Table, target: str) -> Array:
    """Give answers as the source says them; class names of the schema are understood too."""
    columns = find_targets(table, target)
    if source.schema.labels:
        return read_labels(table, columns, source.schema.labels, source.labels)
    wanted = source.schema.targets
    if wanted:
        if columns != wanted:
            raise InvalidRequestError(
                f"--target names {', '.join(columns)}; the model's targets are {', '.join(wanted)},"
                " in this order"
            )
        return table.read_numbers(columns)
    if len(columns) > 1:
        raise InvalidRequestError(
            f"--target names {len(columns)} columns, the model answers one of a row"
        )
    if source.schema.task is Task.REGRESSION:
        return table.read_numbers([target])[:, 0]
    known: dict[str, Any] = dict(zip(source.schema.classes, source.labels, strict=False))
    known |= {str(label): label for label in source.labels}
    cells = [str(cell).strip() for cell in table.read_values(target)]
    strange = sorted(set(cells) - set(known))
    if strange:
        raise InvalidRequestError(
            f"{table.name} column {target!r} holds {strange[0][:40]!r}, which is no class of the"
            f" model: {', '.join(list(known)[:10])}"
        )
    return np.array([known[cell] for cell in cells])


def find_targets(table: Table, target: str | None) -> tuple[str, ...]:
    """Give the columns of the true answers: one as it is named, or several between commas.

    Raises:
        InvalidRequestError: One of several is no column, or named twice, or there are too many.
    """
    if not target:
        return ()
    if target in table.columns or "," not in target:
        return (target,)
    names = tuple(name.strip() for name in target.split(","))
    strange = next((name for name in names if name not in table.columns), None)
    if strange is not None:
        raise InvalidRequestError(
            f"{table.name} has no column {strange[:80]!r}, which --target names;"
            f" it has {', '.join(list(table.columns)[:10])}"
        )
    if len(set(names)) < len(names) or len(names) > TARGETS_MAX:
        raise InvalidRequestError(
            f"--target names {len(names)} columns, {len(set(names))} different ones; a model"
            f" answers at most {TARGETS_MAX}, each named once"
        )
    return names


def schema_of(
    name: str,
    features: tuple[Feature, ...],
    classes: Sequence[str],
    *,
    is_label_only: bool = False,
    targets: tuple[str, ...] = (),
) -> ModelSchema:
    """Make a schema: a classification when there are classes, else a regression.

    Raises:
        InvalidRequestError: Classes and several targets.
    """
    if classes and targets:
        raise InvalidRequestError(
            f"the model tells {len(classes)} classes apart and --target names {len(targets)}"
            " columns; a graph or network of several labels needs --labels"
        )
    outputs = (
        (
            Output(name="label", role=Role.LABEL),
            Output(name="probabilities", role=Role.PROBABILITIES, is_label_only=is_label_only),
        )
        if classes
        else (Output(name="value", role=Role.VALUE, targets=targets),)
    )
    return ModelSchema(
        model=name,
        task=Task.CLASSIFICATION if classes else Task.REGRESSION,
        features=features,
        outputs=outputs,
        classes=tuple(classes),
    )


def _schema_of_graph(
    content: bytes, columns: Sequence[str], name: str, targets: tuple[str, ...]
) -> ModelSchema:
    """Read task and number of classes from the outputs of a graph."""
    model = parse_foreign(content, what="the source")
    known, graph = straighten(model), model.graph
    shapes = {output.name: tensor_shape(graph, output.name) for output in graph.output}
    has_labels = any(tensor_type(graph, output) == _INT64 for output in shapes)
    widths = [shape[1] for shape in shapes.values() if len(shape) == 2 and shape[1] is not None]
    classes = max(widths, default=0)
    classes = len(known) if known and classes in (0, len(known)) else classes
    if has_labels and classes < 2:
        raise InvalidRequestError(
            "the graph does not say how many classes it has; give --schema schema.json"
        )
    features = tuple(Feature(name=column) for column in columns)
    is_value = bool(targets) and not has_labels
    indexes = [str(index) for index in range(classes)]
    names = (known if len(known) == classes else indexes) if classes >= 2 and not is_value else []
    return schema_of(name, features, names, targets=targets)
