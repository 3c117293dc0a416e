"""Count one window's rows at the speed of a copy.

``add`` copies rows into a small buffer; binning happens 256 rows at a time, over all columns at
once. Nothing here knows the clock or the wire. Not thread-safe: the owner holds a lock or has one
thread.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import BINS_MAX, ClassOutputReference, Reference

BUFFER_ROWS = 256
BUFFER_BYTES_MAX = 4_194_304
LABEL_OUTPUT = "label"
PROBABILITIES_OUTPUT = "probabilities"
VALUE_OUTPUT = "value"

_REQUEST_BYTES = BUFFER_BYTES_MAX // 1_024
"""What a request is charged on top of its rows, so that empty ones cannot pile up."""
_FLOAT = np.dtype(np.float32)
_INTEGER = np.dtype(np.int64)

Counters = NDArray[np.int64]


class WindowCounter:
    """Counters of one slot, from one ``take`` to the next."""

    def __init__(self, reference: Reference) -> None:
        self._layout = CounterLayout.of(reference)
        self._bins = _ColumnBins(reference, self._layout)
        self._totals: Counters = np.zeros(self._layout.size, dtype=np.int64)
        self._rows_total = 0
        self._fill = 0
        self._room = BUFFER_BYTES_MAX
        self._rows: list[bytes] = []
        self._labels: list[bytes] = []
        self._answers: list[bytes] = []
        self._latencies: list[float] = []
        self._latency_edges = np.array(reference.latency_edges_ms)
        output = reference.output
        self._classes = len(output.classes) if isinstance(output, ClassOutputReference) else 0
        self._answers_output = PROBABILITIES_OUTPUT if self._classes else VALUE_OUTPUT
        self._answer_edges = np.array(
            output.confidence_edges if isinstance(output, ClassOutputReference) else output.edges,
            np.float32,
        )

    @property
    def layout(self) -> CounterLayout:
        """Where each counter of ``take`` stands."""
        return self._layout

    @property
    def rows(self) -> int:
        """Rows added since the last ``take``."""
        return self._rows_total + self._fill

    def add(
        self,
        features: NDArray[np.float32],
        outputs: Mapping[str, NDArray[Any]],
        latency_ms: float,
    ) -> None:
        """Count one answered request; the arrays are copied and may be reused at once.

        Args:
            features: float32 [rows, width], the packed input tensor.
            outputs: The graph's outputs by tensor name: ``label`` and ``probabilities``, or
                ``value``.
            latency_ms: How long the request took.
        """
        # tobytes is the cheapest copy numpy has for one small row.
        answers = outputs[self._answers_output]
        if features.dtype is not _FLOAT or answers.dtype is not _FLOAT:
            features, answers = features.astype(_FLOAT), answers.astype(_FLOAT)
        block = features.tobytes()
        if self._classes:
            labels = outputs[LABEL_OUTPUT]
            if labels.dtype is not _INTEGER:
                labels = labels.astype(_INTEGER)
            self._labels.append(labels.tobytes())
        self._answers.append(answers.tobytes())
        self._rows.append(block)
        self._latencies.append(latency_ms)
        self._fill += len(features)
        self._room -= len(block) + _REQUEST_BYTES
        if self._room <= 0 or self._fill >= BUFFER_ROWS:
            self._flush()

    def add_error(self) -> None:
        """Count one failed request."""
        self._totals[self._layout.errors] += 1

    def add_rejected(self, rows: int) -> None:
        """Count rows that were refused before the model saw them."""
        self._totals[self._layout.rejected] += rows

    def take(self) -> tuple[int, Counters]:
        """Return the rows and the counters since the last call, and begin anew."""
        self._flush()
        rows, totals = self._rows_total, self._totals
        self._rows_total, self._totals = 0, np.zeros_like(totals)
        return rows, totals

    def _flush(self) -> None:
        if not self._latencies:
            return
        latency = self._totals[self._layout.latency]
        at = np.searchsorted(self._latency_edges, self._latencies, side="right")
        latency += np.bincount(at, minlength=len(latency))
        if self._fill:
            rows = np.frombuffer(b"".join(self._rows), np.float32).reshape(self._fill, -1)
            for start in range(0, self._fill, BUFFER_ROWS):
                self._bins.count_into(self._totals, rows[start : start + BUFFER_ROWS])
            self._count_answers()
        self._rows_total += self._fill
        self._fill, self._room = 0, BUFFER_BYTES_MAX
        for pending in (self._rows, self._labels, self._answers, self._latencies):
            pending.clear()

    def _count_answers(self) -> None:
        answers = np.frombuffer(b"".join(self._answers), np.float32).reshape(self._fill, -1)
        is_valid = np.isfinite(answers).all(axis=1)
        at = np.searchsorted(self._answer_edges, answers.max(axis=1), side="right")
        if self._classes:
            labels = np.frombuffer(b"".join(self._labels), np.int64)
            is_valid &= (labels >= 0) & (labels < self._classes)
            at = at + labels * BINS_MAX
        counted = at[is_valid]
        counts = self._totals[self._layout.output]
        counts += np.bincount(counted, minlength=len(counts))
        self._totals[self._layout.non_finite] += self._fill - len(counted)


class _ColumnBins:
    """Bin all watched columns of a block of rows together: one compare an edge, not a column."""

    def __init__(self, reference: Reference, layout: CounterLayout) -> None:
        features = reference.features
        self._columns = np.array([f.column for f in features], np.intp)
        most = max((len(f.edges) for f in features), default=0)
        self._edges = np.full((most, len(features), 1), np.inf, np.float32)
        for k, feature in enumerate(features):
            self._edges[: len(feature.edges), k, 0] = feature.edges
        self._low = np.array([[f.low] for f in features], np.float32)
        self._high = np.array([[f.high] for f in features], np.float32)
        self._missing = np.array([[f.bins] for f in features], np.int8)
        self._first = np.array([[s.start] for s in layout.features], np.int64)
        self._size = layout.features[-1].stop if features else 0

    def count_into(self, totals: Counters, rows: NDArray[np.float32]) -> None:
        """Add the rows' bins to the counters of the features."""
        if not self._size:
            return
        is_all = rows.shape[1] == len(self._columns)
        # Columns first: the inner loops then run over rows, not over a few columns.
        values = np.ascontiguousarray((rows if is_all else rows[:, self._columns]).T)
        at = np.zeros(values.shape, np.int8)
        for edge in self._edges:
            at += (values >= edge).view(np.int8)
        is_outside = (values < self._low) | (values > self._high)
        np.copyto(at, self._missing + 1, where=is_outside)
        np.copyto(at, self._missing, where=~np.isfinite(values))
        flat = (at + self._first).ravel()
        totals[: self._size] += np.bincount(flat, minlength=self._size)
