"""Build the rungs of a ladder: what the profile allows and the request asks for.

A rung that cannot help is not built and says why. Every built rung answers the held-out rows;
``climb.py`` times and measures them together afterwards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from converters.calibration import Calibration
from converters.channel_cuts import compact_channels
from converters.criteria import SAVING_BYTES_MIN
from converters.errors import ConversionError
from converters.graph import parse_model
from converters.half import compute_half, store_half
from converters.int8_weights import CONVOLUTIONS, WEIGHT_BITS, store_int8
from converters.ladder import FP32, LadderLimits, Rung, find_losses
from converters.metrics import PrimaryMetric
from converters.optimise import optimise
from converters.parity import Parity, compare_outputs
from converters.quantize import Quantized, Ranges, find_obstacle, list_quantizable, quantize
from converters.request import BuildRequest, Effort
from converters.rows import Rows
from converters.runtime import GraphRunner, find_batch_rows
from converters.sensitivity import measure_nodes, plan_exclusions
from converters.shown_rows import ShownRows
from device_profiles.profile import Precision
from edge_agent.contract.schema import ModelSchema

Array = NDArray[Any]
STATIC_NAMES = {ranges: f"int8_static_{ranges}" for ranges in Ranges}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """The held-out questions with the source's answers."""

    schema: ModelSchema
    targets: Array
    truth: Mapping[str, Array]
    metric: PrimaryMetric
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltRung:
    """One rung that exists."""

    model: bytes
    runner: GraphRunner
    outputs: Mapping[str, Array]
    parity: Parity


@dataclass(slots=True, kw_only=True)
class Workshop:
    """What the rungs are built from, and those built so far.

    Attributes:
        request: What was asked for.
        rows: Checked rows.
        exam: The held-out questions.
        calibration: Rows that give int8 its ranges.
        limits: What must hold.
        rungs: In the order of the ladder; not yet timed.
        built: Those that exist, by name.
    """

    request: BuildRequest
    rows: Rows
    exam: Exam
    calibration: Calibration
    limits: LadderLimits
    rungs: list[Rung] = field(default_factory=list)
    built: dict[str, BuiltRung] = field(default_factory=dict)

    def add(
        self,
        name: str,
        precision: Precision,
        model: bytes | None,
        *,
        note: str = "",
        settings: Mapping[str, Any] | None = None,
        is_same_function: bool = False,
    ) -> Rung:
        """Examine a graph and put it on the ladder; one that fails is noted there."""
        if model is not None:
            twin = next((n for n, one in self.built.items() if one.model == model), "")
            if twin:
                model, note = None, f"the same graph as {twin}"
        rung = Rung(
            name=name,
            precision=precision,
            note=note,
            settings=settings or {},
            is_same_function=is_same_function,
        )
        if model is not None:
            try:
                one = self.examine(model)
            except ConversionError as error:
                rung = Rung(name=name, precision=precision, note=str(error)[:400])
            else:
                self.built[name] = one
                rung = self.judge(rung, one)
        self.rungs.append(rung)
        return rung

    def examine(self, model: bytes) -> BuiltRung:
        """Load a graph and let it answer the held-out rows.

        Raises:
            RuntimeRefusedError: It does not load or run.
        """
        runner = GraphRunner(model, self.request.profile)
        batch_rows = find_batch_rows(self.exam.schema)
        outputs = runner.run(self.rows.holdout, batch_rows=batch_rows)
        shown = ShownRows(self.exam.schema, self.rows.holdout)
        parity = compare_outputs(
            self.exam.schema.task,
            self.exam.truth,
            outputs,
            rows=shown,
            columns=shown.columns,
            targets=self.exam.schema.targets,
            labels=self.exam.schema.labels,
        )
        return BuiltRung(model=model, runner=runner, outputs=outputs, parity=parity)

    def judge(self, rung: Rung, one: BuiltRung) -> Rung:
        """Give a rung with what its answers are worth; time and memory are measured later."""
        score = float(self.exam.metric.score(self.exam.targets, one.outputs))
        return Rung(
            name=rung.name,
            precision=rung.precision,
            is_same_function=rung.is_same_function,
            settings=rung.settings,
            model_bytes=len(one.model),
            flip_share=one.parity.flip_share,
            rows_off_share=one.parity.rows_off_share,
            max_abs_error=one.parity.max_abs_error,
            error_quantiles=one.parity.error_quantiles,
            metric=score,
            metric_drop=self.exam.metric.drop(self.exam.score, score),
        )

    @property
    def is_full(self) -> bool:
        """Whether every rung is wanted."""
        return self.request.effort is Effort.FULL


