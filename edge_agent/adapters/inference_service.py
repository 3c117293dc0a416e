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
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edge_agent.adapters.durable_labels import DurableLabels
from edge_agent.adapters.onnx_model_runner import LoadedModel, RuntimeOptions
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.recent_answers import RecentAnswers
from edge_agent.adapters.served_model import Prediction, ServedModel
from edge_agent.adapters.served_pictures import ServedPictures
from edge_agent.adapters.shadows import MakeRun, Shadows
from edge_agent.adapters.telemetry_recorder import (
    ARTIFACT_BYTES,
    TelemetryRecorder,
    WindowLimits,
)
from edge_agent.adapters.waiting_windows import WaitingWindows
from edge_agent.contract.codes import Code
from edge_agent.contract.errors import MalformedError
from edge_agent.contract.targets import SLOTS_MAX, check_target_path
from edge_agent.core.probation import ProbationStats
from edge_agent.errors import (
    OutboxError,
    PackageError,
    StoppedModelError,
    UnknownModelError,
)
from edge_agent.ports import Clock

if TYPE_CHECKING:
    from edge_agent.adapters.row_sampler import RowPool

_LOG = logging.getLogger(__name__)

LoadPackage = Callable[[bytes, str, RuntimeOptions], LoadedModel]
"""Blob, its sha256 and options in, a model out; raises PackageError."""


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
        make_shadow: MakeRun | None = None,
        rows: "RowPool | None" = None,
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
            make_shadow: Begins to compare a candidate; None where there is no place for one.
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
        self.shadows = Shadows(make_shadow, find_served=self._find_served)
        """Compares candidates with what answers."""
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
            kind = ServedModel if model.schema.image is None else ServedPictures
            served = kind(slot, target, model, recorder, stream.predictions, prefix)
            former = self._served.get(slot)
            recorder.is_after_answers = former is not None and former.recorder.has_answered
            served.swaps = next(stream.swaps)
            served.tap = self.shadows.tap_of(slot, sha256)
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

    def predict(self, slot: str, features: NDArray[Any]) -> Prediction:
        """Answer rows, or pictures where the model takes these.

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
        try:
            self.labels.flush()
            if self._rows is not None:
                self._rows.flush(is_last=is_last)
            self._put_windows()
        except OutboxError as error:
            if not self._is_disk_refusing:
                _LOG.warning("telemetry stays in memory: %s", error)
            self._is_disk_refusing = True
        else:
            self._is_disk_refusing = False

    def _put_windows(self) -> None:
        """Put closed windows into the outbox; raises OutboxError, they then wait as before."""
        lost, windows = self._waiting.take()
        try:
            self._outbox.append([(self._boot, window) for window in windows])
            windows = []
            if lost.windows:
                self._outbox.count_dropped(lost.windows, lost.rows)
        except OutboxError:
            self._waiting.put_back(lost, windows)
            raise

    def _find_answers(self, stream: int) -> RecentAnswers | None:
        """Return what a stream answered lately, the answers of this moment included."""
        for served in self._served.values():
            served.recorder.close_due()
        found = [s.answers for s in self._streams.values() if s.number == stream]
        return found[0] if found else None

    def _find_served(self, slot: str) -> ServedModel | None:
        return self._served.get(slot)

    def close(self) -> None:
        """Stop answering; what was counted goes into the outbox."""
        self.shadows.close()
        for slot in tuple(self._served):
            self.deactivate(slot)
        self.close_due(is_last=True)


class _Stream:
    """What outlives the packages of a slot: its number and its counts."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.windows = itertools.count()
        self.predictions = itertools.count()
        self.answers = RecentAnswers()
        self.swaps = itertools.count()
