"""Keeps the device's certificate from running out: asks for the next one in time.

Turned by the agent's loop like its other parts: ``tick`` when time passed, ``handle`` for the
result of a job, ``on_answer`` for a message. Key, disk and certificate are the renewer's, beside
the loop. What runs is never touched: a renewal that fails only leaves the old certificate in use
until it expires, and is said in the report and by `edge-agent status`.

Also asks, at once but spread, when approvers list a newer authority (``authorities.py``).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from edge_agent.authorities import GRACE_S, Authorities, AuthoritiesFollowed, AuthorityKeeper
from edge_agent.contract.errors import ContractError
from edge_agent.contract.renewal import CertificateAnswer, RenewRequest
from edge_agent.contract.topics import Channel
from edge_agent.core.renewal_plan import (
    ANSWER_S,
    REST_S,
    CertificateFacts,
    find_due_at,
    find_wait_s,
)
from edge_agent.errors import AgentError
from edge_agent.ports import Clock, Jitter, Jobs, Lane, Link

PROBLEM_CHARS_MAX = 300
_LOG = logging.getLogger(__name__)


class IdentityRenewer(AuthorityKeeper, Protocol):
    """The identity on disk; everything but ``facts`` may be slow and runs in a job."""

    @property
    def facts(self) -> CertificateFacts:
        """What the certificate in use says."""

    def prepare(self) -> str:
        """Make the next key durable, or take up the one that was made; return a request, PEM.

        Raises:
            StorageError: The disk refused.
        """

    def accept(self, certificate: str) -> CertificateFacts:
        """Check a certificate, make it and its key the identity, and let the link use it.

        Raises:
            EnrolmentError: It is not of our authority, not for this device, or for another key.
            StorageError: The disk refused; the former identity stays.
        """

    def note_problem(self, problem: str) -> None:
        """Keep for `edge-agent status` why renewal does not get on; empty when it does."""


@dataclass(frozen=True, slots=True)
class RequestMade:
    """A request is ready to be sent."""

    csr: str


@dataclass(frozen=True, slots=True)
class Renewed:
    """A new certificate is the identity now."""

    facts: CertificateFacts


@dataclass(frozen=True, slots=True)
class RenewalFailed:
    """A job did not do what it should."""

    problem: str


class Renewal:
    """Renewal of one device; inert without a renewer."""

    def __init__(
        self,
        renewer: IdentityRenewer | None,
        *,
        clock: Clock,
        jitter: Jitter,
        jobs: Jobs,
        link: Link,
        find_floor: Callable[[], datetime],
        grace_s: float = GRACE_S,
    ) -> None:
        """Prepare.

        Args:
            renewer: The identity on disk; None for a device that never renews.
            clock: Time.
            jitter: Numbers in [0, 1).
            jobs: For slow work.
            link: Sends requests.
            find_floor: Gives an instant that has passed for sure, for clocks that start anew.
            grace_s: How long what does not fit together stays unreported.
        """
        self._renewer, self._clock, self._jitter = renewer, clock, jitter
        self._jobs, self._link, self._find_floor = jobs, link, find_floor
        self._spread = jitter()
        self._try_at = 0.0
        self._is_busy = False
        self._asked: str | None = None
        self._tries = 0
        self._problem = ""
        self._spread_s = 0.0
        self.authorities = Authorities(renewer, clock=clock, jobs=jobs, grace_s=grace_s)

    @property
    def report(self) -> Mapping[str, str]:
        """What the agent's report says of the certificate."""
        if self._renewer is None:
            return {}
        said = {
            "serial": self._renewer.facts.serial,
            "authority": self._renewer.facts.authority,
            "problem": self._problem,
            "refused": self.authorities.refused,
        }
        return {name: text for name, text in said.items() if text}

    @property
    def next_at(self) -> float | None:
        """Monotonic instant of the next thing to do, None when only time of day tells."""
        return self._try_at if self._asked is not None else None

    def tick(self) -> None:
        """Ask when it is time to; give up on an answer that does not come."""
        renewer, now = self._renewer, self._clock.monotonic()
        self.authorities.tick()
        if renewer is None or self._is_busy or now < self._try_at:
            return
        if self._asked is not None:
            self._asked = None
            self._fail("the server did not answer")
            return
        due_at = find_due_at(renewer.facts, jitter=self._spread)
        is_due = self._now_at() >= due_at or renewer.facts.is_of_former
        if not is_due or not self._link.is_connected:
            return
        self._is_busy = True
        self._jobs.submit(Lane.DISK, lambda: _prepare(renewer))

    def handle(self, event: object) -> None:
        """Take the result of a job."""
        if isinstance(event, AuthoritiesFollowed):
            self._follow(event)
            return
        self._is_busy = False
        match event:
            case RequestMade(csr=csr):
                self._ask(csr)
            case Renewed(facts=facts):
                _LOG.info("certificate renewed: %s until %s", facts.serial, facts.not_after)
                self._tries, self._asked, self._problem = 0, None, ""
                self._spread = self._jitter()
                self._try_at = self._clock.monotonic() + REST_S
            case RenewalFailed(problem=problem):
                self._asked = None
                self._fail(problem)

    def follow_listed(self, listed: tuple[str, ...], *, spread_s: float) -> None:
        """Take the authorities that verified metadata lists; ask within ``spread_s`` if need be."""
        self._spread_s = spread_s
        self.authorities.put_listed(listed)

    def _follow(self, done: AuthoritiesFollowed) -> None:
        self.authorities.handle(done)
        if done.facts is None or not done.facts.is_of_former or self._is_busy:
            return
        if self._asked is None:
            self._tries = 0
            self._try_at = self._clock.monotonic() + self._jitter() * self._spread_s

    def on_answer(self, payload: bytes) -> None:
        """Take a ``down/cert`` message; one that nobody waits for is ignored."""
        renewer = self._renewer
        if renewer is None or self._is_busy:
            return
        try:
            answer = CertificateAnswer.decode(payload)
        except ContractError as error:
            _LOG.warning("answer to a renewal ignored: %s", error)
            return
        if answer.serial != renewer.facts.serial:
            return  # to a request of an earlier certificate
        if answer.certificate:
            self._is_busy = True
            certificate = answer.certificate
            self._jobs.submit(Lane.DISK, lambda: _accept(renewer, certificate))
        elif self._asked is not None:
            self._asked = None
            self._fail(f"{answer.code}: {answer.detail}", retry_after_s=answer.retry_after_s)

    def _ask(self, csr: str) -> None:
        assert self._renewer is not None  # noqa: S101 - only a renewer's job brings one
        facts = self._renewer.facts
        request = RenewRequest(csr=csr, serial=facts.serial, authority=facts.newest)
        if self._link.publish(Channel.RENEW, request.encode(), qos=1):
            self._asked = request.serial
            self._try_at = self._clock.monotonic() + ANSWER_S
        else:
            self._fail("no connection to the server")

    def _fail(self, problem: str, *, retry_after_s: float = 0) -> None:
        renewer = self._renewer
        assert renewer is not None  # noqa: S101 - without one nothing is tried
        self._tries += 1
        wait_s = find_wait_s(
            self._tries,
            jitter=self._jitter(),
            left=renewer.facts.not_after - self._now_at(),
            retry_after_s=retry_after_s,
        )
        self._try_at = self._clock.monotonic() + wait_s
        _LOG.warning("certificate not renewed: %s; trying again in %.0f s", problem, wait_s)
        problem = problem[:PROBLEM_CHARS_MAX]
        if problem != self._problem:
            self._problem = problem
            self._jobs.submit(Lane.DISK, lambda: _note(renewer, problem))

    def _now_at(self) -> datetime:
        return max(self._clock.now(), self._find_floor())


def _prepare(renewer: IdentityRenewer) -> object:
    try:
        return RequestMade(renewer.prepare())
    except AgentError as error:
        return RenewalFailed(str(error))


def _accept(renewer: IdentityRenewer, certificate: str) -> object:
    try:
        return Renewed(renewer.accept(certificate))
    except AgentError as error:
        return RenewalFailed(str(error))


def _note(renewer: IdentityRenewer, problem: str) -> None:
    try:
        renewer.note_problem(problem)
    except AgentError:
        _LOG.exception("why the certificate is not renewed cannot be kept")
