"""Trust kept in a process of its own that is there only while something is to be verified.

``ProcessVerifier`` and ``ProcessRenewer`` do what ``TufVerifier`` and ``FileIdentityRenewer`` do,
in a child (``edge_agent/trust_worker.py``) that ends by itself when nothing was asked for a while.
The agent so holds neither python-tuf nor cryptography. A child that crashes, hangs or is killed is
a refusal that is tried again, never a dead agent; nothing it did not say is believed.

Invariants: one child at a time; operations may be repeated (they survive power cuts anyway), and
are once when a child that had been idle is gone.
"""

import contextlib
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_agent.adapters.child_process import kill_group, say_status
from edge_agent.adapters.identity_store import load_identity, save_problem
from edge_agent.adapters.trust_words import (
    Frame,
    FrameError,
    facts_from_json,
    keys_to_json,
    receive_frame,
    send_frame,
    verdict_from_json,
)
from edge_agent.contract.codes import Code
from edge_agent.core.release import PackageKey
from edge_agent.core.renewal_plan import CertificateFacts
from edge_agent.core.verified import AcceptedTrust
from edge_agent.errors import AgentError, EnrolmentError, Refusal, StorageError
from edge_agent.ports import Clock, Identity, Verdict

COMMAND = (sys.executable, "-m", "edge_agent.trust_worker")
ANSWER_S = 75.0
"""Above the child's own limit."""
END_S = 2.0
_LOG = logging.getLogger(__name__)


class TrustProcessError(AgentError):
    """The process of trust did not answer; trying again may help."""


class TrustProcess:
    """Starts the child when it is asked something; any thread may ask."""

    def __init__(self, directory: Path, clock: Clock, *, command: Sequence[str] = COMMAND) -> None:
        """Prepare.

        Args:
            directory: The agent's.
            clock: Time of day for the child.
            command: Of the child; number of its socket and directory are added.
        """
        self._directory, self._clock, self._command = directory, clock, command
        self._lock = threading.Lock()
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        child = self._child
        return child.pid if child is not None else None

    def begin(self) -> None:
        """Start the child already: it will be asked in a moment, and has libraries to load."""
        with self._lock, contextlib.suppress(OSError):  # asking will say so
            self._child = self._child or _Child(self._command, self._directory)

    def ask(self, operation: str, parts: Sequence[bytes] = (), **fields: Any) -> Frame:
        """Let the child do something.

        Raises:
            StorageError, EnrolmentError: As the operation says.
            TrustProcessError: It did not answer.
        """
        now_at = self._clock.now().isoformat()
        with self._lock:
            head, answered = self._exchange({"op": operation, "now": now_at, **fields}, parts)
        match head.get("error"):
            case None:
                return head, answered
            case "storage":
                raise StorageError(Code(head["code"]), head["detail"])
            case "enrolment":
                raise EnrolmentError(head["detail"])
            case _:
                raise TrustProcessError(f"the process that verifies failed: {head['detail']}")

    def close(self) -> None:
        """End the child."""
        with self._lock:
            if self._child is not None:
                self._child.end()
                self._child = None

    def _exchange(self, head: Mapping[str, Any], parts: Sequence[bytes]) -> Frame:
        """Ask; a child that has been idle may have ended just now, a new one is asked then."""
        if self._child is not None:
            with contextlib.suppress(FrameError):
                return self._child.exchange(head, parts)
            self._child.end()
            self._child = None
        try:
            self._child = _Child(self._command, self._directory)
        except OSError as error:
            raise TrustProcessError(f"no process to verify can be started: {error}") from error
        try:
            return self._child.exchange(head, parts)
        except FrameError as error:
            said = self._child.end()
            self._child = None
            raise TrustProcessError(f"the process that verifies {said}: {error}") from error


class _Child:
    def __init__(self, command: Sequence[str], directory: Path) -> None:
        mine, theirs = socket.socketpair()
        mine.settimeout(ANSWER_S)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, str(theirs.fileno()), str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
        self._socket = mine
        # Whenever it ends, it is waited for.
        threading.Thread(target=self._process.wait, name="trust", daemon=True).start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process.returncode is None else None

    def exchange(self, head: Mapping[str, Any], parts: Sequence[bytes]) -> Frame:
        send_frame(self._socket, head, parts)
        return receive_frame(self._socket)

    def end(self) -> str:
        """Let it end, or end it; return what became of it."""
        self._socket.close()
        try:
            status = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            kill_group(self._process)
            return "was ended by force"
        return say_status(status)


