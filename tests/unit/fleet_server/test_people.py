"""People, logins and tokens over a real database: who gets in, how long others wait."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from datetime import timedelta
from threading import Event, Thread

import pytest
from argon2 import Parameters
from argon2.profiles import CHEAPEST
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from fleet_server.adapters.database.api_tokens import make_secret, make_token
from fleet_server.adapters.database.audit_log import find_breaks
from fleet_server.adapters.database.engine import open_engine, read_session, write_session
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.database.people_book import DatabasePeopleBooks
from fleet_server.adapters.database.tables import ApiTokenRow, AuditRow, PersonRow
from fleet_server.adapters.passwords import HASHES_AT_ONCE, QUEUE_MAX, Argon2Passwords
from fleet_server.core.lockout import PER_ADDRESS, PER_NAME
from fleet_server.core.roles import Role
from fleet_server.errors import (
    ForbiddenError,
    MisuseError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    ThrottledError,
    UnknownCallerError,
)
from fleet_server.services.issue_tokens import LIVE_MAX, SESSION_LASTS, TokenDesk, check_role
from fleet_server.services.log_in import LoginDesk
from fleet_server.services.login_guard import FailureMemory, RowBudget
from fleet_server.services.manage_people import PeopleDesk
from tests.support.clock import FakeClock
from tests.support.waiting import wait_until

PASSWORD = "four random words"
HERE = "203.0.113.9"


class Hall:
    """Everything of one process over one database; another one is a restart."""

    def __init__(self, engine: Engine, clock: FakeClock) -> None:
        self.engine, self.clock = engine, clock
        books = DatabasePeopleBooks(engine)
        passwords = Argon2Passwords(CHEAPEST)
        self.people = PeopleDesk(books=books, passwords=passwords, clock=clock, actor="root")
        self.tokens = TokenDesk(books=books, clock=clock, make_secret=make_secret)
        self.logins = LoginDesk(
            books=books,
            passwords=passwords,
            tokens=self.tokens,
            clock=clock,
            addresses=FailureMemory(PER_ADDRESS, clock),
            strangers=FailureMemory(PER_NAME, clock),
            rows=RowBudget(clock),
        )

    def log_in(self, name: str = "ada", password: str = PASSWORD, address: str = HERE) -> str:
        return self.logins.log_in(name, password, address=address).secret

    def fail(self, name: str = "ada", times: int = 1, address: str = HERE) -> None:
        for _ in range(times):
            with pytest.raises(UnknownCallerError):
                self.log_in(name, "wrong password!", address)

    def acts(self) -> list[str]:
        with read_session(self.engine) as session:
            rows = session.exec(select(AuditRow).order_by(col(AuditRow.id))).all()
        assert list(find_breaks(iter(rows))) == []
        return [row.act for row in rows]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("people") / "control.db"
    migrate(path)
    engine = open_engine(path)
    yield engine
    engine.dispose()


@pytest.fixture
def hall(engine: Engine) -> Hall:
    with write_session(engine) as session:
        for table in (ApiTokenRow, PersonRow, AuditRow):
            for row in session.exec(select(table)):
                session.delete(row)
    hall = Hall(engine, FakeClock())
    hall.people.add("ada", Role.OPERATOR, PASSWORD)
    return hall


def test_a_login_gives_a_token_for_twelve_hours(hall: Hall) -> None:
    secret = hall.log_in()
    caller = hall.tokens.find_caller(secret)
    assert (caller.actor, caller.role) == ("ada", Role.OPERATOR)
    hall.clock.advance(SESSION_LASTS.total_seconds() - 1)
    hall.tokens.find_caller(secret)
    hall.clock.advance(1)
    with pytest.raises(UnknownCallerError):
        hall.tokens.find_caller(secret)


def test_nothing_in_the_database_shows_a_password_or_a_token(hall: Hall) -> None:
    secret = hall.log_in()
    with read_session(hall.engine) as session:
        stored = [
            row.model_dump_json()
            for table in (ApiTokenRow, PersonRow, AuditRow)
            for row in session.exec(select(table))
        ]
    assert not any(secret in text or PASSWORD in text for text in stored)
    assert any("$argon2id$" in text for text in stored)


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_a_name_waits_longer_after_each_failure_whether_it_exists_or_not(
    hall: Hall, name: str
) -> None:
    hall.fail(name, PER_NAME.free_tries)
    for wait_s in (30, 60, 120):
        with pytest.raises(ThrottledError) as refused:
            hall.log_in(name, PASSWORD)
        assert refused.value.retry_after_s == pytest.approx(wait_s)
        hall.clock.advance(wait_s)
        hall.fail(name)


def test_a_wait_of_a_name_survives_a_restart_and_ends(hall: Hall) -> None:
    hall.fail(times=PER_NAME.free_tries)
    restarted = Hall(hall.engine, hall.clock)
    with pytest.raises(ThrottledError):
        restarted.log_in()
    hall.clock.advance(PER_NAME.lock_s_min)
    restarted.log_in()
    assert restarted.acts().count("login.locked") == 1


@pytest.mark.parametrize("password", [PASSWORD, "wrong password!"])
def test_a_guess_overtaken_by_a_wait_learns_nothing(hall: Hall, password: str) -> None:
    """Many guesses sent at once are all checked before the first failure is counted."""
    passwords = hall.logins.passwords

    class Overtaken:
        def is_match(self, encoded: str | None, typed: str) -> bool:
            with write_session(hall.engine) as session:
                row = session.get_one(PersonRow, "ada")
                row.locked_until = hall.clock.now() + timedelta(seconds=30)
                session.add(row)
            return passwords.is_match(encoded, typed)

        def is_dated(self, encoded: str) -> bool:
            return passwords.is_dated(encoded)

        def hash(self, password: str) -> str:
            return passwords.hash(password)

    logins = replace(hall.logins, passwords=Overtaken())
    with pytest.raises(ThrottledError):
        logins.log_in("ada", password, address=HERE)


def test_enabling_a_person_lifts_the_wait(hall: Hall) -> None:
    hall.fail(times=PER_NAME.free_tries)
    hall.people.enable("ada")
    hall.log_in()


def test_an_address_waits_whatever_names_it_tries(hall: Hall) -> None:
    for number in range(PER_ADDRESS.free_tries):
        hall.fail(f"name-{number}", address="2001:db8::1")
    with pytest.raises(ThrottledError, match="this address"):
        hall.log_in(address="2001:db8::ffff")
    hall.log_in(address="2001:db8:1::1")


def test_failures_write_a_bounded_number_of_rows(hall: Hall) -> None:
    for number in range(130):
        hall.fail(f"name-{number}", address=f"198.51.100.{number}")
    assert hall.acts().count("login.failed") == 100
    hall.clock.advance(3_600)
    hall.fail("name-x")
    with read_session(hall.engine) as session:
        last = session.exec(select(AuditRow).order_by(col(AuditRow.id).desc())).first()
    assert last is not None
    assert '"rows_left_out": 30' in last.detail
    assert last.object == "user/unknown"  # what was typed may be a password


def test_memory_of_failures_is_bounded(hall: Hall) -> None:
    memory = FailureMemory(PER_NAME, hall.clock, keys_max=3)
    for key in "abcdef":
        memory.note_failure(key)
    assert len(memory) == 3


def test_demoting_disabling_and_removing_reach_every_token_at_once(hall: Hall) -> None:
    session, issued = hall.log_in(), hall.tokens.issue("ada", actor="root", days=10)
    hall.people.set_role("ada", Role.VIEWER)
    assert hall.tokens.find_caller(issued.secret).role is Role.VIEWER
    with pytest.raises(ForbiddenError, match="needs the role operator; ada has viewer"):
        check_role(hall.tokens.find_caller(session), Role.OPERATOR)
    hall.people.disable("ada", "on leave")
    for secret in (session, issued.secret):
        with pytest.raises(UnknownCallerError):
            hall.tokens.find_caller(secret)
    with pytest.raises(UnknownCallerError, match="name or the password is wrong"):
        hall.log_in()
    hall.people.enable("ada")
    hall.tokens.find_caller(issued.secret)
    hall.people.remove("ada")
    hall.people.add("ada", Role.ADMIN, PASSWORD)
    with pytest.raises(UnknownCallerError):
        hall.tokens.find_caller(issued.secret)


def test_a_token_may_less_than_its_person_but_never_more(hall: Hall) -> None:
    issued = hall.tokens.issue("ada", actor="ada", role=Role.VIEWER)
    assert hall.tokens.find_caller(issued.secret).role is Role.VIEWER
    with pytest.raises(RefusedError, match="ada is operator; a token of theirs cannot be admin"):
        hall.tokens.issue("ada", actor="ada", role=Role.ADMIN)


def test_a_revoked_token_stops_and_only_its_owner_or_an_administrator_revokes_it(
    hall: Hall,
) -> None:
    hall.people.add("bob", Role.VIEWER, PASSWORD)
    issued = hall.tokens.issue("ada", actor="ada")
    with pytest.raises(NotFoundError):
        hall.tokens.revoke(issued.token.id, actor="bob", owner="bob")
    hall.tokens.revoke(issued.token.id, actor="ada", owner="ada")
    with pytest.raises(UnknownCallerError):
        hall.tokens.find_caller(issued.secret)
    assert hall.acts()[-2:] == ["token.made", "token.revoked"]


def test_a_service_token_is_nobodys_even_when_a_person_has_its_name(hall: Hall) -> None:
    with write_session(hall.engine) as session:
        secret = make_token(session, name="ada", role="admin", now=hall.clock.now())
    caller = hall.tokens.find_caller(secret)
    assert (caller.actor, caller.person) == ("service:ada", "")
    with pytest.raises(NotFoundError):
        hall.tokens.revoke(caller.token.id, actor="ada", owner="ada")


def test_use_is_noted_at_most_once_a_minute(hall: Hall) -> None:
    issued = hall.tokens.issue("ada", actor="ada")

    def used() -> list[object]:
        with Session(hall.engine) as session:
            return [session.get_one(ApiTokenRow, issued.token.secret_sha256).last_used_at]

    hall.tokens.find_caller(issued.secret)
    first = used()
    hall.clock.advance(59)
    hall.tokens.find_caller(issued.secret)
    assert used() == first
    hall.clock.advance(1)
    hall.tokens.find_caller(issued.secret)
    assert used() == [hall.clock.now()]


def test_the_number_of_tokens_and_logins_of_a_person_is_bounded(hall: Hall) -> None:
    first = hall.log_in()
    for _ in range(LIVE_MAX):
        hall.clock.advance(1)
        hall.log_in()
        hall.tokens.issue("ada", actor="ada")
    with pytest.raises(UnknownCallerError):
        hall.tokens.find_caller(first)
    with pytest.raises(RefusedError, match="revoke one"):
        hall.tokens.issue("ada", actor="ada")


def test_another_password_ends_logins_and_keeps_tokens(hall: Hall) -> None:
    session, issued = hall.log_in(), hall.tokens.issue("ada", actor="ada")
    assert hall.people.set_password("ada", "quite another one") == 1
    with pytest.raises(UnknownCallerError):
        hall.tokens.find_caller(session)
    hall.tokens.find_caller(issued.secret)
    hall.fail()
    hall.log_in(password="quite another one")


@pytest.mark.parametrize(
    ("name", "password", "says"),
    [
        ("Ada", PASSWORD, "use 1 to 63 of a-z"),
        ("../ada", PASSWORD, "use 1 to 63 of a-z"),
        ("server", PASSWORD, "none of"),
        ("bob", "x" * 11, "11 characters; take 12 to 256"),
        ("bob", "x" * 257, "257 characters; take 12 to 256"),
    ],
)
def test_what_cannot_be_a_person_is_refused(
    hall: Hall, name: str, password: str, says: str
) -> None:
    with pytest.raises(MisuseError, match=says):
        hall.people.add(name, Role.VIEWER, password)


def test_passwords_at_the_limits_work(hall: Hall) -> None:
    for name, length in (("bob", 12), ("cy", 256)):
        hall.people.add(name, Role.VIEWER, "x" * length)
        hall.log_in(name, "x" * length)
    with pytest.raises(UnknownCallerError):
        hall.log_in("cy", "x" * 257)


def test_who_administers_cannot_lock_themselves_out(hall: Hall) -> None:
    desk = PeopleDesk(
        books=hall.people.books,
        passwords=hall.people.passwords,
        clock=hall.clock,
        actor="ada",
        oneself="ada",
    )
    for act in (desk.remove, desk.disable):
        with pytest.raises(RefusedError, match="ask another administrator"):
            act("ada")
    with pytest.raises(RefusedError, match="ask another administrator"):
        desk.set_role("ada", Role.VIEWER)


def test_a_hash_of_other_parameters_is_renewed_at_the_next_login(hall: Hall) -> None:
    with write_session(hall.engine) as session:
        row = session.get_one(PersonRow, "ada")
        row.password_argon2 = before = Argon2Passwords(replace_time_cost(CHEAPEST, 2)).hash(
            PASSWORD
        )
        session.add(row)
    hall.log_in()
    with read_session(hall.engine) as session:
        assert session.get_one(PersonRow, "ada").password_argon2 != before
    hall.log_in()


def replace_time_cost(parameters: Parameters, time_cost: int) -> Parameters:
    changed = copy(parameters)
    changed.time_cost = time_cost
    return changed


def test_more_hashes_than_the_bound_are_told_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passwords = Argon2Passwords(CHEAPEST)
    encoded = passwords.hash(PASSWORD)
    passwords.is_match(None, PASSWORD)
    go, started = Event(), list[int]()

    class Slow:
        def verify(self, *_: object) -> bool:
            started.append(1)
            return go.wait(10)

    monkeypatch.setattr(passwords, "_hasher", Slow())
    monkeypatch.setattr("fleet_server.adapters.passwords.WAIT_S_MAX", 10.0)
    found: list[bool] = []

    def ask(times: int) -> list[Thread]:
        threads = [
            Thread(target=lambda: found.append(passwords.is_match(encoded, PASSWORD)))
            for _ in range(times)
        ]
        for thread in threads:
            thread.start()
        return threads

    running = ask(HASHES_AT_ONCE)
    wait_until(lambda: len(started) == HASHES_AT_ONCE)
    waiting = ask(QUEUE_MAX)
    wait_until(lambda: passwords._waiting._value == 0)
    with pytest.raises(OverloadedError) as refused:
        passwords.is_match(encoded, PASSWORD)
    assert refused.value.retry_after_s > 0
    go.set()
    for thread in (*running, *waiting):
        thread.join(10)
    assert len(found) == HASHES_AT_ONCE + QUEUE_MAX


def test_an_unknown_name_is_checked_against_a_hash_of_equal_cost() -> None:
    passwords = Argon2Passwords()
    seen: list[str] = []
    verify = passwords._hasher.verify

    class Watched:
        def verify(self, encoded: str, password: str) -> bool:
            seen.append(encoded)
            return verify(encoded, password)

    own = passwords.hash(PASSWORD)
    passwords.is_match(None, PASSWORD)
    passwords._hasher = Watched()  # type: ignore[assignment]  # only verify is called
    assert passwords.is_match(own, PASSWORD)
    assert not passwords.is_match(None, PASSWORD)
    costs = [text.rsplit("$", 2)[0] for text in seen]
    assert costs == ["$argon2id$v=19$m=65536,t=3,p=4"] * 2


def test_a_clock_turned_back_does_not_lock_for_longer(hall: Hall) -> None:
    hall.fail(times=PER_NAME.free_tries)
    restarted = Hall(hall.engine, FakeClock(hall.clock.now() - timedelta(days=365)))
    restarted.log_in()