def build_base(work: Workshop, fp32: bytes) -> None:
    """Put fp32 on the ladder, and its rewritten form when every rung is wanted.

    Raises:
        RuntimeRefusedError: onnxruntime refuses fp32 itself.
    """
    work.built[FP32] = one = work.examine(fp32)
    base = Rung(name=FP32, precision=Precision.FP32, is_same_function=True)
    work.rungs.append(work.judge(base, one))
    if work.is_full:
        found = optimise(fp32, work.request.profile)
        settings = {"level": found.level}
        if found.foreign:
            settings["left_out"] = ", ".join(found.foreign)
        work.add(
            "fp32_optimised",
            Precision.FP32,
            found.model,
            note=found.note,
            settings=settings,
            is_same_function=True,
        )


def build_compact(work: Workshop, fp32: bytes) -> bytes:
    """Put fp32 without needless channels on the ladder, if it has any.

    Returns:
        What the other rungs are made of: that, or fp32 where it differs by more than rounding.
    """
    made = compact_channels(fp32, work.calibration.rows, work.request.profile)
    if made.model is None:
        return fp32
    dropped = {"unread": made.unread, "silent": made.silent, "copies": made.copies}
    rung = work.add(
        "fp32_compact",
        Precision.FP32,
        made.model,
        settings={"dropped_channels": dropped},
        is_same_function=True,
    )
    return made.model if rung.is_built and not find_losses(rung, work.limits) else fp32


def build_precisions(work: Workshop, fp32: bytes) -> None:
    """Put the other precisions of the profile on the ladder."""
    profile = work.request.profile
    makers: dict[str, tuple[Precision, Callable[[], Quantized]]] = {
        "fp16_weights": (Precision.FP16, lambda: store_half(fp32, profile)),
        "fp16": (Precision.FP16, lambda: _compute_half(work, fp32)),
    }
    for name, (precision, make) in makers.items():
        if precision in profile.precisions:
            made = make()
            work.add(name, precision, made.model, note=made.note)
    for precision in (Precision.INT8_DYNAMIC, Precision.INT8_STATIC):
        if precision not in profile.precisions:
            continue
        if precision is Precision.INT8_DYNAMIC and not _find_size_obstacle(work, fp32):
            stored = store_int8(fp32, profile)
            if stored.model is not None or work.is_full:
                settings = {"bits": WEIGHT_BITS}
                work.add(
                    "int8_weights", precision, stored.model, note=stored.note, settings=settings
                )
        obstacle = _find_int8_obstacle(work, fp32, precision)
        if obstacle:
            work.add(str(precision), precision, None, note=obstacle)
        elif precision is Precision.INT8_DYNAMIC:
            _build_dynamic(work, fp32)
        else:
            _build_static(work, fp32)


def _compute_half(work: Workshop, fp32: bytes) -> Quantized:
    if work.exam.schema.texts:
        return Quantized(model=None, note="fp16 has no room for the code points of a text")
    return compute_half(fp32, work.request.profile)


def _find_int8_obstacle(work: Workshop, fp32: bytes, precision: Precision) -> str:
    obstacle = find_obstacle(parse_model(fp32, what="the fp32 graph"), precision)
    if obstacle:
        return obstacle
    if precision is Precision.INT8_STATIC and len(work.calibration.rows) == 0:
        return "no calibration row is free of missing values"
    return _find_size_obstacle(work, fp32)


def _find_size_obstacle(work: Workshop, fp32: bytes) -> str:
    is_small = len(fp32) < SAVING_BYTES_MIN and len(fp32) <= work.limits.package_bytes_max
    if is_small and not work.is_full:
        return (
            "int8 saves no transfer chunk of so small a graph and is not faster"
            f" (fp32 has {len(fp32):,} bytes and a chunk {SAVING_BYTES_MIN:,})"
        )
    return ""


