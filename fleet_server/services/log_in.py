"""Log in: a name and a password for a token that works for twelve hours.

Wrong passwords cost the caller time: the name and the address wait longer after each. A name that
nobody has is answered exactly like a wrong password, after the same work. Nothing here runs for a
request that shows a token: argon2 is for logins only.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NoReturn

from fleet_server.core.lockout import PER_NAME, LockoutPolicy
from fleet_server.errors import ThrottledError, UnknownCallerError
from fleet_server.ports.clock import Clock
from fleet_server.ports.people import Passwords, PeopleBook, PeopleBooks, Person
from fleet_server.services.issue_tokens import Issued, TokenDesk
from fleet_server.services.login_guard import FailureMemory, RowBudget, find_network
from fleet_server.services.manage_people import NAME, PASSWORD_CHARS

UNKNOWN = "user/unknown"
"""Subject of a failure for a name nobody has: what was typed may be a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginDesk:
    """Lets people in.

    Attributes:
        books: Opens transactions.
        passwords: Checks them.
        tokens: Makes the token.
        clock: Time of day, and monotonic for waits in memory.
        addresses: Failures by address.
        strangers: Failures of names that nobody has.
        rows: How many audit rows failures may write.
        policy: Waits of a name.
    """

    books: PeopleBooks
    passwords: Passwords
    tokens: TokenDesk
    clock: Clock
    addresses: FailureMemory
    strangers: FailureMemory
    rows: RowBudget
    policy: LockoutPolicy = PER_NAME

    def log_in(self, name: str, password: str, *, address: str) -> Issued:
        """Return a new token.

        Args:
            name: As typed.
            password: As typed.
            address: Where the caller sits.

        Raises:
            UnknownCallerError: No such person, a wrong password, or a disabled person.
            ThrottledError: The name or the address failed too often; says how long to wait.
            OverloadedError: Too many passwords are being checked.
        """
        network = find_network(address)
        _refuse_wait(self.addresses.find_wait_s(network), "this address")
        person = self._find_unlocked(name)
        encoded = person.password_argon2 if person else None
        is_long = len(password) > PASSWORD_CHARS[-1]
        is_right = self.passwords.is_match(encoded, "" if is_long else password) and not is_long
        if person is None or not is_right or person.disabled_at is not None:
            self._fail(name, network)
        renewed = ""
        if self.passwords.is_dated(person.password_argon2):
            renewed = self.passwords.hash(password)
        with self.books.writing() as book:
            found = book.people.find(person.name)
            if found is None or found.password_argon2 != person.password_argon2:
                raise _wrong()  # changed while the password was checked
            self._refuse_locked(found)
            now = self.clock.now()
            found = replace(
                found,
                login_failures=0,
                locked_until=None,
                last_login_at=now,
                password_argon2=renewed or found.password_argon2,
            )
            book.people.put(found)
            issued = self.tokens.open_session(book, found)
            book.audit.append(
                at=now,
                actor=found.name,
                act="login.done",
                subject=f"user/{found.name}",
                detail={"address": network, "token": issued.token.id},
            )
        self.addresses.forget(network)
        return issued

    def check_own(self, name: str, password: str, *, address: str) -> None:
        """Check the password of somebody who is logged in; raises as ``log_in``."""
        person = self._find_unlocked(name)
        if person is None or not self.passwords.is_match(person.password_argon2, password):
            self._fail(name, find_network(address))

    def _find_unlocked(self, name: str) -> Person | None:
        """Return the person; raises ThrottledError while the name waits."""
        if not NAME.fullmatch(name):
            return None
        with self.books.reading() as book:
            person = book.people.find(name)
        if person is None:
            _refuse_wait(self.strangers.find_wait_s(name), "this name")
        else:
            self._refuse_locked(person)
        return person

    def _refuse_locked(self, person: Person) -> None:
        if person.locked_until is not None:
            wait_s = (person.locked_until - self.clock.now()).total_seconds()
            if wait_s <= self.policy.lock_s_max:  # beyond it the clock was turned back
                _refuse_wait(wait_s, "this name")

    def _fail(self, name: str, network: str) -> NoReturn:
        """Count a failure, note it in the log, and raise.

        What was asked for while the name was free but answered when it waits is told to wait,
        right or wrong: the answer says nothing of the password.
        """
        self.addresses.note_failure(network)
        now = self.clock.now()
        with self.books.writing() as book:
            person = book.people.find(name) if NAME.fullmatch(name) else None
            if person is None:
                wait_s = self.strangers.note_failure(name) if NAME.fullmatch(name) else 0.0
                failures = 0
            else:
                self._refuse_locked(person)
                failures = person.login_failures + 1
                wait_s = self.policy.find_lock_s(failures)
                until = now + timedelta(seconds=wait_s) if wait_s else None
                book.people.put(replace(person, login_failures=failures, locked_until=until))
            subject = f"user/{person.name}" if person else UNKNOWN
            self._note(book, "login.failed", subject, {"address": network})
            if person is not None and wait_s:
                detail = {"address": network, "failures": failures, "locked_s": wait_s}
                self._note(book, "login.locked", subject, detail)
        raise _wrong()

    def _note(self, book: PeopleBook, act: str, subject: str, detail: dict[str, object]) -> None:
        left_out = self.rows.take()
        if left_out is None:
            return
        if left_out:
            detail = {**detail, "rows_left_out": left_out}
        book.audit.append(at=self.clock.now(), actor="api", act=act, subject=subject, detail=detail)


def _refuse_wait(wait_s: float, who: str) -> None:
    if wait_s > 0:
        raise ThrottledError(
            f"too many wrong passwords from {who}; try again in {wait_s:.0f} s"
            " (on the server, `edgefleet user enable NAME` lifts a name's wait)",
            retry_after_s=wait_s,
        )


def _wrong() -> UnknownCallerError:
    return UnknownCallerError(
        "the name or the password is wrong; ask an administrator for a new one"
    )
