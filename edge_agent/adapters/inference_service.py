"""Answer predictions, one model per slot, and let a new model take over without a failed request.

A slot is one reference to a served model. ``activate`` builds the successor completely, then
replaces the reference; a request that already holds the old one finishes on it. The way of a
request takes no lock but the recorder's.

Left out: HTTP (``http_inference_server.py``) and deciding what runs (``edge_agent/agent.py``).
Invariants: a failed ``activate`` changes nothing; at most ROWS_PER_REQUEST_MAX rows a request;
closed windows wait here, bounded, until ``close_due`` has put them into the outbox.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.durable_labels import DurableLabels
from edge_agent.adapters.onnx_model_runner import LoadedModel, RuntimeOptions
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.recent_answers import RecentAnswers
from edge_agent.adapters.row_sampler import RowPool
from edge_agent.adapters.telemetry_recorder import (
    ARTIFACT_BYTES,
    TelemetryRecorder,
    WindowLimits,
)
from edge_agent.adapters.waiting_windows import WaitingWindows
from edge_agent.contract.assignment import SLOTS_MAX, check_target_path
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.schema import INPUT_NAME, ModelSchema, Role
from edge_agent.core.probation import ProbationStats
from edge_agent.errors import (
    InferenceError,
    InputError,
    OutboxError,
    PackageError,
    StoppedModelError,
    UnknownModelError,
)
from edge_agent.ports import Clock

ROWS_PER_REQUEST_MAX = 4_096
_FLOAT32 = np.dtype(np.float32)
_LOG = logging.getLogger(__name__)

LoadPackage = Callable[[bytes, str, RuntimeOptions], LoadedModel]
"""Blob, its sha256 and options in, a model out; raises PackageError."""


class Prediction(NamedTuple):
    """One answer; a named tuple, because it is built in a fraction of a microsecond.

    Attributes:
        values: Output tensors in the order of the schema.
        served: What answered.
        number: Counts the predictions of the slot within this boot from 0.
    """

    values: Sequence[NDArray[Any]]
    served: "ServedModel"
    number: int

    @property
    def outputs(self) -> dict[str, NDArray[Any]]:
        """The output tensors by name."""
        return dict(zip(self.served.output_names, self.values, strict=True))

    @property
    def class_names(self) -> list[str]:
        """Names of the predicted classes; empty for a regression."""
        names = self.served.schema.classes
        return [names[n] for n in self.outputs[Role.LABEL]] if names else []

    @property
    def target(self) -> str:
        """Target path of the package that answered."""
        return self.served.target

    @property
    def prediction_id(self) -> str:
        """Unique name of this answer, for a label that becomes known later."""
        return f"{self.served.id_prefix}-{self.number:x}"


class ServedModel:
    """One package answering in one slot."""

    def __init__(
        self,
        slot: str,
        target: str,
        model: LoadedModel,
        recorder: TelemetryRecorder,
        numbers: Iterator[int],
        id_prefix: str,
    ) -> None:
        self.slot, self.target = slot, target
        self.model_name, self.version = target.split("/")[:2]
        self.sha256, self.schema = model.sha256, model.schema
        self.id_prefix = id_prefix
        self.latency_ms_last = model.warm_up_ms
        self.batch_gain = model.batch_gain
        self.swaps = 0
        """How often another package answered in this slot before this one."""
        self.recorder = recorder
        self.output_names = model.output_names
        self._session_run = model.session_run
        self._one_row, self._numbers = (1, model.width), numbers
        self._low, self._high = _find_ranges(model.schema)

    def predict(self, features: NDArray[np.float32]) -> Prediction:
        """Answer rows; see ``InferenceService.predict``."""
        if features.dtype is not _FLOAT32 or features.shape != self._one_row:
            _check_tensor(features, self._one_row[1])
        began = time.perf_counter()
        try:
            values = self._session_run(self.output_names, {INPUT_NAME: features}, None)
        except Exception as error:
            self.recorder.record_error((time.perf_counter() - began) * 1e3)
            raise InferenceError(
                f"{self.target} failed on {len(features)} rows: {type(error).__name__}: {error}"
            ) from error
        self.latency_ms_last = latency_ms = (time.perf_counter() - began) * 1e3
        number = next(self._numbers)
        self.recorder.record(features, values, latency_ms, number)
        return Prediction(values, self, number)

    def predict_many(self, parts: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """Answer several requests in one run; each is counted and named like one of its own.

        Args:
            parts: As ``predict`` takes them, checked; together at most ROWS_PER_REQUEST_MAX rows.

        Raises:
            InferenceError: The runtime failed; nothing was counted, so ask for each alone.
        """
        began = time.perf_counter()
        try:
            values = self._session_run(self.output_names, {INPUT_NAME: np.concatenate(parts)}, None)
        except Exception as error:
            raise InferenceError(f"{self.target} failed on {len(parts)} requests") from error
        latency_ms = (time.perf_counter() - began) * 1e3
        self.latency_ms_last = latency_ms / len(parts)
        predictions, first = [], 0
        for part in parts:
            own = [array[first : first + len(part)] for array in values]
            first += len(part)
            number = next(self._numbers)
            self.recorder.record(part, own, latency_ms, number)
            predictions.append(Prediction(own, self, number))
        return predictions

    def check_ranges(self, features: NDArray[np.float32]) -> None:
        """Refuse rows outside the ranges the schema declares, and count them as rejected.

        Raises:
            InputError: Names the first such row, its feature, value and range.
        """
        if self._low is None or self._high is None:
            return
        is_outside = (features < self._low) | (features > self._high)
        if is_outside.any():
            self.recorder.record_rejected(len(features))
            row, column = (int(index[0]) for index in np.nonzero(is_outside))
            raise InputError(
                f"row {row}: {self.schema.columns[column]} is {features[row, column]:g},"
                f" allowed is {self._low[column]:g} to {self._high[column]:g}"
            )


class InferenceService:
    """The slots of one agent; safe to call from any thread."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        boot: int,
        windows: WindowLimits,
        options: RuntimeOptions,
        load: LoadPackage = LoadedModel.from_package,
        rows: RowPool | None = None,
    ) -> None:
        """Begin with no model.

        Args:
            clock: For the times of windows.
            outbox: Takes closed windows.
            boot: Random id of this start of the agent.
            windows: When a window is full.
            options: Of the runtime, from the device profile.
            load: Makes a model of a package; a loaded model may answer in several services, so
                a thousand simulated devices need not load it a thousand times.
            rows: Takes rows that are sampled for retraining; None samples none.
        """
        self._rows = rows
        self._clock, self._outbox, self._boot = clock, outbox, boot
        self._windows, self._options, self._load = windows, options, load
        self._served: Mapping[str, ServedModel] = {}
        self._stopped: Mapping[str, str] = {}
        self._streams: dict[str, _Stream] = {}
        self._change = threading.Lock()
        self._waiting = WaitingWindows()
        self._is_disk_refusing = False
        self.labels = DurableLabels(outbox, boot=boot, find_answers=self._find_answers, rows=rows)
        """Takes late labels; ``close_due`` puts them into the outbox."""

    def activate(self, slot: str, *, blob: bytes, target: str, sha256: str) -> None:
        """Load a package and let it answer; the former one answers until this one is ready.

        Raises:
            PackageError: It cannot be loaded; what answered before still answers.
        """
        try:
            check_target_path(target)
        except MalformedError as error:
            raise PackageError(Code.PACKAGE_FORMAT, str(error)) from error
        model = self._load(blob, sha256, self._options)
        with self._change:
            if slot not in self._served and len(self._served) >= SLOTS_MAX:
                raise PackageError(
                    Code.WRONG_SLOT, f"{SLOTS_MAX} slots answer already, {slot!r} is one more"
                )
            stream = self._streams.setdefault(slot, _Stream(len(self._streams)))
            artifact = bytes.fromhex(model.sha256)[:ARTIFACT_BYTES]
            recorder = TelemetryRecorder(
                model,
                stream=stream.number,
                sequence=stream.windows,
                limits=self._windows,
                clock=self._clock,
                emit=self._waiting.add,
                recent=stream.answers,
                sampler=self._rows.sampler_of(model.schema, artifact, stream.number)
                if self._rows
                else None,
            )
            prefix = f"{self._boot:016x}-{stream.number:x}"
            served = ServedModel(slot, target, model, recorder, stream.predictions, prefix)
            former = self._served.get(slot)
            served.swaps = next(stream.swaps)
            self._served = {**self._served, slot: served}
            self._stopped = {name: why for name, why in self._stopped.items() if name != slot}
        if former is not None:
            former.recorder.retire()

    def deactivate(self, slot: str, *, reason: str = "") -> None:
        """Stop answering on a slot; a reason is told to whoever asks it from now on."""
        with self._change:
            if reason:
                self._stopped = {**self._stopped, slot: reason}
            former = self._served.get(slot)
            self._served = {name: s for name, s in self._served.items() if name != slot}
        if former is not None:
            former.recorder.retire()

    def slots(self) -> Mapping[str, ServedModel]:
        """Return what answers now, by slot."""
        return self._served

    def find(self, name: str) -> ServedModel:
        """Find a slot by its name, or by the name of a model that only one slot runs.

        Raises:
            StoppedModelError: The slot answers nothing, for a known reason.
            UnknownModelError: Neither; says which there are.
        """
        served = self._served.get(name)
        if served is not None:
            return served
        slots = self._served
        matches = [s for s in slots.values() if s.model_name == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UnknownModelError(
                f"model {name!r} runs in slots {', '.join(sorted(s.slot for s in matches))};"
                " name the slot"
            )
        if name in self._stopped:
            raise StoppedModelError(f"slot {name!r} answers nothing: {self._stopped[name]}")
        known = ", ".join(sorted(f"{s.slot} ({s.target})" for s in slots.values())) or "none"
        raise UnknownModelError(f"no slot or model {name[:80]!r}; answering now: {known}")

    def predict(self, slot: str, features: NDArray[np.float32]) -> Prediction:
        """Answer rows.

        Args:
            slot: Slot name.
            features: float32 [1 to ROWS_PER_REQUEST_MAX rows, width], raw features in the order
                of the schema; NaN is a missing value, and the model's to deal with. Declared
                ranges are not checked here (``ServedModel.check_ranges``).

        Raises:
            UnknownModelError: Nothing answers in that slot.
            InputError: The tensor is not of that type or shape.
            InferenceError: The runtime failed.
        """
        served = self._served.get(slot)
        return (served or self.find(slot)).predict(features)

    def probation_stats(self, slot: str) -> ProbationStats:
        """Return what the slot answered since ``reset_stats`` or its activation."""
        served = self._served.get(slot)
        return served.recorder.stats() if served else ProbationStats()

    def reset_stats(self, slot: str) -> None:
        """Begin counting anew."""
        served = self._served.get(slot)
        if served is not None:
            served.recorder.reset_stats()

    def close_due(self, *, is_last: bool = False) -> None:
        """Close windows whose time is over and put all closed ones into the outbox.

        To be called about once a second. A disk that refuses is logged once and tried again.

        Args:
            is_last: Nothing comes after this: sampled rows are not gathered any longer.
        """
        for served in self._served.values():
            served.recorder.close_due()
        lost, windows = self._waiting.take()
        try:
            self.labels.flush()
            if self._rows is not None:
                self._rows.flush(is_last=is_last)
            self._outbox.append([(self._boot, window) for window in windows])
            windows = []
            if lost.windows:
                self._outbox.count_dropped(lost.windows, lost.rows)
        except OutboxError as error:
            self._waiting.put_back(lost, windows)
            if not self._is_disk_refusing:
                _LOG.warning("telemetry stays in memory: %s", error)
            self._is_disk_refusing = True
        else:
            self._is_disk_refusing = False

    def _find_answers(self, stream: int) -> RecentAnswers | None:
        """Return what a stream answered lately, the answers of this moment included."""
        for served in self._served.values():
            served.recorder.close_due()
        found = [s.answers for s in self._streams.values() if s.number == stream]
        return found[0] if found else None

    def close(self) -> None:
        """Stop answering; what was counted goes into the outbox."""
        for slot in tuple(self._served):
            self.deactivate(slot)
        self.close_due(is_last=True)


def _check_tensor(features: NDArray[np.float32], width: int) -> None:
    """Refuse what is not float32 [1 to ROWS_PER_REQUEST_MAX, width]; raises InputError."""
    if features.dtype != _FLOAT32 or features.shape[1:] != (width,):
        raise InputError(
            f"features must be float32 [rows, {width}], got {features.dtype} {list(features.shape)}"
        )
    if not 1 <= len(features) <= ROWS_PER_REQUEST_MAX:
        raise InputError(f"{len(features)} rows, a request takes 1 to {ROWS_PER_REQUEST_MAX}")


class _Stream:
    """What outlives the packages of a slot: its number and its counts."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.windows = itertools.count()
        self.predictions = itertools.count()
        self.answers = RecentAnswers()
        self.swaps = itertools.count()


def _find_ranges(
    schema: ModelSchema,
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Spread the features' declared ranges over the columns; None when there are none."""
    if all(f.low is None and f.high is None for f in schema.features):
        return None, None
    low = [-np.inf if f.low is None else f.low for f in schema.features for _ in range(f.width)]
    high = [np.inf if f.high is None else f.high for f in schema.features for _ in range(f.width)]
    return np.array(low, np.float32), np.array(high, np.float32)
