"""Follows the certificate authorities that approvers list, with the certificates that arrive.

List and certificates come on their own ways and in any order; each arrival is judged anew with the
other. What lasts longer than a moment and does not fit is said in the report.
"""

import logging
from dataclasses import dataclass
from typing import Protocol

from edge_agent.core.renewal_plan import CertificateFacts
from edge_agent.errors import AgentError, EnrolmentError
from edge_agent.ports import Clock, Jobs, Lane

GRACE_S = 30.0
"""List and certificates that do not fit together are reported when it lasts this long."""
RETRY_S = 60.0
REFUSED_CHARS_MAX = 300
_LOG = logging.getLogger(__name__)


class AuthorityKeeper(Protocol):
    """What this device trusts, on disk; slow, runs in a job."""

    def follow_authorities(self, listed: tuple[str, ...], bundle: bytes) -> CertificateFacts:
        """Trust exactly the authorities that are listed, as far as their certificates are here.

        Raises:
            EnrolmentError: A certificate that nobody listed, or none of those listed.
            StorageError: The disk refused; what was trusted stays.
        """


@dataclass(frozen=True, slots=True)
class AuthoritiesFollowed:
    """A job has looked at list and certificates."""

    given: tuple[tuple[str, ...], bytes]
    facts: CertificateFacts | None
    refused: str = ""
    is_retried: bool = False


class Authorities:
    """The authorities of one device; inert without a keeper."""

    def __init__(
        self, keeper: AuthorityKeeper | None, *, clock: Clock, jobs: Jobs, grace_s: float = GRACE_S
    ) -> None:
        self._keeper, self._clock, self._jobs, self._grace_s = keeper, clock, jobs, grace_s
        self._listed: tuple[str, ...] | None = None
        self._bundle = b""
        self._seen: tuple[tuple[str, ...], bytes] | None = None
        self._is_busy = False
        self._refused, self._refused_since = "", 0.0
        self._retry_at: float | None = None

    @property
    def refused(self) -> str:
        """What does not fit, for the report; empty while it may be on its way still."""
        lasts = self._clock.monotonic() - self._refused_since >= self._grace_s
        return self._refused if lasts else ""

    def put_bundle(self, payload: bytes) -> None:
        """Take a ``meta/authorities`` message."""
        self._bundle = payload

    def put_listed(self, listed: tuple[str, ...]) -> None:
        """Take what verified ``targets`` list."""
        self._listed = listed

    def tick(self) -> None:
        """Have what arrived judged."""
        keeper, listed, bundle = self._keeper, self._listed, self._bundle
        if keeper is None or listed is None or self._is_busy:
            return
        given = (listed, bundle)
        is_due = self._retry_at is not None and self._clock.monotonic() >= self._retry_at
        if given == self._seen and not is_due:
            return
        self._is_busy, self._retry_at = True, None
        self._jobs.submit(Lane.DISK, lambda: _follow(keeper, given))

    def handle(self, done: AuthoritiesFollowed) -> None:
        """Take the result of a job."""
        self._is_busy, self._seen, now = False, done.given, self._clock.monotonic()
        if done.refused and not self._refused:
            self._refused_since = now
            _LOG.warning("authorities not followed: %s", done.refused)
        self._refused = done.refused
        self._retry_at = now + RETRY_S if done.is_retried else None


def _follow(keeper: AuthorityKeeper, given: tuple[tuple[str, ...], bytes]) -> AuthoritiesFollowed:
    try:
        return AuthoritiesFollowed(given, keeper.follow_authorities(*given))
    except EnrolmentError as error:
        return AuthoritiesFollowed(given, None, str(error)[:REFUSED_CHARS_MAX])
    except AgentError as error:
        return AuthoritiesFollowed(given, None, str(error)[:REFUSED_CHARS_MAX], is_retried=True)
