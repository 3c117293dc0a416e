"""Count what one package answers: windows for the server, statistics for the probation.

On the way of a request there is one lock, one copy of the rows and a few additions; binning
happens 256 rows at a time, encoding and writing happen when a window is closed and handed over,
never while a request waits for its answer... except the binning of every 256th row.

Left out: storing (``outbox.py``) and sending (``telemetry_uplink.py``).
Invariants: every row recorded is in exactly one window, one recorded after ``retire`` included;
a window without rows, errors or rejections is not made; ``t0 <= t1`` whatever the clock does.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.onnx_model_runner import LoadedModel
from edge_agent.contract.windows import Window
from edge_agent.core.probation import ProbationStats
from edge_agent.ports import Clock
from edge_agent.statistics.binning import WindowCounter
from edge_agent.statistics.layout import answer_mix
from edge_agent.statistics.output_shift import total_variation
from edge_agent.statistics.varint import encode_counters

LATENCIES_KEPT = 1_024
"""The 95th percentile is of the newest requests, this many."""
_ARTIFACT_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimits:
    """When a window is closed: whichever comes first; values of the device profile."""

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
    ) -> None:
        """Begin counting.

        Args:
            model: Its reference fixes the bins.
            stream: Number of the slot within this boot.
            sequence: Numbers of the slot's windows, shared by its successive packages.
            limits: When a window is full.
            clock: For the times of windows.
            emit: Takes a closed window; must not block.
        """
        self._model, self._limits, self._clock, self._emit = model, limits, clock, emit
        self._stream, self._sequence = stream, sequence
        self._artifact = bytes.fromhex(model.sha256)[:_ARTIFACT_BYTES]
        self._lock = threading.Lock()
        self._counter = WindowCounter(model.reference)
        self._layout = self._counter.layout
        self._opened_at_ms = 0
        self._ends_at = 0.0
        self._is_open = self._is_retired = False
        self._window_rows = 0
        self._window: NDArray[np.int64] = np.zeros(self._layout.size, np.int64)
        self._latencies = [0.0] * LATENCIES_KEPT
        self._requests = self._rows = self._errors = self._non_finite = 0
        self._answers: NDArray[np.int64] = np.zeros_like(self._window[self._layout.output])

    def record(
        self,
        features: NDArray[np.float32],
        outputs: Mapping[str, NDArray[Any]],
        latency_ms: float,
    ) -> None:
        """Count one answered request."""
        rows = len(features)
        with self._lock:
            if not self._is_open:
                self._open()
            self._counter.add(features, outputs, latency_ms)
            self._latencies[self._requests % LATENCIES_KEPT] = latency_ms
            self._requests += 1
            self._rows += rows
            self._window_rows += rows
            if self._window_rows >= self._limits.window_rows_max or self._is_retired:
                self._close()

    def record_error(self, latency_ms: float) -> None:
        """Count one request the runtime failed on."""
        with self._lock:
            if not self._is_open:
                self._open()
            self._counter.add_error()
            self._latencies[self._requests % LATENCIES_KEPT] = latency_ms
            self._requests += 1
            self._errors += 1
            if self._is_retired:
                self._close()

    def record_rejected(self, rows: int) -> None:
        """Count rows that were refused before the model saw them."""
        with self._lock:
            if not self._is_open:
                self._open()
            self._counter.add_rejected(rows)
            if self._is_retired:
                self._close()

    def close_due(self) -> None:
        """Close the window if its time is over."""
        if self._is_open and self._clock.monotonic() >= self._ends_at:
            with self._lock:
                self._close()

    def retire(self) -> None:
        """Close the window; whatever is still recorded makes windows of its own."""
        with self._lock:
            self._is_retired = True
            self._close()

    def stats(self) -> ProbationStats:
        """Return what was answered since the beginning or ``reset_stats``."""
        with self._lock:
            self._drain()
            latencies = self._latencies[: min(self._requests, LATENCIES_KEPT)]
            return ProbationStats(
                requests=self._requests,
                rows=self._rows,
                errors=self._errors,
                latency_ms_p95=float(np.percentile(latencies, 95)) if latencies else None,
                output_shift=self._measure_shift(),
                non_finite_rows=self._non_finite,
            )

    def reset_stats(self) -> None:
        """Begin the statistics anew; windows are not touched."""
        with self._lock:
            self._drain()
            self._requests = self._rows = self._errors = self._non_finite = 0
            self._answers[:] = 0

    def _measure_shift(self) -> float | None:
        if not self._answers.any():
            return None
        reference = self._model.reference
        expected = np.array(reference.output.counts, np.int64)
        return total_variation(
            answer_mix(reference, self._answers), answer_mix(reference, expected)
        )

    def _open(self) -> None:
        self._is_open = True
        self._opened_at_ms = self._now_ms()
        self._ends_at = self._clock.monotonic() + self._limits.window_s

    def _drain(self) -> None:
        """Bin what is buffered and add it to the window and to the statistics."""
        _, counters = self._counter.take()
        self._window += counters
        self._answers += counters[self._layout.output]
        self._non_finite += int(counters[self._layout.non_finite])

    def _close(self) -> None:
        self._drain()
        if not self._is_open:
            return
        window = Window(
            stream=self._stream,
            sequence=next(self._sequence),
            t0_ms=self._opened_at_ms,
            t1_ms=max(self._opened_at_ms, self._now_ms()),
            reference=self._model.reference_hash,
            artifact=self._artifact,
            rows=self._window_rows,
            counters=encode_counters(self._window),
        )
        self._window[:] = 0
        self._window_rows = 0
        self._is_open = False
        self._emit(window)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1_000)
