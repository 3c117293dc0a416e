"""A model spec as values: what is trained, from what, how it is judged and for which devices.

``spec_parser`` makes it from the TOML text; a ``Spec`` in hand is sound in itself. What only the
data can tell (a column that does not exist, one class only) is found by ``ingest``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_agent.contract.image import ImageInput
from edge_agent.contract.schema import Feature, ModelSchema, NamedLabel, Output, Role, Task
from fleet_server.training.cnn_settings import CnnSettings
from fleet_server.training.texts import TextTerms

TEST_SHARE_DEFAULT = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessGoal:
    """What the model is for, in the owner's own figure."""

    metric: str
    baseline: float
    target: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    """``[model]``: what it is and whose."""

    name: str
    task: Task
    problem: str
    owner: str = ""
    business: BusinessGoal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSection:
    """Pictures in place of a table's features.

    Attributes:
        image: What the graph does to a picture before the model sees it.
        group: Column of the table of pictures whose rows are on one side of the split; or empty.
        unreadable_share_max: Share of the pictures that may be unreadable and left out.
    """

    image: ImageInput
    group: str = ""
    unreadable_share_max: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSection:
    """``[data]``: the table, or the pictures.

    Attributes:
        path: Of the CSV or Parquet file, or the folder of pictures, as written; relative to the
            spec's folder.
        target: Column with the answer; the first of several.
        features: In the order of the packed tensor; until the data is read, a category may have
            ``categories.LEARNED`` in place of its texts.
        values_max: Of a category, how many texts may be learned.
        texts: Of a text, what is learned of it.
        targets: Columns with the answers where a row has several values or labels; else empty.
        pictures: None where the spec is of a table.
    """

    path: str
    target: str
    features: tuple[Feature, ...]
    values_max: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, TextTerms] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    pictures: PictureSection | None = None

    @property
    def target_columns(self) -> tuple[str, ...]:
        """Every column with an answer."""
        return self.targets or (self.target,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the features, in the order of the packed tensor."""
        return tuple(column for feature in self.features for column in feature.columns)

    @property
    def table_columns(self) -> tuple[str, ...]:
        """Columns of the features in the table, in their order: a text is one."""
        return tuple(column for feature in self.features for column in feature.table_columns)

    @property
    def number_columns(self) -> tuple[str, ...]:
        """Those of them that are read as numbers."""
        return tuple(c for feature in self.features if feature.is_number for c in feature.columns)

    @property
    def word_columns(self) -> tuple[str, ...]:
        """Columns of the table that are read as words: categories, booleans and texts."""
        return tuple(feature.name for feature in self.features if not feature.is_number)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSection:
    """``[split]``: which rows are held out.

    Attributes:
        test: Share of the rows held out, between 0 and 1.
        seed: Part of the row hash that decides the side.
        is_frozen: A row keeps its side in every later version of the model.
    """

    test: float = TEST_SHARE_DEFAULT
    seed: int = 0
    is_frozen: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """One preprocessing step by its dotted name."""

    use: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSection:
    """``[train]``: the estimator, what runs before it, and the seed of both.

    Attributes:
        cnn: What the network is, where the estimator is one.
    """

    estimator: str
    params: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[StepSpec, ...] = ()
    seed: int = 0
    cnn: CnnSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricLimit:
    """Limits of one metric; None where not set.

    Attributes:
        name: A metric of ``metrics.METRICS``.
        floor: Smallest value, for metrics where larger is better.
        ceiling: Largest value, for metrics where smaller is better.
        regression_max: Non-inferiority margin against the champion, in the metric's own unit.
    """

    name: str
    floor: float | None = None
    ceiling: float | None = None
    regression_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileLimit:
    """Limits of one profile beside the profile's own; None where not set.

    Attributes:
        effort: ``quick`` or ``full``: how many builds are tried.
        smaller: ``no``, ``pruned`` or ``distilled``: whether another, smaller model may ship.
        prefer: What decides first among builds within the limits.
    """

    profile: str
    latency_ms_p95_max: float | None = None
    package_bytes_max: int | None = None
    metric_drop_max: float | None = None
    label_flips_max: float | None = None
    rows_off_max: float | None = None
    error_max: float | None = None
    effort: str = "quick"
    smaller: str = "no"
    prefer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySection:
    """``[family]``: one model for each value of a column.

    Attributes:
        partition: Columns whose values name a member.
        rows_min: A member with fewer rows is left out and listed.
        fail_share_max: Share of the members that may fail before the run ends as failed.
        has_fallback: Whether one more member is trained from the rows of all.
    """

    partition: tuple[str, ...]
    rows_min: int
    fail_share_max: float
    has_fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One model spec.

    Attributes:
        text: The file as read, kept with every version.
        primary: The metric the model is named by.
        metrics: In the order of the file.
        profiles: In the order of the file.
        signatures: Approvals needed.
        family: None where the spec is of one model.
    """

    text: str
    model: ModelSection
    data: DataSection
    split: SplitSection
    train: TrainSection
    primary: str
    metrics: tuple[MetricLimit, ...]
    profiles: tuple[ProfileLimit, ...]
    signatures: int = 1
    family: FamilySection | None = None


def make_schema(
    spec: Spec, classes: tuple[str, ...], labels: tuple[NamedLabel, ...] = ()
) -> ModelSchema:
    """Give the schema of every package of this spec.

    Args:
        spec: The spec, its categories settled.
        classes: Names by label index; empty for a regression, and for several labels.
        labels: Where a row has several.
    """
    if spec.model.task is Task.CLASSIFICATION:
        outputs: tuple[Output, ...] = (
            Output(name="label", role=Role.LABEL, labels=labels),
            Output(name="probabilities", role=Role.PROBABILITIES),
        )
    else:
        outputs = (Output(name="value", role=Role.VALUE, targets=spec.data.targets),)
    return ModelSchema(
        model=spec.model.name,
        task=spec.model.task,
        features=spec.data.features,
        outputs=outputs,
        classes=classes,
    )