class ProcessVerifier:
    """The ``AssignmentVerifier`` of a device whose memory is short."""

    def __init__(self, process: TrustProcess) -> None:
        self._process = process

    def stored_files(self) -> Mapping[str, bytes]:
        """Return what to judge with before anything has arrived; empty when nothing is trusted."""
        try:
            head, parts = self._process.ask("stored")
        except AgentError as error:
            _LOG.error("what was trusted before cannot be looked at: %s", error)
            return {}
        return dict(zip(head["value"], parts, strict=True))

    def judge(
        self,
        files: Mapping[str, bytes],
        envelope: bytes,
        accepted: AcceptedTrust,
        held: frozenset[PackageKey] = frozenset(),
    ) -> Verdict:
        """Verify everything; when nobody can, nothing is believed and it is tried again."""
        try:
            head, _ = self._process.ask(
                "judge",
                [envelope, *files.values()],
                files=list(files),
                accepted=accepted.to_json(),
                held=keys_to_json(held),
            )
            return verdict_from_json(head["value"])
        except AgentError as error:
            _LOG.error("nothing can be verified: %s", error)
            refusal = Refusal(Code.DISK_ERROR, f"nothing can be verified: {error}"[:400])
            return Verdict(standing=None, result=refusal)


class ProcessRenewer:
    """The ``IdentityRenewer`` of the same device; its jobs run one after another."""

    def __init__(
        self,
        process: TrustProcess,
        identity: Identity,
        clock: Clock,
        *,
        on_renewed: Callable[[Identity], None],
        on_trusted: Callable[[Identity], None],
    ) -> None:
        """Prepare.

        Args:
            process: Holds keys and certificates for a moment.
            identity: In use now.
            clock: For the note about problems.
            on_renewed: Called in the job's thread once a new identity is durable.
            on_trusted: Likewise once other authorities are trusted.
        """
        self._process, self._identity, self._clock = process, identity, clock
        self._on_renewed, self._on_trusted = on_renewed, on_trusted
        self._facts: CertificateFacts | None = None

    @property
    def facts(self) -> CertificateFacts:
        """What the certificate in use says; raises AgentError when it cannot be read."""
        if self._facts is None:
            self._do("begin")
        assert self._facts is not None  # noqa: S101 - every operation tells them
        return self._facts

    def prepare(self) -> str:
        """Make the next key durable, or take up the one that was made; return a request, PEM."""
        return str(self._do("prepare")["request"])

    def accept(self, certificate: str) -> CertificateFacts:
        """Check a certificate, make it and its key the identity, and let the link use it."""
        self._do("accept", certificate=certificate)
        return self.facts

    def follow_authorities(self, listed: tuple[str, ...], bundle: bytes) -> CertificateFacts:
        """Trust exactly the authorities that are listed, as far as their certificates are here."""
        self._do("follow", [bundle], listed=listed)
        return self.facts

    def note_problem(self, problem: str) -> None:
        """Keep for `edge-agent status` why renewal does not get on; empty when it does."""
        save_problem(self._identity, problem, at=self._clock.now())

    def _do(self, operation: str, parts: Sequence[bytes] = (), **fields: Any) -> Mapping[str, Any]:
        try:
            head, _ = self._process.ask(operation, parts, **fields)
        except AgentError:
            self._take_up()  # it may have come that far
            raise
        done: Mapping[str, Any] = head["value"]
        self._facts = facts_from_json(done["facts"])
        self._take_up()
        if done["is_trust_changed"]:
            self._on_trusted(self._identity)
        return done

    def _take_up(self) -> None:
        """Use the pair that is in use on disk."""
        found = load_identity(self._identity.directory.parent)
        if found.pair != self._identity.pair:
            self._identity = replace(self._identity, pair=found.pair)
            self._on_renewed(self._identity)


def find_facts(process: TrustProcess) -> CertificateFacts:
    """Read what the certificate in use says; raises StorageError or TrustProcessError."""
    head, _ = process.ask("facts")
    return facts_from_json(head["value"])
