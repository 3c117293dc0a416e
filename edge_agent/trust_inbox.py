"""Keeps the newest metadata and the newest assignment, and has them judged together.

They arrive in any order. Each arrival is judged anew with the other half, one judgement at a
time, and nothing is acted on before both agree. A refusal the missing half would cure is only
reported when it lasts; one that time may cure (a clock set late) is judged again now and then.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError
from edge_agent.contract.metadata import decode_bundle
from edge_agent.core.verified import AcceptedTrust, VerifiedAssignment
from edge_agent.errors import Refusal
from edge_agent.ports import AssignmentVerifier

GRACE_S = 30.0
"""A refusal that the other half would cure is reported when it lasts this long."""
REJUDGE_S = 60.0
_CURED_BY_OTHER_HALF = frozenset({Code.TUF_MISSING, Code.NOT_APPROVED, Code.ASSIGN_SIGNATURE})


@dataclass(frozen=True, slots=True)
class Judged:
    """The verifier's word on one pair of metadata and assignment."""

    metadata: bytes
    envelope: bytes
    result: VerifiedAssignment | Refusal


class TrustInbox:
    """The two halves of trust on their way in."""

    def __init__(self, verifier: AssignmentVerifier, *, grace_s: float = GRACE_S) -> None:
        self._verifier, self._grace_s = verifier, grace_s
        self._metadata = self._envelope = b""
        self._is_judging = False
        self._judged: Judged | None = None
        self._refused_since: float | None = None
        self._judge_at: float | None = None

    def put_metadata(self, payload: bytes) -> None:
        """Take a ``meta/current`` message; an empty one means there is none."""
        self._metadata = payload

    def put_envelope(self, payload: bytes) -> None:
        """Take a ``down/desired`` message; an empty one means nothing is assigned."""
        if payload != self._envelope:
            self._refused_since = None
        if not payload:
            self._judged = None
        self._envelope = payload

    def next_job(self, accepted: AcceptedTrust, *, now: float) -> Callable[[], Judged] | None:
        """Return a judgement to run if both halves are here and there is something to judge."""
        metadata, envelope = self._metadata, self._envelope
        if not metadata or not envelope or self._is_judging:
            return None
        last = self._judged
        is_news = last is None or last.metadata != metadata or last.envelope != envelope
        if not is_news and (self._judge_at is None or now < self._judge_at):
            return None
        self._is_judging = True

        def judge() -> Judged:
            result: VerifiedAssignment | Refusal
            try:
                files = decode_bundle(metadata)
                result = self._verifier.evaluate(files, envelope, accepted)
            except ContractError as error:
                result = Refusal(Code.TUF_FORMAT, str(error))
            except Refusal as refusal:
                result = refusal
            return Judged(metadata, envelope, result)

        return judge

    def take(self, judged: Judged, *, now: float) -> VerifiedAssignment | None:
        """Take a judgement; return the assignment when it was accepted."""
        self._is_judging = False
        self._judged = judged
        if isinstance(judged.result, Refusal):
            if self._refused_since is None:
                self._refused_since = now
            self._judge_at = now + REJUDGE_S
            return None
        self._refused_since = self._judge_at = None
        return judged.result

    def refusal(self, *, now: float) -> Refusal | None:
        """Return the refusal to report by now, None when there is none."""
        if self._judged is None or not isinstance(self._judged.result, Refusal):
            return None
        refusal, since = self._judged.result, self._refused_since
        is_young = since is not None and now - since < self._grace_s
        return None if refusal.code in _CURED_BY_OTHER_HALF and is_young else refusal
