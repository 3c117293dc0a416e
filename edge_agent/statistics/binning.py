"""Count one window's rows at the speed of a copy.

``add`` copies rows into a small buffer; binning happens 256 rows at a time, over all columns at
once (``column_bins.py``). Who gathers rows itself gives them to ``add_block``, which copies
nothing. Nothing here knows the clock or the wire. Not thread-safe: the owner holds a lock or has
one thread.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.statistics.column_bins import BLOCK_ROWS, ColumnBins
from edge_agent.statistics.layout import CounterLayout
from edge_agent.statistics.reference import (
    BINS_MAX,
    ClassOutputReference,
    LabelsOutputReference,
    Reference,
    TargetsOutputReference,
)

BUFFER_ROWS = BLOCK_ROWS
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
        self._bins = ColumnBins(reference, self._layout)
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
        self._has_labels = isinstance(output, ClassOutputReference | LabelsOutputReference)
        self._classes = len(output.classes) if isinstance(output, ClassOutputReference) else 0
        self._answers_output = PROBABILITIES_OUTPUT if self._has_labels else VALUE_OUTPUT
        self._answer_edges = np.zeros(0, np.float32)
        self._targets: list[tuple[NDArray[np.float32], slice]] = []
        """Edges of each of several targets, and where it is counted among the answers."""
        self._each_label: list[tuple[slice, slice]] = []
        """Probabilities of each of several labels, and where it is counted."""
        if isinstance(output, TargetsOutputReference):
            edges = [np.array(target.edges, np.float32) for target in output.targets]
            self._targets = list(zip(edges, output.slices, strict=True))
        elif isinstance(output, ClassOutputReference | LabelsOutputReference):
            self._answer_edges = np.array(output.confidence_edges, np.float32)
        else:
            self._answer_edges = np.array(output.edges, np.float32)
        if isinstance(output, LabelsOutputReference):
            self._each_label = list(zip(output.columns, output.slices, strict=True))

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
                ``value``; a column a label or target where there are several.
            latency_ms: How long the request took.
        """
        # tobytes is the cheapest copy numpy has for one small row.
        answers = outputs[self._answers_output]
        if features.dtype is not _FLOAT or answers.dtype is not _FLOAT:
            features, answers = features.astype(_FLOAT), answers.astype(_FLOAT)
        block = features.tobytes()
        if self._has_labels:
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

    def add_block(
        self,
        rows: NDArray[np.float32],
        outputs: Mapping[str, NDArray[Any]],
        latencies_ms: Sequence[float] | NDArray[np.float64],
    ) -> None:
        """Count answered requests at once; nothing of the arrays is kept.

        Args:
            rows: float32 [rows, width] of all of them.
            outputs: As of ``add``, for all rows.
            latencies_ms: One a request.
        """
        totals = self._totals
        latency = totals[self._layout.latency]
        at = self._latency_edges.searchsorted(latencies_ms, side="right")
        latency += np.bincount(at, minlength=len(latency))
        count = len(rows)
        if not count:
            return
        rows = rows if rows.dtype is _FLOAT else rows.astype(_FLOAT)
        for start in range(0, count, BUFFER_ROWS):
            self._bins.count_into(totals, rows[start : start + BUFFER_ROWS])
        self._count_answers(count, outputs)
        self._rows_total += count

    def output_counts(self) -> tuple[Counters, int]:
        """Return the answers' counters and how many were not finite, without what is buffered."""
        totals = self._totals
        return totals[self._layout.output], int(totals[self._layout.non_finite])

    def _flush(self) -> None:
        if not self._latencies:
            return
        rows = np.frombuffer(b"".join(self._rows), np.float32)
        rows = rows.reshape(self._fill, -1) if self._fill else rows.reshape(0, 0)
        outputs = {self._answers_output: np.frombuffer(b"".join(self._answers), np.float32)}
        if self._has_labels:
            outputs[LABEL_OUTPUT] = np.frombuffer(b"".join(self._labels), np.int64)
        latencies = self._latencies.copy()
        self._fill, self._room = 0, BUFFER_BYTES_MAX
        for pending in (self._rows, self._labels, self._answers, self._latencies):
            pending.clear()
        self.add_block(rows, outputs, latencies)

    def _count_answers(self, count: int, outputs: Mapping[str, NDArray[Any]]) -> None:
        answers = outputs[self._answers_output].reshape(count, -1)
        if answers.dtype is not _FLOAT:
            answers = answers.astype(_FLOAT)
        is_valid: NDArray[np.bool_] | None = None
        if not np.isfinite(answers).all():
            is_valid = np.isfinite(answers).all(axis=1)
        if self._targets:
            self._count_targets(count, answers, is_valid)
            return
        if self._each_label:
            self._count_labels(answers, outputs[LABEL_OUTPUT].reshape(count, -1), is_valid)
            return
        # Class by class: row by row would be a loop over two or three numbers each.
        largest = np.ascontiguousarray(answers.T).max(axis=0)
        at: NDArray[np.int64] = self._answer_edges.searchsorted(largest, side="right")
        if self._classes:
            labels = outputs[LABEL_OUTPUT].reshape(count)
            if int(labels.min()) < 0 or int(labels.max()) >= self._classes:
                is_known = (labels >= 0) & (labels < self._classes)
                is_valid = is_known if is_valid is None else is_valid & is_known
            at = at + labels * BINS_MAX
        if is_valid is not None:
            at = at[is_valid]
            self._totals[self._layout.non_finite] += count - len(at)
        counts = self._totals[self._layout.output]
        counts += np.bincount(at, minlength=len(counts))

    def _count_targets(
        self, count: int, answers: NDArray[np.float32], is_valid: NDArray[np.bool_] | None
    ) -> None:
        """Count each target by itself; a row with one that is no number is in none of them."""
        if is_valid is not None:
            answers = answers[is_valid]
            self._totals[self._layout.non_finite] += count - len(answers)
        counts = self._totals[self._layout.output]
        for (edges, place), column in zip(self._targets, answers.T, strict=True):
            own = counts[place]
            own += np.bincount(edges.searchsorted(column, side="right"), minlength=len(own))

    def _count_labels(
        self,
        answers: NDArray[np.float32],
        labels: NDArray[np.int64],
        is_valid: NDArray[np.bool_] | None,
    ) -> None:
        """Count each label by itself; a row with one that is no answer is in none of them."""
        limits = np.array([columns.stop - columns.start for columns, _ in self._each_label])
        is_known = ((labels >= 0) & (labels < limits)).all(axis=1)
        if is_valid is not None or not is_known.all():
            chosen = is_known if is_valid is None else is_known & is_valid
            self._totals[self._layout.non_finite] += len(answers) - int(chosen.sum())
            answers, labels = answers[chosen], labels[chosen]
        if not len(answers):
            return
        counts = self._totals[self._layout.output]
        for (columns, place), own in zip(self._each_label, labels.T, strict=True):
            largest = np.ascontiguousarray(answers[:, columns].T).max(axis=0)
            at = self._answer_edges.searchsorted(largest, side="right") + own * BINS_MAX
            counts[place] += np.bincount(at, minlength=place.stop - place.start)
