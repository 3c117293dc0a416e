"""Count what one package answers: windows for the server, statistics for the probation.

A request costs a copy of its row and one extension of a list; no lock, because extending a list by
a tuple, copying it and cutting off its beginning are atomic in CPython. Counting happens once a
second (``close_due``), or for 256 requests together. Encoding happens when a window is full,
writing never while a request waits.

Left out: storing (``outbox.py``) and sending (``telemetry_uplink.py``).
Invariants: every row recorded is in exactly one window, one recorded after ``retire`` included;
a window without rows, errors or rejections is not made; ``t0 <= t1`` whatever the clock does.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.chosen_rows import split_answer
from edge_agent.adapters.onnx_model_runner import LoadedModel
from edge_agent.adapters.recent_answers import AnsweringPackage, RecentAnswers
from edge_agent.contract.answer_parts import parts_of
from edge_agent.contract.schema import Role
from edge_agent.contract.windows import Window
from edge_agent.core.probation import ProbationStats
from edge_agent.ports import Clock
from edge_agent.statistics.binning import WindowCounter
from edge_agent.statistics.layout import answer_mixes
from edge_agent.statistics.output_shift import total_variation
from edge_agent.statistics.varint import encode_counters

if TYPE_CHECKING:
    from edge_agent.adapters.row_sampler import RowSampler

LATENCIES_KEPT = 1_024
"""The 95th percentile is of the newest requests, this many."""
PENDING_REQUESTS_MAX = 256
PENDING_BYTES_MAX = 4_194_304
SMALL_REQUEST_BYTES = 8_192
"""A larger request of several rows is counted at once, under the lock."""
ARTIFACT_BYTES = 8
_FIELDS = 5
"""Of a pending request: features, first and last output, latency, number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimits:
    """When a window is closed: whichever comes first; values of the device profile.

    Attributes:
        window_s: After its first row.
        window_rows_max: Closed at this many rows; requests of several rows may overshoot, by
            what 256 of them hold.
    """

    window_s: float = 60.0
    window_rows_max: int = 10_000


