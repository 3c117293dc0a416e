"""A device's side of one update, from the messages as they came; loads the agent's code alone."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent.adapters.tuf_verifier import TufVerifier
from edge_agent.core.verified import AcceptedTrust, VerifiedAssignment
from edge_agent.trust_inbox import TrustInbox

JUDGEMENTS_MAX = 4


@dataclass(frozen=True)
class Messages:
    """What one update is: payloads of ``meta/current`` and ``down/desired``, bins by topic."""

    metadata: bytes
    envelope: bytes
    bins: Mapping[str, bytes]

    @property
    def size_bytes(self) -> int:
        return len(self.metadata) + len(self.envelope) + sum(map(len, self.bins.values()))


def judge_update(
    verifier: TufVerifier, messages: Messages, accepted: AcceptedTrust
) -> VerifiedAssignment:
    """Judge as the agent does, asking for bins as they turn out to be needed."""
    inbox = TrustInbox(verifier)
    inbox.put_metadata(messages.metadata)
    inbox.put_envelope(messages.envelope)
    for now in range(JUDGEMENTS_MAX):
        job = inbox.next_job(accepted, frozenset(), now=float(now))
        if job is None:
            break
        verdict = inbox.take(job(), now=float(now))
        if isinstance(verdict.result, VerifiedAssignment):
            return verdict.result
        for topic in inbox.bin_topics:
            inbox.put_bin(topic, messages.bins[topic])
    raise AssertionError(f"not verified: {verdict}")


def save_messages(folder: Path, messages: Messages, root: bytes, now: datetime) -> None:
    """Write an update for an interpreter of its own."""
    folder.mkdir()
    (folder / "root").write_bytes(root)
    (folder / "metadata").write_bytes(messages.metadata)
    (folder / "envelope").write_bytes(messages.envelope)
    bins = {topic: data.hex() for topic, data in messages.bins.items()}
    (folder / "rest.json").write_text(json.dumps({"now": now.isoformat(), "bins": bins}))


def verify_saved(folder_name: str) -> None:
    """Verify what ``save_messages`` wrote, with a directory of its own."""
    folder = Path(folder_name)
    rest = json.loads((folder / "rest.json").read_text())
    tuf_dir = folder / "tuf"
    shutil.rmtree(tuf_dir, ignore_errors=True)
    verifier = TufVerifier(
        directory=tuf_dir,
        bootstrap_root=(folder / "root").read_bytes(),
        device_id="cam-1",
        fleet="fleet-1",
        profile="camera",
        clock=_Stopped(datetime.fromisoformat(rest["now"])),
    )
    bins = {topic: bytes.fromhex(data) for topic, data in rest["bins"].items()}
    messages = Messages(
        (folder / "metadata").read_bytes(), (folder / "envelope").read_bytes(), bins
    )
    judge_update(verifier, messages, AcceptedTrust())


@dataclass(frozen=True)
class _Stopped:
    """A clock that shows one instant."""

    at: datetime

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0