def _build_dynamic(work: Workshop, fp32: bytes) -> None:
    """Build the dynamic rung; its convolutions compute in float32 with weights stored as int8.

    Their int8 form costs more time than it saves, so it is the transfer alone that gets smaller.
    Where that breaks a limit they keep float32 weights.
    """
    precision, profile = Precision.INT8_DYNAMIC, work.request.profile
    settings: dict[str, Any] = {"bits": _weight_bits(work)}
    made = quantize(fp32, precision, work.calibration.rows, profile)
    model = made.model
    stored = model and store_int8(model, profile, operators=CONVOLUTIONS).model
    if stored and _keeps_limits(work, stored, precision):
        model, settings = stored, settings | {"bits_of_convolutions": WEIGHT_BITS}
    work.add(str(precision), precision, model, note=made.note, settings=settings)


def _keeps_limits(work: Workshop, model: bytes, precision: Precision) -> bool:
    try:
        rung = work.judge(Rung(name="", precision=precision), work.examine(model))
    except ConversionError:
        return False
    return not find_losses(rung, work.limits)


def _build_static(work: Workshop, fp32: bytes) -> None:
    """Build the static variants; when none keeps the limits, leave out the nodes that cost most."""
    variants = list(Ranges) if work.is_full else [Ranges.MINMAX]
    tried: dict[Ranges, Rung] = {}
    for ranges in variants:
        made = quantize(
            fp32,
            Precision.INT8_STATIC,
            work.calibration.rows,
            work.request.profile,
            ranges=ranges,
        )
        rung = work.add(
            STATIC_NAMES[ranges],
            Precision.INT8_STATIC,
            made.model,
            note=made.note,
            settings={"ranges": str(ranges), "bits": _weight_bits(work), **_said(work)},
        )
        if rung.is_built:
            tried[ranges] = rung
    if tried and all(find_losses(rung, work.limits) for rung in tried.values()):
        nearest = min(tried, key=lambda r: (tried[r].flip_share, tried[r].error_quantiles["90"]))
        _exclude_sensitive(work, fp32, nearest)


def _exclude_sensitive(work: Workshop, fp32: bytes, ranges: Ranges) -> None:
    """Quantize without the nodes that cost most, until the limits are kept."""
    name, profile = f"{STATIC_NAMES[ranges]}_mixed", work.request.profile
    rows = work.calibration.rows
    costs = measure_nodes(fp32, work.exam.schema.task, rows, profile, ranges=ranges)
    source = parse_model(fp32, what="the fp32 graph")
    names = [node.name for node in list_quantizable(source, Precision.INT8_STATIC)]
    settings: dict[str, Any] = {
        "ranges": str(ranges),
        "bits": _weight_bits(work),
        "sensitivity": [
            {
                "node": cost.node,
                "operator": cost.operator,
                "flip_share": cost.flip_share,
                "mean_abs_error": cost.mean_abs_error,
            }
            for cost in costs
        ],
    }
    with TemporaryDirectory(prefix="edge-convert-") as directory:
        for kept in plan_exclusions(names, costs):
            made = quantize(
                fp32,
                Precision.INT8_STATIC,
                rows,
                profile,
                ranges=ranges,
                nodes=kept,
                cache=Path(directory) / "ranges.json",
            )
            if made.model is None:
                continue
            rung = work.judge(
                Rung(name=name, precision=Precision.INT8_STATIC), work.examine(made.model)
            )
            if not find_losses(rung, work.limits):
                settings["excluded"] = [one for one in names if one not in kept]
                work.add(name, Precision.INT8_STATIC, made.model, settings=settings)
                return
    work.add(
        name,
        Precision.INT8_STATIC,
        None,
        note=f"no number of excluded nodes keeps the limits ({len(costs)} nodes measured)",
        settings=settings,
    )


def _weight_bits(work: Workshop) -> int:
    return 8 if work.request.profile.int8_full_range else 7


def _said(work: Workshop) -> dict[str, Any]:
    notes = work.calibration.notes
    return {"calibration": list(notes)} if notes else {}
