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
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.outbox_rows import NewBatch
from edge_agent.adapters.row_redaction import redact
from edge_agent.adapters.uplink_meter import UplinkMeter
from edge_agent.contract.errors import TooLargeError
from edge_agent.contract.rows import (
    HEAD_BYTES,
    ROWS_MAX,
    Reason,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """What may leave of one package's rows in one slot.

    Attributes:
        artifact: First 8 bytes of the package's sha256.
        stream: Number of the slot.
        features: That leave, with the rule of each.
        columns: Of the packed tensor, in the order of the features.
    """

    artifact: bytes
    stream: int
    features: tuple[RowFeature, ...] = ()
    columns: tuple[int, ...] = ()


class _Row(NamedTuple):
    head: RowHead
    values: NDArray[np.float32]


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
        self._rows: dict[RowPlan, list[_Row]] = {}
        self._labels: dict[RowPlan, list[SampledLabel]] = {}
        self._bytes = self._lost = self._labels_waiting = 0
        self._due_at: float | None = None

    def sampler_of(self, schema: ModelSchema, artifact: bytes, stream: int) -> "RowSampler | None":
        """Return what chooses among the rows of a package; None when nothing of it may leave."""
        features, columns, first = [], list[int](), 0
        rules = self.settings.models.get(schema.model, {})
        for feature in schema.features:
            rule = rules.get(feature.name)
            if rule is not None:
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
            artifact=artifact, stream=stream, features=tuple(features), columns=tuple(columns)
        )
        return RowSampler(self, plan, RowChoice(self.settings.share, self._jitter))

    def add(self, plan: RowPlan, head: RowHead, values: NDArray[np.float32]) -> bool:
        """Take a chosen row; False when too many wait, which is counted."""
        size = row_bytes(plan.features)
        with self._lock:
            if self._bytes and self._bytes + size > PENDING_BYTES_MAX:
                self._lost += 1
                return False
            self._rows.setdefault(plan, []).append(_Row(head, values))
            self._bytes += size
            self._begin_gathering()
        return True

    def add_label(self, artifact: bytes, stream: int, label: SampledLabel) -> None:
        """Take the label of a row that was chosen before; beyond a bound it is left out."""
        plan = RowPlan(artifact=artifact, stream=stream)
        with self._lock:
            if self._labels_waiting < LABELS_PENDING_MAX:
                self._labels_waiting += 1
                self._labels.setdefault(plan, []).append(label)
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
        for plan, own in rows.items():
            made, dropped = self._make_batches(plan, own)
            batches += made
            lost += dropped
        batches += [self._make_labels(plan, own) for plan, own in labels.items()]
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

    def _make_batches(self, plan: RowPlan, rows: Sequence[_Row]) -> tuple[list[NewBatch], int]:
        """Encode as many rows as the day's bytes allow, uncertain ones first."""
        left = sorted(rows, key=lambda row: row.head.reason is not Reason.UNCERTAIN)
        batches: list[NewBatch] = []
        dropped = 0
        names = sum(len(feature.name) + 15 for feature in plan.features)
        while left:
            room = self._meter.room_bytes() - HEAD_BYTES - names
            fitting = max(0, room) // row_bytes(plan.features)
            if not fitting and self._meter.is_full:
                fitting = 1  # larger than the bucket: it is paid back afterwards
            if not fitting:
                break
            taken, left = left[: min(fitting, ROWS_MAX)], left[min(fitting, ROWS_MAX) :]
            while taken:
                encoded = self._encode(plan, taken)
                if encoded is not None:
                    self._meter.charge(len(encoded))
                    batches.append(NewBatch(len(taken), encoded))
                    break
                half = len(taken) // 2
                dropped += not half  # one row alone is too large for a message
                left, taken = [*taken[half:], *left] if half else left, taken[:half]
        return batches, dropped + len(left)

    def _encode(self, plan: RowPlan, rows: Sequence[_Row]) -> bytes | None:
        ordered = sorted(rows, key=lambda row: row.head[:2])
        values = redact(np.stack([row.values for row in ordered]), plan.features, self._key)
        try:
            return encode_batch(
                RowBatch(
                    artifact=plan.artifact,
                    stream=plan.stream,
                    share=self.settings.share,
                    features=plan.features,
                    rows=tuple(row.head for row in ordered),
                    values=values,
                )
            )
        except TooLargeError:
            return None

    def _make_labels(self, plan: RowPlan, labels: Sequence[SampledLabel]) -> NewBatch:
        batch = RowBatch(
            artifact=plan.artifact,
            stream=plan.stream,
            share=self.settings.share,
            labels=tuple(labels),
        )
        return NewBatch(0, encode_batch(batch))


class RowSampler:
    """Chooses among the rows of one package; called by its recorder, one thread at a time."""

    def __init__(self, pool: RowPool, plan: RowPlan, choice: RowChoice) -> None:
        self._pool, self._plan, self._choice = pool, plan, choice
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
        chosen = dict.fromkeys(self._choice.take(len(rows)), Reason.SHARE)
        probabilities = outputs.get(Role.PROBABILITIES)
        if self._confidence_max > 0 and probabilities is not None:
            sure = np.ascontiguousarray(probabilities.T).max(axis=0)
            for at in np.flatnonzero(sure <= self._confidence_max).tolist():
                chosen.setdefault(at, Reason.UNCERTAIN)
        if not chosen:
            return None
        predicted = next(iter(outputs.values())).reshape(-1)
        taken = []
        for at, reason in sorted(chosen.items()):
            sure_of = float(probabilities[at].max()) if probabilities is not None else 0.0
            head = RowHead(
                number=int(numbers[at]),
                row=int(places[at]),
                at_ms=at_ms,
                reason=reason,
                predicted=float(predicted[at]),
                confidence=min(1.0, sure_of) if sure_of >= 0 else 0.0,
            )
            if head.number >= 0 and self._pool.add(self._plan, head, rows[at, self._columns]):
                taken.append(at)
        return np.array(taken, np.intp) if taken else None
