"""Sample rows for retraining: choose among what is answered, gather, redact, give to the outbox.

Choosing looks at up to 256 requests at once, as counting does, and costs a row that is passed over
nothing that can be measured. What is chosen waits in memory, at most PENDING_BYTES_MAX of it and
only the columns that may leave; ``flush``, called about once a second, redacts it and puts it into
the outbox as batches, as far as the day's bytes of rows reach.

Invariants: of a feature no rule names nothing is copied; nothing reaches the disk that is not
redacted; every row chosen is in exactly one batch, or counted as dropped.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.chosen_rows import Chosen, RowPlan, split_answer
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.outbox_rows import NewBatch
from edge_agent.adapters.row_redaction import redact
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.contract.errors import TooLargeError
from edge_agent.contract.outputs import slice_labels
from edge_agent.contract.rows import (
    HEAD_BYTES,
    ROWS_MAX,
    Reason,
    Redaction,
    RowBatch,
    RowFeature,
    RowHead,
    SampledLabel,
    encode_batch,
    row_bytes,
)
from edge_agent.contract.schema import ModelSchema, Role
from edge_agent.core.row_choice import RowChoice
from edge_agent.errors import OutboxError
from edge_agent.ports import Clock, Jitter
from edge_agent.row_settings import RowSettings

PENDING_BYTES_MAX = 2_097_152
FLUSH_BYTES = 65_536
"""Gathered earlier than ``gather_s`` when this many bytes wait."""
LABELS_PENDING_MAX = 1_024
_LOG = logging.getLogger(__name__)
_LabelPlace = tuple[bytes, int, tuple[str, ...]]
"""Artifact, stream and names of what is labelled."""


class RowPool:
    """What all slots of an agent have chosen; safe to call from any thread."""

    def __init__(
        self,
        settings: RowSettings,
        outbox: Outbox,
        meter: UplinkMeter,
        *,
        boot: int,
        key: bytes,
        clock: Clock,
        jitter: Jitter,
    ) -> None:
        """Begin with none.

        Args:
            settings: What may leave.
            outbox: Takes batches.
            meter: The day's bytes of new rows.
            boot: Marks prediction ids.
            key: Of hashes.
            clock: For gathering.
            jitter: Numbers in [0, 1).
        """
        self.settings, self._outbox, self._meter = settings, outbox, meter
        self._boot, self._key, self._clock, self._jitter = boot, key, clock, jitter
        self._lock = threading.Lock()
        self._rows: dict[RowPlan, list[Chosen]] = {}
        self._labels: dict[_LabelPlace, list[SampledLabel]] = {}
        self._bytes = self._lost = self._labels_waiting = 0
        self._due_at: float | None = None

    def sampler_of(self, schema: ModelSchema, artifact: bytes, stream: int) -> "RowSampler | None":
        """Return what chooses among the rows of a package; None when nothing of it may leave."""
        features, columns, first = [], list[int](), 0
        rules = self.settings.models.get(schema.model, {})
        for feature in schema.features:
            rule = rules.get(feature.name)
            if rule is not None and feature.is_text and rule.redaction is Redaction.ROUND:
                _LOG.warning(
                    "[row_samples] rounds the text %s of model %s, which stays here then; keep or"
                    " hash it",
                    feature.name,
                    schema.model,
                )
            elif rule is not None:
                features.append(
                    RowFeature(
                        name=feature.name,
                        redaction=rule.redaction,
                        step=rule.step,
                        width=feature.width,
                    )
                )
                columns += range(first, first + feature.width)
            first += feature.width
        unknown = sorted(set(rules) - {feature.name for feature in schema.features})
        if unknown:
            _LOG.warning(
                "[row_samples] names %s, which model %s does not have",
                ", ".join(unknown)[:200],
                schema.model,
            )
        if not features:
            return None
        plan = RowPlan(
            artifact=artifact,
            stream=stream,
            features=tuple(features),
            columns=tuple(columns),
            row_bytes=row_bytes(features, len(schema.answer_names)),
            names=schema.answer_names,
        )
        choice = RowChoice(self.settings.share, self._jitter)
        return RowSampler(self, plan, choice, first, slice_labels(schema.labels))

    def add(self, plan: RowPlan, chosen: Chosen) -> int:
        """Take chosen rows; return how many of the first found room, the others are counted."""
        size = plan.row_bytes
        with self._lock:
            room = max(0, PENDING_BYTES_MAX - self._bytes) // size
            count = min(chosen.size, room if self._bytes else max(1, room))
            self._lost += chosen.size - count
            if count:
                kept = chosen if count == chosen.size else chosen.take(slice(count))
                self._rows.setdefault(plan, []).append(kept)
                self._bytes += count * size
                self._begin_gathering()
        return count

    def add_label(
        self, artifact: bytes, stream: int, label: SampledLabel, names: tuple[str, ...] = ()
    ) -> None:
        """Take the label of a row that was chosen before; beyond a bound it is left out.

        Args:
            artifact: First 8 bytes of the sha256 of the package that answered.
            stream: Number of the slot.
            label: Of one part of the answer.
            names: Of all its parts, as of ``RowPlan``.
        """
        with self._lock:
            if self._labels_waiting < LABELS_PENDING_MAX:
                self._labels_waiting += 1
                self._labels.setdefault((artifact, stream, names), []).append(label)
                self._begin_gathering()

    def flush(self, *, is_last: bool = False) -> None:
        """Put what was gathered long enough into the outbox, or all of it.

        Raises:
            OutboxError: The rows are lost and counted with the next ones.
        """
        with self._lock:
            is_due = self._due_at is not None and self._clock.monotonic() >= self._due_at
            if not (is_due or is_last or self._bytes >= FLUSH_BYTES):
                return
            rows, labels, lost = self._rows, self._labels, self._lost
            self._rows, self._labels, self._due_at = {}, {}, None
            self._bytes = self._lost = self._labels_waiting = 0
        batches: list[NewBatch] = []
        for plan, parts in rows.items():
            made, dropped = self._make_batches(plan, Chosen.join(parts))
            batches += made
            lost += dropped
        batches += [self._make_labels(*place, own) for place, own in labels.items()]
        if not batches and not lost:
            return
        try:
            self._outbox.append_rows(self._boot, batches, lost=lost, notes=self._meter.notes())
        except OutboxError:
            with self._lock:
                self._lost += lost + sum(batch.rows for batch in batches)
            raise

    def _begin_gathering(self) -> None:
        if self._due_at is None:
            self._due_at = self._clock.monotonic() + self.settings.gather_s

    def _make_batches(self, plan: RowPlan, rows: Chosen) -> tuple[list[NewBatch], int]:
        """Encode as many rows as the day's bytes allow, uncertain ones first."""
        left = rows.take(np.argsort(rows.reasons != Reason.UNCERTAIN, kind="stable"))
        batches: list[NewBatch] = []
        dropped = 0
        names_bytes = sum(len(feature.name) + 15 for feature in plan.features)
        names_bytes += sum(len(name) + 2 for name in plan.names)
        while left.size:
            room = self._meter.room_bytes() - HEAD_BYTES - names_bytes
            fitting = max(0, room) // plan.row_bytes
            if not fitting and self._meter.is_full:
                fitting = 1  # larger than the bucket: it is paid back afterwards
            if not fitting:
                break
            count = min(fitting, ROWS_MAX, left.size)
            encoded = self._encode(plan, left.take(slice(count)))
            while encoded is None and count > 1:
                count //= 2
                encoded = self._encode(plan, left.take(slice(count)))
            left = left.take(slice(count, None))
            if encoded is None:
                dropped += 1  # one row alone is too large for a message
                continue
            self._meter.charge(len(encoded))
            batches.append(NewBatch(count, encoded))
        return batches, dropped + left.size

    def _encode(self, plan: RowPlan, rows: Chosen) -> bytes | None:
        ordered = rows.take(np.lexsort((rows.places, rows.numbers)))
        sure = np.nan_to_num(ordered.confidence).clip(0, 1)
        predicted, named = ordered.predicted, tuple[bytes, ...]()
        if plan.names:
            named = tuple(column.astype("<f4").tobytes() for column in predicted.T)
            predicted = np.zeros(ordered.size, np.float32)
        ordered = ordered._replace(confidence=sure, predicted=predicted)
        values = redact(ordered.values, plan.features, self._key)
        heads = zip(*(column.tolist() for column in ordered[:-1]), strict=True)
        try:
            return encode_batch(
                RowBatch(
                    artifact=plan.artifact,
                    stream=plan.stream,
                    share=self.settings.share,
                    features=plan.features,
                    rows=tuple(
                        RowHead(number, place, at_ms, Reason(reason), answer, confidence)
                        for number, place, at_ms, reason, answer, confidence in heads
                    ),
                    values=values,
                    names=plan.names,
                    predicted=named,
                )
            )
        except TooLargeError:
            return None

    def _make_labels(
        self, artifact: bytes, stream: int, names: tuple[str, ...], labels: Sequence[SampledLabel]
    ) -> NewBatch:
        batch = RowBatch(
            artifact=artifact,
            stream=stream,
            share=self.settings.share,
            labels=tuple(labels),
            names=names,
            predicted=tuple(b"" for _ in names),
        )
        return NewBatch(0, encode_batch(batch))


