"""The process of trust: ``python -m edge_agent.trust_worker CONTROL_FD DIRECTORY``.

The agent's child, started when metadata, an assignment or the device's certificate is to be looked
at, and ended when nothing was asked for a while: what verifies (python-tuf, cryptography) takes a
third of an agent's memory and is needed once an hour. While it lives it remembers what it has
verified, as ``TufVerifier`` does.

Operations, each answered by ``{"value"}`` or ``{"error", "code", "detail"}``:

* ``judge`` (files and envelope beside it), ``stored``: of ``TufVerifier``;
* ``begin``, ``prepare``, ``accept``, ``follow``: of ``FileIdentityRenewer``; ``facts`` reads alone.
"""

import logging
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_agent.adapters.child_side import settle_as_child
from edge_agent.adapters.identity_renewer import FileIdentityRenewer, read_facts
from edge_agent.adapters.identity_store import load_identity
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.trust_words import (
    Frame,
    FrameError,
    facts_to_json,
    keys_from_json,
    receive_frame,
    send_frame,
    verdict_to_json,
)
from edge_agent.adapters.tuf_verifier import TufVerifier
from edge_agent.core.verified import AcceptedTrust
from edge_agent.errors import EnrolmentError, StorageError, words_of

LINGER_S = 20.0
OPERATION_S = 60
"""Longest time for one; then the kernel ends this process, even in native code."""
DETAIL_CHARS_MAX = 1_000
_OOM_SCORE = 800
"""When the device's memory runs out: before what answers predictions."""
_LOG = logging.getLogger(__name__)


def main() -> int:
    """Obey until nothing is asked any more."""
    connected, directory = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])
    settle_as_child(oom_score=_OOM_SCORE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    work = TrustWork(directory)
    while select.select([connected], [], [], LINGER_S)[0]:
        try:
            head, parts = receive_frame(connected)
            # Not handled on purpose: the default action ends even a process stuck in native code.
            signal.alarm(OPERATION_S)
            send_frame(connected, *work.answer(head, parts))
            signal.alarm(0)
        except FrameError as error:
            _LOG.debug("the agent is gone: %s", error)
            break
    return 0


class ToldClock(SystemClock):
    """Says the time of day that came with the operation."""

    def __init__(self) -> None:
        """Begin with the system's."""
        self.now_at = super().now()

    def now(self) -> datetime:
        """Return what was told last, aware UTC."""
        return self.now_at


class TrustWork:
    """Obeys the agent of one directory."""

    def __init__(self, directory: Path) -> None:
        """Load what the agent was enrolled with; raises AgentError."""
        self._directory, self._clock = directory, ToldClock()
        identity = load_identity(directory)
        self._verifier = TufVerifier(
            directory=directory / "tuf",
            bootstrap_root=identity.root,
            device_id=identity.device_id,
            fleet=identity.fleet,
            profile=identity.profile,
            clock=self._clock,
        )

    def answer(self, head: Mapping[str, Any], parts: Sequence[bytes]) -> Frame:
        """Do one operation; what was refused is an answer, too."""
        try:
            self._clock.now_at = datetime.fromisoformat(head["now"])
            return self._obey(head, parts)
        except StorageError as error:
            return _refuse("storage", error.detail, str(error.code))
        except EnrolmentError as error:
            return _refuse("enrolment", str(error))
        except Exception as error:  # noqa: BLE001 - a door: the agent decides what becomes of it
            _LOG.exception("%s failed", head.get("op"))
            return _refuse("other", f"{head.get('op')}: {words_of(error)}; the log has the trace")

    def _obey(self, head: Mapping[str, Any], parts: Sequence[bytes]) -> Frame:
        match head["op"]:
            case "judge":
                envelope, *contents = parts
                verdict = self._verifier.judge(
                    dict(zip(head["files"], contents, strict=True)),
                    envelope,
                    AcceptedTrust.from_json(head["accepted"]),
                    keys_from_json(head["held"]),
                )
                return {"value": verdict_to_json(verdict)}, []
            case "stored":
                files = self._verifier.stored_files()
                return {"value": list(files)}, list(files.values())
            case "facts":
                return {"value": facts_to_json(read_facts(load_identity(self._directory)))}, []
            case _:
                return {"value": self._renew(head, parts)}, []

    def _renew(self, head: Mapping[str, Any], parts: Sequence[bytes]) -> dict[str, Any]:
        changes: list[object] = []
        renewer = FileIdentityRenewer(
            load_identity(self._directory),
            self._clock,
            on_renewed=lambda _: None,  # the agent looks which identity is in use
            on_trusted=changes.append,
        )
        request = ""
        match head["op"]:
            case "begin":
                pass  # reading is all
            case "prepare":
                request = renewer.prepare()
            case "accept":
                renewer.accept(head["certificate"])
            case "follow":
                renewer.follow_authorities(tuple(head["listed"]), parts[0])
            case unknown:
                raise ValueError(f"unknown operation {unknown!r:.40}")
        return {
            "request": request,
            "facts": facts_to_json(renewer.facts),
            "is_trust_changed": bool(changes),
        }


def _refuse(kind: str, detail: str, code: str = "") -> Frame:
    return {"error": kind, "code": code, "detail": detail[:DETAIL_CHARS_MAX]}, []


if __name__ == "__main__":
    sys.exit(main())
