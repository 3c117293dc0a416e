"""``edgefleet user``: people, their roles, passwords and tokens."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
    say,
)
from fleet_server.errors import MisuseError

if TYPE_CHECKING:
    from fleet_server.core.roles import Role
    from fleet_server.ports.people import ApiToken, Person
    from fleet_server.wiring.people import People

app = typer.Typer(no_args_is_help=True, help="People: add, ls, role, passwd, tokens.")

PASSWORD_VARIABLE = "EDGEFLEET_PASSWORD"  # noqa: S105 - a variable's name
ROWS_MAX = 1_000
Name = Annotated[str, typer.Argument(metavar="NAME")]
RoleArgument = Annotated[
    str, typer.Argument(metavar="ROLE", help="viewer, operator, approver, admin")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9, '.', '_' and '-'.")],
    role: Annotated[str, typer.Option(help="viewer, operator, approver or admin.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Add a person; the password is asked for twice, or taken from EDGEFLEET_PASSWORD.

    Example: edgefleet user add ada --role operator
    """
    with fleet_errors():
        wanted = _read_role(role)
        people, actor = _open(workspace)
        people.desk(actor).add(name, wanted, _ask_password(name))
        say(f"{name} is {wanted}; POST /v1/login, or edgefleet user token {name}")


@app.command("ls")
def list_people(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List people, their roles and whether they may log in.

    Example: edgefleet user ls
    """
    with fleet_errors():
        people, _ = _open(workspace)
        with people.books.reading() as book:
            found = book.people.list_page(after="", limit=ROWS_MAX)
        if as_json:
            print_json([_person_json(person) for person in found])
            return
        if not found:
            say("nobody yet; edgefleet user add NAME --role admin")
            return
        now = people.fleet.clock.now()
        rows = [
            (
                person.name,
                person.role,
                _standing(
                    person, is_locked=bool(person.locked_until and person.locked_until > now)
                ),
                _day(person.created_at),
                _day(person.last_login_at),
            )
            for person in found
        ]
        print_table("", ("name", "role", "state", "added", "last login"), rows)


@app.command("role")
def set_role(name: Name, role: RoleArgument, workspace: WorkspaceOption = None) -> None:
    """Change what a person may do; their tokens follow at once.

    Example: edgefleet user role ada admin
    """
    with fleet_errors():
        wanted = _read_role(role)
        people, actor = _open(workspace)
        people.desk(actor).set_role(name, wanted)
        say(f"{name} is {wanted}")


@app.command()
def passwd(name: Name, workspace: WorkspaceOption = None) -> None:
    """Give a person another password; their logins end, a wait after wrong ones is lifted.

    Example: edgefleet user passwd ada
    """
    with fleet_errors():
        people, actor = _open(workspace)
        kept = people.desk(actor).set_password(name, _ask_password(name))
        say(f"{name} has another password; every login of theirs has ended")
        if kept:
            say(f"{kept} tokens of theirs still work: edgefleet user tokens {name}")


@app.command()
def disable(name: Name, reason: ReasonOption = "", workspace: WorkspaceOption = None) -> None:
    """Let a person do nothing until they are enabled; no token of theirs works meanwhile.

    Example: edgefleet user disable ada --reason "laptop stolen"
    """
    with fleet_errors():
        people, actor = _open(workspace)
        people.desk(actor).disable(name, reason)
        say(f"{name} is disabled; edgefleet user enable {name} lets them in again")


@app.command()
def enable(name: Name, workspace: WorkspaceOption = None) -> None:
    """Let a person in again; lifts a wait after wrong passwords, too.

    Example: edgefleet user enable ada
    """
    with fleet_errors():
        people, actor = _open(workspace)
        people.desk(actor).enable(name)
        say(f"{name} may log in")


@app.command("rm")
def remove(name: Name, reason: ReasonOption = "", workspace: WorkspaceOption = None) -> None:
    """Remove a person; their tokens stop working for good.

    Example: edgefleet user rm ada
    """
    with fleet_errors():
        people, actor = _open(workspace)
        people.desk(actor).remove(name, reason)
        say(f"{name} is gone; what they did stays in the audit log")


@app.command("token")
def make_token(
    name: Name,
    days: Annotated[int, typer.Option(help="How long it works.", min=1, max=1_095)] = 90,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    role: Annotated[str, typer.Option(help="Less than the person's role, for this token.")] = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token for a program that acts for a person, and print it once.

    Example: edgefleet user token ada --days 30 --label ci --role viewer
    """
    with fleet_errors():
        people, actor = _open(workspace)
        wanted = _read_role(role) if role else None
        issued = people.tokens.issue(name, actor=actor, days=days, label=label, role=wanted)
        if as_json:
            print_json({"token": issued.secret, **_token_json(issued.token)})
            return
        typer.echo(issued.secret)
        token = issued.token
        say(
            f"{token.id} of {name}, {token.role}, works until {_day(token.expires_at)}; it is not"
            f" shown again; edgefleet user revoke-token {token.id} takes it back"
        )


@app.command("tokens")
def list_tokens(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only this person's.")] = "",
    is_all: Annotated[bool, typer.Option("--all", help="Those that work no more, too.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tokens and logins, never the secrets.

    Example: edgefleet user tokens ada
    """
    with fleet_errors():
        people, _ = _open(workspace)
        now = people.fleet.clock.now()
        with people.books.reading() as book:
            page = book.tokens.list_page(name=name, after="", limit=ROWS_MAX)
        found = [token for token in page if is_all or token.is_live(now)]
        if as_json:
            print_json([_token_json(token) for token in found])
            return
        columns = ("id", "of", "kind", "role", "label", "until", "last used", "state")
        rows = [
            (
                token.id,
                token.name,
                token.kind,
                token.role,
                token.label,
                _day(token.expires_at),
                _day(token.last_used_at),
                "works" if token.is_live(now) else "revoked" if token.revoked_at else "expired",
            )
            for token in found
        ]
        print_table("", columns, rows)
        if len(page) == ROWS_MAX:
            say(f"the first {ROWS_MAX:,} by id; name a person for the rest")


@app.command("revoke-token")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `user tokens` shows it.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Take a token back; it stops working at once.

    Example: edgefleet user revoke-token 1f0c6a2b9d3e
    """
    with fleet_errors():
        people, actor = _open(workspace)
        people.tokens.revoke(token_id, actor=actor)
        say(f"{token_id} works no more")


def _open(workspace: WorkspaceOption) -> "tuple[People, str]":
    from fleet_server.bootstrap import open_fleet
    from fleet_server.wiring.people import build_people
    from fleet_server.wiring.trust import user_name

    return build_people(open_fleet(workspace)), user_name()


def _read_role(text: str) -> "Role":
    from fleet_server.core.roles import Role

    try:
        return Role(text)
    except ValueError as error:
        raise MisuseError(f"role {text[:40]!r} is none of {', '.join(Role)}") from error


def _ask_password(name: str) -> str:
    """Take the password from the environment, or ask for it twice at a terminal."""
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise MisuseError(f"nobody is at a terminal; put the password into {PASSWORD_VARIABLE}")
    answer: str = typer.prompt(
        f"password of {name}", hide_input=True, confirmation_prompt=True, err=True
    )
    return answer


def _standing(person: "Person", *, is_locked: bool) -> str:
    if person.disabled_at is not None:
        return "disabled"
    return "waits after wrong passwords" if is_locked else "may log in"


def _day(at: Any) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at is not None else ""


def _person_json(person: "Person") -> dict[str, Any]:
    return {
        "name": person.name,
        "role": str(person.role),
        "is_disabled": person.disabled_at is not None,
        "created_at": person.created_at.isoformat(),
        "last_login_at": person.last_login_at.isoformat() if person.last_login_at else None,
        "locked_until": person.locked_until.isoformat() if person.locked_until else None,
    }


def _token_json(token: "ApiToken") -> dict[str, Any]:
    return {
        "id": token.id,
        "kind": str(token.kind),
        "of": token.name,
        "label": token.label,
        "role": str(token.role),
        "created_at": token.created_at.isoformat(),
        "expires_at": token.expires_at.isoformat(),
        "revoked_at": token.revoked_at.isoformat() if token.revoked_at else None,
        "last_used_at": token.last_used_at.isoformat() if token.last_used_at else None,
    }