class TelemetryRecorder:
    """Counters of one package in one slot; safe to call from any thread."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        stream: int,
        sequence: Iterator[int],
        limits: WindowLimits,
        clock: Clock,
        emit: Callable[[Window], None],
        recent: RecentAnswers | None = None,
        sampler: "RowSampler | None" = None,
    ) -> None:
        """Begin counting.

        Args:
            model: Its reference fixes the bins.
            stream: Number of the slot within this boot.
            sequence: Numbers of the slot's windows, shared by its successive packages.
            limits: When a window is full.
            clock: For the times of windows.
            emit: Takes a closed window; must not block.
            recent: Remembers answers by their number, for late labels.
            sampler: Chooses rows for retraining.
        """
        self._sampler = sampler
        self._model, self._limits, self._clock, self._emit = model, limits, clock, emit
        self._stream, self._sequence = stream, sequence
        self._artifact = bytes.fromhex(model.sha256)[:ARTIFACT_BYTES]
        self._lock = threading.Lock()
        self._counter = WindowCounter(model.reference)
        self._layout = self._counter.layout
        self._names = [output.name for output in model.schema.outputs]
        self._dtypes = [np.int64 if name == Role.LABEL else np.float32 for name in self._names]
        self._recent = recent
        self._package = (
            recent.add_package(AnsweringPackage(self._artifact, parts_of(model.schema)))
            if recent is not None
            else 0
        )
        self._pending: list[Any] = []
        """Flat, _FIELDS a request: a tuple for each would be work for the garbage collector."""
        self._small_bytes = max(SMALL_REQUEST_BYTES, 4 * model.width)
        self._pending_max = 0
        self._opened_at_ms = 0
        self._ends_at = 0.0
        self._is_open = self._is_retired = False
        self._window_rows = 0
        self._latencies: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._requests = self._rows = self._errors = self._refused = 0
        self._has_answered = False
        self.is_after_answers = False
        """A package before this one has answered in its slot: what is refused now tells of this
        one, not of who asks."""
        self._answers, self._non_finite = self._counter.output_counts()[0].copy(), 0
        """Of closed windows, without what was counted before ``reset_stats``."""
        self._fit_pending()

    def record(
        self,
        features: NDArray[np.float32],
        outputs: Sequence[NDArray[Any]],
        latency_ms: float,
        number: int = -1,
    ) -> None:
        """Count one answered request; the arrays are copied and may be reused at once.

        Args:
            features: float32 [rows, width].
            outputs: In the order of the schema, one or two.
            latency_ms: How long the runtime took.
            number: Of the prediction, under which a label may come later.
        """
        if features.nbytes > self._small_bytes:
            self._record_large(features, outputs, latency_ms, number)
            return
        pending = self._pending
        # Bytes, because keeping the arrays costs more than copying them: they would be freed
        # cold. A regression's only output is there twice and read once.
        first, last = outputs[0].tobytes(), outputs[-1].tobytes()
        pending += (features.tobytes(), first, last, latency_ms, number)
        if len(pending) >= self._pending_max:
            self._settle()

    def record_error(self, latency_ms: float) -> None:
        """Count one request the runtime failed on."""
        with self._lock:
            self._counter.add_error()
            self._latencies.append(latency_ms)
            self._requests += 1
            self._errors += 1
            self._open_or_close()

    def record_rejected(self, rows: int) -> None:
        """Count rows that were refused before the model saw them."""
        with self._lock:
            self._counter.add_rejected(rows)
            self._open_or_close()

    def count_refused(self) -> None:
        """Count one request that was refused for what it held."""
        with self._lock:
            self._refused += 1

    @property
    def has_answered(self) -> bool:
        """Whether any row was answered since the beginning, or by a package before this one."""
        with self._lock:
            self._drain()
            return self._has_answered or self.is_after_answers

    def close_due(self) -> None:
        """Count what is pending, so that requests rarely have to; close the window when due."""
        if self._pending:
            self._settle()
        if self._is_open and self._clock.monotonic() >= self._ends_at:
            with self._lock:
                self._close()

    def retire(self) -> None:
        """Close the window; whatever is still recorded makes windows of its own."""
        with self._lock:
            self._is_retired = True
            self._fit_pending()
            self._close()

    def stats(self) -> ProbationStats:
        """Return what was answered since the beginning or ``reset_stats``."""
        with self._lock:
            self._drain()
            answers, non_finite = self._answered()
            shift, name = self._measure_shift(answers)
            is_label = bool(self._model.schema.labels)
            return ProbationStats(
                requests=self._requests,
                rows=self._rows,
                errors=self._errors,
                latency_ms_p95=float(np.percentile(self._latencies, 95))
                if self._latencies
                else None,
                output_shift=shift,
                non_finite_rows=non_finite,
                shifted_target="" if is_label else name,
                shifted_label=name if is_label else "",
                refused=self._refused if self.is_after_answers else 0,
            )

    def reset_stats(self) -> None:
        """Begin the statistics anew; windows are not touched."""
        with self._lock:
            self._drain()
            self._requests = self._rows = self._errors = self._refused = 0
            answers, non_finite = self._answered()
            self._answers, self._non_finite = self._answers - answers, self._non_finite - non_finite
            self._latencies.clear()

    def _record_large(
        self,
        features: NDArray[np.float32],
        outputs: Sequence[NDArray[Any]],
        latency_ms: float,
        number: int,
    ) -> None:
        rows, named = len(features), dict(zip(self._names, outputs, strict=True))
        with self._lock:
            self._count(features, named, [latency_ms])
            self._remember(features, named, np.full(rows, number), np.arange(rows))
            self._open_or_close()

    def _settle(self) -> None:
        with self._lock:
            self._drain()
            self._open_or_close()

    def _open_or_close(self) -> None:
        if not self._is_open:
            self._open()
        if self._is_retired or self._window_rows >= self._limits.window_rows_max:
            self._close()

    def _open(self) -> None:
        self._is_open = True
        self._opened_at_ms = self._now_ms()
        self._ends_at = self._clock.monotonic() + self._limits.window_s
        self._fit_pending()

    def _drain(self) -> None:
        """Count what is pending; the lock is held, others may go on appending."""
        pending = self._pending[: len(self._pending)]
        if not pending:
            return
        del self._pending[: len(pending)]
        features, first, last, latencies, numbers = (pending[n::_FIELDS] for n in range(_FIELDS))
        taken = len(features)
        rows = np.frombuffer(b"".join(features), np.float32).reshape(-1, self._model.width)
        outputs = {
            name: np.frombuffer(b"".join(parts), dtype)
            for name, parts, dtype in zip(self._names, (first, last), self._dtypes, strict=False)
        }
        if Role.PROBABILITIES in outputs:
            outputs[Role.PROBABILITIES] = outputs[Role.PROBABILITIES].reshape(len(rows), -1)
        if self._model.schema.answer_names:
            outputs[self._names[0]] = outputs[self._names[0]].reshape(len(rows), -1)
        self._count(rows, outputs, latencies)
        if self._recent is None and self._sampler is None:
            return
        of_row, within = np.array(numbers, np.int64), np.zeros(len(rows), np.int64)
        if len(rows) != taken:
            each = np.array([len(part) for part in features]) // (4 * self._model.width)
            starts = np.cumsum(each) - each
            of_row, within = np.repeat(of_row, each), np.arange(len(rows)) - np.repeat(starts, each)
        self._remember(rows, outputs, of_row, within)

    def _remember(
        self,
        rows: NDArray[np.float32],
        outputs: Mapping[str, NDArray[Any]],
        numbers: NDArray[np.int64],
        within: NDArray[np.int64],
    ) -> None:
        """Choose rows for retraining, and remember all answers for late labels."""
        at_ms, sampled = self._now_ms(), None
        if self._sampler is not None:
            sampled = self._sampler.look(rows, outputs, numbers, within, at_ms)
        if self._recent is not None:
            predicted = split_answer(outputs[self._names[0]])
            self._recent.remember(self._package, numbers, within, predicted, at_ms, sampled)

    def _count(
        self,
        features: NDArray[np.float32],
        outputs: Mapping[str, NDArray[Any]],
        latencies: Sequence[float],
    ) -> None:
        """Add requests to the window and to the statistics."""
        self._counter.add_block(features, outputs, latencies)
        self._latencies.extend(latencies)
        self._requests += len(latencies)
        self._rows += len(features)
        self._has_answered = True
        self._window_rows += len(features)
        self._fit_pending()

    def _close(self) -> None:
        self._drain()
        answers, non_finite = self._answered()
        _, counters = self._counter.take()
        self._answers, self._non_finite = answers, non_finite
        if not counters.any():
            self._is_open = False
            self._fit_pending()
            return
        if not self._is_open:
            self._open()
        window = Window(
            stream=self._stream,
            sequence=next(self._sequence),
            t0_ms=self._opened_at_ms,
            t1_ms=max(self._opened_at_ms, self._now_ms()),
            reference=self._model.reference_hash,
            artifact=self._artifact,
            rows=self._window_rows,
            counters=encode_counters(counters),
        )
        self._window_rows = 0
        self._is_open = False
        self._fit_pending()
        self._emit(window)

    def _fit_pending(self) -> None:
        """Let no more be pending than fits into the window; nothing when none is open."""
        left = self._limits.window_rows_max - self._window_rows
        fits = PENDING_BYTES_MAX // self._small_bytes
        is_filling = self._is_open and not self._is_retired
        most = max(1, min(PENDING_REQUESTS_MAX, fits, left)) if is_filling else 1
        self._pending_max = _FIELDS * most

    def _answered(self) -> tuple[NDArray[np.int64], int]:
        """Return the answers' counters since ``reset_stats``, and how many were not finite."""
        counts, non_finite = self._counter.output_counts()
        return self._answers + counts, self._non_finite + non_finite

    def _measure_shift(self, answers: NDArray[np.int64]) -> tuple[float | None, str]:
        """Return the shift of the answers, of several that of the most shifted one."""
        if not answers.any():
            return None, ""
        reference = self._model.reference
        expected = answer_mixes(reference, np.array(reference.output.counts, np.int64))
        now = answer_mixes(reference, answers)
        shifts = {name: total_variation(mix, expected[name]) for name, mix in now.items()}
        worst = max(shifts, key=lambda name: shifts[name])
        return shifts[worst], worst

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1_000)
