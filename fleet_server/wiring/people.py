"""People of a workspace: users, logins, tokens."""

from dataclasses import dataclass

from fleet_server.adapters.database.api_tokens import make_secret
from fleet_server.adapters.database.people_book import DatabasePeopleBooks
from fleet_server.adapters.passwords import Argon2Passwords
from fleet_server.bootstrap import Fleet
from fleet_server.core.lockout import PER_ADDRESS, PER_NAME
from fleet_server.ports.people import Passwords, PeopleBooks
from fleet_server.services.issue_tokens import TokenDesk
from fleet_server.services.log_in import LoginDesk
from fleet_server.services.login_guard import FailureMemory, RowBudget
from fleet_server.services.manage_people import PeopleDesk
from fleet_server.services.note_refusals import RefusalNotes
from fleet_server.wiring.trust import user_name


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """What one process knows of people; made once, because waits are counted in it."""

    fleet: Fleet
    books: PeopleBooks
    passwords: Passwords
    tokens: TokenDesk
    logins: LoginDesk
    refusals: RefusalNotes

    def desk(self, actor: str, *, oneself: str = "") -> PeopleDesk:
        """Return what adds and changes people in somebody's name (``PeopleDesk``)."""
        return PeopleDesk(
            books=self.books,
            passwords=self.passwords,
            clock=self.fleet.clock,
            actor=actor,
            oneself=oneself,
        )


def build_people(fleet: Fleet, *, passwords: Passwords | None = None) -> People:
    """Return what lets people in and finds who a token stands for.

    Args:
        fleet: The workspace.
        passwords: Hashes; None takes argon2id.
    """
    books = DatabasePeopleBooks(fleet.engine)
    hashes = passwords or Argon2Passwords()
    tokens = TokenDesk(books=books, clock=fleet.clock, make_secret=make_secret)
    logins = LoginDesk(
        books=books,
        passwords=hashes,
        tokens=tokens,
        clock=fleet.clock,
        addresses=FailureMemory(PER_ADDRESS, fleet.clock),
        strangers=FailureMemory(PER_NAME, fleet.clock),
        rows=RowBudget(fleet.clock),
    )
    refusals = RefusalNotes(books=books, clock=fleet.clock, rows=RowBudget(fleet.clock))
    return People(
        fleet=fleet,
        books=books,
        passwords=hashes,
        tokens=tokens,
        logins=logins,
        refusals=refusals,
    )


def build_people_desk(fleet: Fleet, *, actor: str | None = None) -> PeopleDesk:
    """Return what the command line does with people."""
    return build_people(fleet).desk(actor or user_name())