class RowSampler:
    """Chooses among the rows of one package; called by its recorder, one thread at a time."""

    def __init__(
        self,
        pool: RowPool,
        plan: RowPlan,
        choice: RowChoice,
        width: int,
        each_label: Sequence[slice] = (),
    ) -> None:
        """Begin.

        Args:
            pool: Takes what is chosen.
            plan: What of it may leave.
            choice: Draws.
            width: Columns of the packed tensor.
            each_label: Columns of the probabilities of each of several labels.
        """
        self._each_label = each_label
        self._pool, self._plan, self._choice = pool, plan, choice
        self._width, self._is_all = width, plan.columns == tuple(range(width))
        self._columns = np.array(plan.columns, np.intp)
        self._confidence_max = pool.settings.confidence_max

    def look(
        self,
        rows: NDArray[np.float32],
        outputs: Mapping[str, NDArray[Any]],
        numbers: NDArray[np.int64],
        places: NDArray[np.int64],
        at_ms: int,
    ) -> NDArray[np.intp] | None:
        """Choose among answered rows; return which were taken, None when none was.

        Args:
            rows: float32 [rows, width].
            outputs: The tensors by name, for all of them.
            numbers: Of each row's prediction; below 0 when it has none.
            places: Of each row in its prediction.
            at_ms: When they were answered.
        """
        if rows.shape[1] != self._width:
            return None  # an input of another form than the schema's numbers
        by_chance = self._choice.take(len(rows))
        probabilities = outputs.get(Role.PROBABILITIES)
        if probabilities is None or self._confidence_max <= 0:
            if not by_chance:
                return None
            is_chosen = np.zeros(len(rows), np.bool_)
        else:
            is_chosen = self._measure_confidence(probabilities) <= self._confidence_max
        reasons = np.full(len(rows), Reason.UNCERTAIN, np.uint8)
        if by_chance:
            is_chosen[by_chance], reasons[by_chance] = True, Reason.SHARE
        is_chosen &= numbers >= 0
        at = np.flatnonzero(is_chosen)
        if not len(at):
            return None
        confidence = np.zeros(len(at), np.float32)
        if probabilities is not None:
            confidence = self._measure_confidence(probabilities[at])
        chosen = Chosen(
            numbers=numbers[at],
            places=places[at],
            at_ms=np.full(len(at), at_ms, np.int64),
            reasons=reasons[at],
            predicted=split_answer(next(iter(outputs.values())))[at],
            confidence=confidence,
            values=rows[at] if self._is_all else rows[at][:, self._columns],
        )
        return at[: self._pool.add(self._plan, chosen)]

    def _measure_confidence(self, probabilities: NDArray[Any]) -> NDArray[Any]:
        """Give the highest probability of each row; of several labels the least sure one's."""
        columns = np.ascontiguousarray(probabilities.T)
        if not self._each_label:
            return np.asarray(columns.max(axis=0))
        return np.asarray(np.min([columns[own].max(axis=0) for own in self._each_label], axis=0))
