"""What a build is asked for and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from numpy.typing import NDArray

from converters.errors import InvalidRequestError
from converters.metrics import PrimaryMetric
from device_profiles.compatibility import PackageNeeds
from device_profiles.profile import DeviceProfile, Precision
from edge_agent.contract.schema import ModelSchema

Array = NDArray[Any]


class Effort(StrEnum):
    """How much is tried."""

    BRIEF = "brief"
    """fp32 alone, its memory not measured: for a graph whose like was measured already."""
    QUICK = "quick"
    """fp32, dynamic and one static int8; what cannot help is not built."""
    FULL = "full"
    """Every rung of the ladder."""


class Smaller(StrEnum):
    """Whether another, smaller model of the same family may ship."""

    NO = "no"
    PRUNED = "pruned"
    """Fewer or shallower trees, cut branches, narrower layers; no training."""
    DISTILLED = "distilled"
    """Also a student trained on the source's answers to the training rows."""


class Criterion(StrEnum):
    """What rungs are compared by."""

    ACCURACY = "accuracy"
    LATENCY = "latency"
    SIZE = "size"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileLimits:
    """What a spec asks of the build for one profile; the profile's own limits hold as well.

    Attributes:
        latency_ms_p95_max: 95th percentile of one row, measured on the building machine; None
            leaves the profile's.
        package_bytes_max: Size of the package; None leaves the profile's.
        metric_drop_max: How much worse the primary metric of the shipped graph may be on the
            held-out rows, in the metric's own unit; None allows 1 % of the source's score.
        label_flips_max: Share of held-out rows whose label may differ from the source model;
            None allows 0.02.
        rows_off_max: Share of held-out rows on which the fp32 graph may differ from the source
            model by more than the tolerance, fp32 having to be the same function; None allows
            0.01.
        error_max: Largest difference of a probability or value from the source model on the
            held-out rows, whatever rung ships; None asks for nothing.
    """

    latency_ms_p95_max: float | None = None
    package_bytes_max: int | None = None
    metric_drop_max: float | None = None
    label_flips_max: float | None = None
    rows_off_max: float | None = None
    error_max: float | None = None

    def __post_init__(self) -> None:
        """Check that each limit can be kept at all."""
        for name in ("latency_ms_p95_max", "package_bytes_max", "error_max"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidRequestError(f"{name} must be above 0, got {value}")
        for name in ("label_flips_max", "rows_off_max"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidRequestError(f"{name} is a share from 0 to 1, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementPlan:
    """How long latency is measured.

    Attributes:
        rounds: Every rung is timed once in each; the median over rounds counts.
        round_s: Time one rung may take in one round.
        runs_max: Predictions of one rung in one round, at most.
        front_ms_p50: What comes before every rung and was timed apart: that of a picture on its way
            to the network (``front_timing.py``). Added to what is measured.
        front_ms_p95: Its 95th percentile, which the sum of both is at most.
    """

    rounds: int = 9
    round_s: float = 0.03
    runs_max: int = 300
    front_ms_p50: float = 0.0
    front_ms_p95: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.front_ms_p50 <= self.front_ms_p95:
            raise InvalidRequestError("the front takes 0 ms or more, its p95 no less than its p50")
        if not (3 <= self.rounds <= 1_000 and 0 < self.round_s <= 60 and self.runs_max >= 5):
            raise InvalidRequestError("measure 3 to 1,000 rounds of up to 60 s and 5 runs or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One source model, one profile, one package.

    Attributes:
        estimator: Fitted scikit-learn estimator or pipeline, or an ``OnnxSource``.
        schema: Names and bounds; ``classes`` in the order of the estimator's ``classes_``.
        profile: What it is built for.
        calibration: Training rows [rows, width]; give int8 its ranges and drift its reference.
        holdout: Held-out rows [rows, width] in the type the model was trained on (float32 or
            float64, which scikit-learn then computes in); every figure of the evidence is from
            these.
        holdout_targets: True answers of the held-out rows, as the estimator was trained on them
            (values of its ``classes_``) or class indexes for an ``OnnxSource``.
        limits: What must hold.
        metric: Decides ``metric_drop_max``; None takes accuracy or mean absolute error.
        evidence_context: Stored in evidence.json under ``context``; JSON values only.
        plan: How latency is measured.
        effort: How many rungs are built.
        smaller: Whether another, smaller model may ship.
        prefer: What decides first among rungs within the limits; what is not named follows in the
            order accuracy, latency, size, memory.
    """

    estimator: Any
    schema: ModelSchema
    profile: DeviceProfile
    calibration: Array
    holdout: Array
    holdout_targets: Array
    limits: ProfileLimits = field(default_factory=ProfileLimits)
    metric: PrimaryMetric | None = None
    evidence_context: Mapping[str, Any] = field(default_factory=dict)
    plan: MeasurementPlan = field(default_factory=MeasurementPlan)
    effort: Effort = Effort.QUICK
    smaller: Smaller = Smaller.NO
    prefer: tuple[Criterion, ...] = ()

    @property
    def order(self) -> tuple[Criterion, ...]:
        """Every criterion, the preferred first."""
        return tuple(dict.fromkeys([*self.prefer, *Criterion]))


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPackage:
    """A package that loads, answers its golden rows and keeps every limit.

    Attributes:
        blob: The tar.
        sha256: Of the blob, hex.
        precision: Of the shipped graph.
        evidence: What evidence.json holds.
        latency_ms_p95: Of one row, on the building machine.
        label_flips: Share of held-out rows whose label differs from the source; 0 in a regression.
        max_abs_error: Largest difference of a probability or value on the held-out rows.
        decision: One sentence: which rung and why.
        schema: As given.
        reference: Bytes of reference.json.
        needs: What the package asks of a device.
    """

    blob: bytes
    sha256: str
    precision: Precision
    evidence: Mapping[str, Any]
    latency_ms_p95: float
    label_flips: float
    max_abs_error: float
    decision: str
    schema: ModelSchema
    reference: bytes
    needs: PackageNeeds
