"""Late labels on their way to the server: checked against what was answered, kept in the outbox.

A label is told good or bad at once, because only here it is known what was answered; it is on
disk with the next ``flush``, which the owner calls about once a second, because a commit for each
would wear out flash. What was answered is remembered in memory (``recent_answers.py``): a label
that comes after a restart of the agent, or after too many answers, is refused with that reason.

Invariant: at most WAITING_MAX labels wait for a disk that refuses; beyond, the oldest are counted
as dropped.
"""

import math
import re
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_agent.adapters.named_answers import NUMBERS_KEPT
from edge_agent.adapters.outbox import Outbox
from edge_agent.adapters.recent_answers import ROWS_KEPT, Answer, RecentAnswers
from edge_agent.contract.answer_parts import AnswerPart
from edge_agent.contract.labels import LabelRow
from edge_agent.core.late_labels import Truth, read_truth
from edge_agent.errors import InputError, OutboxError

if TYPE_CHECKING:
    from edge_agent.adapters.row_sampler import RowPool

WAITING_MAX = 10_000
_ID = re.compile(r"([0-9a-f]{16})-([0-9a-f]{1,4})-([0-9a-f]{1,15})(?:\.([0-9]{1,4}))?")


class DurableLabels:
    """The ``LabelSink`` of an agent; safe to call from any thread."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        boot: int,
        find_answers: Callable[[int], RecentAnswers | None],
        rows: "RowPool | None" = None,
    ) -> None:
        """Begin with none.

        Args:
            outbox: Keeps labels.
            boot: Id of this start, which its prediction ids begin with.
            find_answers: Gives what a slot answered lately, by its number within this boot.
            rows: Takes labels of rows that were sampled.
        """
        self._rows = rows
        self._outbox, self._boot, self._find_answers = outbox, boot, find_answers
        self._lock = threading.Lock()
        self._waiting: deque[LabelRow] = deque()
        self._lost = 0

    def add(self, prediction_id: str, label: Truth) -> None:
        """Keep the labels of one answer, all or none; see ``ports.LabelSink``."""
        answers, answer, stream, number, place = self._find(prediction_id)
        artifact, parts = answer.package
        known = read_truth(prediction_id, label, parts)
        for part in known:
            if not math.isfinite(answer.predicted[part]):
                raise InputError(
                    f"{_name(prediction_id, parts[part])} was answered with"
                    f" {answer.predicted[part]}, to which no label compares; leave it out"
                )
        twice = answers.note_labels(number, place, list(known))
        if twice is not None:
            raise InputError(
                f"{_name(prediction_id, parts[twice])} has its label already, and a label counts"
                " once; leave it out"
            )
        rows = [
            LabelRow(
                sequence=0,
                artifact=artifact,
                is_class=parts[part].is_class,
                predicted=answer.predicted[part],
                label=found,
                at_ms=max(0, answer.at_ms),
                name=parts[part].name,
            )
            for part, found in known.items()
        ]
        with self._lock:
            self._waiting.extend(rows)
            self._trim()
        if self._rows is not None and answer.is_sampled:
            from edge_agent.contract.rows import SampledLabel  # loaded with what samples

            names = tuple(part.name for part in parts if part.name)
            for part, found in known.items():
                sampled = SampledLabel(number, place, found, part)
                self._rows.add_label(artifact, stream, sampled, names)

    def flush(self) -> None:
        """Put what was taken into the outbox, in one commit.

        Raises:
            OutboxError: It waits for the next try.
        """
        with self._lock:
            rows, lost = list(self._waiting), self._lost
            self._waiting.clear()
            self._lost = 0
        if not rows and not lost:
            return
        try:
            self._outbox.append_labels(self._boot, rows, lost=lost)
        except OutboxError:
            with self._lock:
                self._waiting.extendleft(reversed(rows))
                self._lost += lost
                self._trim()
            raise

    def _trim(self) -> None:
        while len(self._waiting) > WAITING_MAX:
            self._waiting.popleft()
            self._lost += 1

    def _find(self, prediction_id: str) -> tuple[RecentAnswers, Answer, int, int, int]:
        """Return who remembers, the answer, its stream, its number and which row is meant."""
        match = _ID.fullmatch(prediction_id)
        if match is None:
            raise InputError(f"{prediction_id[:80]!r} is no prediction id; give it as answered")
        boot, stream, number, row = match.groups()
        if int(boot, 16) != self._boot:
            raise InputError(
                f"prediction {prediction_id} is not of this start of this agent"
                f" ({self._boot:016x}); what was answered before a restart is not remembered"
            )
        answers = self._find_answers(int(stream, 16))
        answer = answers.find(int(number, 16), int(row or 0)) if answers is not None else None
        if answers is None or answer is None:
            raise InputError(
                f"prediction {prediction_id} is not remembered: never given, or the slot has"
                f" answered {ROWS_KEPT} rows or {NUMBERS_KEPT} named numbers since"
            )
        if row is None and answer.rows > 1:
            raise InputError(
                f"prediction {prediction_id} has {answer.rows} rows; name one as"
                f" {prediction_id}.0 to {prediction_id}.{answer.rows - 1}"
            )
        return answers, answer, int(stream, 16), int(number, 16), int(row or 0)


def _name(prediction_id: str, part: AnswerPart) -> str:
    return f"{part.name} of {prediction_id}" if part.name else prediction_id
