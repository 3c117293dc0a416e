"""Keeps the newest metadata, hash bins and assignment, and has them judged together.

They arrive in any order. Each arrival is judged anew with the others, one judgement at a time, and
nothing is acted on before they agree. A refusal that a missing part would cure is only reported
when it lasts; one that time may cure (a clock set late) is judged again now and then.

Metadata alone is judged too: it tells what of the packages on this device was withdrawn. Which
bins are needed is a judgement's own answer; what arrives of others is not kept.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from edge_agent.contract.codes import Code
from edge_agent.contract.errors import ContractError, TooLargeError
from edge_agent.contract.metadata import (
    BUNDLE_INFLATED_BYTES_MAX,
    decode_bin,
    decode_bundle,
)
from edge_agent.contract.topics import meta_topic
from edge_agent.core.release import PackageKey
from edge_agent.core.verified import AcceptedTrust
from edge_agent.errors import Refusal
from edge_agent.ports import AssignmentVerifier, Verdict

GRACE_S = 30.0
"""A refusal that the other half would cure is reported when it lasts this long."""
REJUDGE_S = 60.0
BINS_BYTES_MAX = 4_194_304
"""Compressed messages of all bins together; 54,000 packages in 512 bins take 4 kB a bin."""
_CURED_BY_OTHER_HALF = frozenset({Code.TUF_MISSING, Code.NOT_APPROVED, Code.ASSIGN_SIGNATURE})
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Received:
    """What one judgement is about."""

    metadata: bytes = b""
    envelope: bytes = b""
    bins: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """The verifier's word on what had arrived."""

    received: _Received
    verdict: Verdict


class TrustInbox:
    """The parts of trust on their way in."""

    def __init__(self, verifier: AssignmentVerifier, *, grace_s: float = GRACE_S) -> None:
        self._verifier, self._grace_s = verifier, grace_s
        self._metadata = self._envelope = b""
        self._bins: dict[str, bytes] = {}
        self._roles_by_topic: Mapping[str, str] = {}
        self._is_judging = False
        self._judged: Judged | None = None
        self._refused_since: float | None = None
        self._judge_at: float | None = None

    @property
    def bin_topics(self) -> frozenset[str]:
        """Topics of the bins that are needed now, as the last judgement told."""
        return frozenset(self._roles_by_topic)

    def put_metadata(self, payload: bytes) -> None:
        """Take a ``meta/current`` message; an empty one means there is none."""
        self._metadata = payload

    def put_envelope(self, payload: bytes) -> None:
        """Take a ``down/desired`` message; an empty one means nothing is assigned."""
        if payload != self._envelope:
            self._refused_since = None
        self._envelope = payload

    def put_bin(self, topic: str, payload: bytes) -> bool:
        """Take a message of a bin; False when it is of none that is needed."""
        role = self._roles_by_topic.get(topic)
        if role is None:
            return False
        others = sum(len(data) for name, data in self._bins.items() if name != role)
        if others + len(payload) > BINS_BYTES_MAX:
            too_large = TooLargeError("hash bins together", others + len(payload), BINS_BYTES_MAX)
            _LOG.warning("%s ignored: %s", topic, too_large)
        else:
            self._bins[role] = payload
        return True

    def next_job(
        self, accepted: AcceptedTrust, held: frozenset[PackageKey], *, now: float
    ) -> Callable[[], Judged] | None:
        """Return a judgement to run if metadata is here and there is something to judge."""
        received = _Received(self._metadata, self._envelope, tuple(sorted(self._bins.items())))
        if not received.metadata or self._is_judging:
            return None
        is_news = self._judged is None or self._judged.received != received
        if not is_news and (self._judge_at is None or now < self._judge_at):
            return None
        self._is_judging = True
        return lambda: Judged(received, _judge(self._verifier, received, accepted, held))

    def judge_stored(self, accepted: AcceptedTrust, held: frozenset[PackageKey]) -> Verdict | None:
        """Judge, at once, what is held by the metadata that was trusted before this start."""
        files = self._verifier.stored_files() if held else {}
        return self._verifier.judge(files, b"", accepted, held) if files else None

    def take(self, judged: Judged, *, now: float) -> Verdict:
        """Take a judgement; return what the verifier said."""
        self._is_judging = False
        self._judged = judged
        verdict = judged.verdict
        if verdict.standing is not None:
            self._need(verdict.standing.bins)
        if _find_refusal(verdict) is not None:
            if self._refused_since is None:
                self._refused_since = now
            self._judge_at = now + REJUDGE_S
        else:
            self._refused_since = self._judge_at = None
        return verdict

    def refusal(self, *, now: float) -> Refusal | None:
        """Return the refusal to report by now, None when there is none."""
        refusal = _find_refusal(self._judged.verdict) if self._judged is not None else None
        if refusal is None:
            return None
        since = self._refused_since
        is_young = since is not None and now - since < self._grace_s
        return None if refusal.code in _CURED_BY_OTHER_HALF and is_young else refusal

    def _need(self, bins: frozenset[str]) -> None:
        self._roles_by_topic = {meta_topic(role): role for role in bins}
        self._bins = {role: data for role, data in self._bins.items() if role in bins}


def _judge(
    verifier: AssignmentVerifier,
    received: _Received,
    accepted: AcceptedTrust,
    held: frozenset[PackageKey],
) -> Verdict:
    wrong: Refusal | None = None
    try:
        files = decode_bundle(received.metadata)
    except ContractError as error:
        return Verdict(standing=None, result=Refusal(Code.TUF_FORMAT, str(error)))
    room = BUNDLE_INFLATED_BYTES_MAX
    for role, payload in received.bins:
        try:
            found = decode_bin(role, payload, inflated_bytes_max=room)
        except ContractError as error:
            # As if it had not arrived: it must not keep what the other bins say from being heard.
            wrong = Refusal(Code.TUF_FORMAT, str(error)[:400])
        else:
            room -= sum(len(data) for data in found.values())
            files |= found
    verdict = verifier.judge(files, received.envelope, accepted, held)
    if wrong is not None and _is_missing(verdict.result):
        verdict = replace(verdict, result=wrong)
    if wrong is not None and _is_missing(verdict.doubt):
        verdict = replace(verdict, doubt=wrong)
    return verdict


def _is_missing(said: object) -> bool:
    return isinstance(said, Refusal) and said.code is Code.TUF_MISSING


def _find_refusal(verdict: Verdict) -> Refusal | None:
    return verdict.result if isinstance(verdict.result, Refusal) else verdict.doubt
