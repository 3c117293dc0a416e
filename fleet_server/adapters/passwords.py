"""Argon2id for the passwords of people, a few at once.

A hash costs tens of megabytes and a tenth of a second on purpose, so that whoever may ask for one
without a bound could stop the server: at most HASHES_AT_ONCE run, QUEUE_MAX wait, the rest is
told to come back. Parameters are the second choice of RFC 9106 section 4 (64 MiB, 3 passes, 4
lanes), the one for machines that cannot give 2 GiB to a login.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import BoundedSemaphore

from argon2 import Parameters, PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from fleet_server.errors import OverloadedError

HASHES_AT_ONCE = 2
QUEUE_MAX = 8
WAIT_S_MAX = 2.0
RETRY_AFTER_S = 2.0


class Argon2Passwords:
    """The ``Passwords`` of one process."""

    def __init__(self, parameters: Parameters = RFC_9106_LOW_MEMORY) -> None:
        self._hasher = PasswordHasher.from_parameters(parameters)
        self._running = BoundedSemaphore(HASHES_AT_ONCE)
        self._waiting = BoundedSemaphore(QUEUE_MAX)

    def hash(self, password: str) -> str:
        """Return the encoded hash; raises OverloadedError."""
        with self._turn():
            return self._hasher.hash(password)

    def is_match(self, encoded: str | None, password: str) -> bool:
        """Tell whether a password is the one; None takes as long as a wrong password."""
        stand_in = self._stand_in
        with self._turn():
            try:
                self._hasher.verify(encoded or stand_in, password)
            except (VerificationError, InvalidHashError):
                return False
        return encoded is not None

    def is_dated(self, encoded: str) -> bool:
        """Tell whether a hash was made with other parameters."""
        return self._hasher.check_needs_rehash(encoded)

    @cached_property
    def _stand_in(self) -> str:
        """The hash of a password that nobody has."""
        return self.hash(secrets.token_urlsafe(32))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._waiting.acquire(blocking=False):
            raise _overloaded()
        try:
            if not self._running.acquire(timeout=WAIT_S_MAX):
                raise _overloaded()
        finally:
            self._waiting.release()
        try:
            yield
        finally:
            self._running.release()


def _overloaded() -> OverloadedError:
    return OverloadedError(
        f"more than {HASHES_AT_ONCE} passwords are being checked and others wait;"
        f" try again in {RETRY_AFTER_S:g} s",
        retry_after_s=RETRY_AFTER_S,
    )
