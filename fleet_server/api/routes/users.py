"""People as administrators see and change them."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from fleet_server.api.access import CallerNow, access
from fleet_server.api.params import NAME, After, Body, Limit, NewPassword, PersonName
from fleet_server.api.shapes import Shape
from fleet_server.core.roles import Role
from fleet_server.errors import RefusedError
from fleet_server.ports.people import Person
from fleet_server.services.issue_tokens import Caller
from fleet_server.services.manage_people import PeopleDesk, find_person
from fleet_server.wiring.people import People


class PersonIn(Body):
    """A person to be added."""

    name: Annotated[str, Field(pattern=NAME)]
    role: Role
    password: NewPassword


class PersonChange(Body):
    """What changes; fields left out stay."""

    role: Role | None = None
    is_disabled: bool | None = None
    password: NewPassword | None = None


class PersonPublic(Shape):
    """A person."""

    name: str
    role: Role
    is_disabled: bool
    created_at: datetime
    last_login_at: datetime | None
    locked_until: datetime | None


class PersonPage(Shape):
    """People by name."""

    people: list[PersonPublic]
    next: str | None


def users_router(people: People) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/v1/users", tags=["people"])

    @router.get("", operation_id="list_users", **access(Role.ADMIN))
    def list_users(after: After = "", limit: Limit = 100) -> PersonPage:
        """List people by name."""
        with people.books.reading() as book:
            found = book.people.list_page(after=after, limit=limit)
        return PersonPage(
            people=[_person(person) for person in found],
            next=found[-1].name if len(found) == limit else None,
        )

    @router.post("", operation_id="add_user", status_code=201, **access(Role.ADMIN, 409))
    def add_user(caller: CallerNow, body: PersonIn) -> PersonPublic:
        """Add a person."""
        return _person(_desk(caller).add(body.name, body.role, body.password))

    @router.patch("/{name}", operation_id="change_user", **access(Role.ADMIN, 404, 409))
    def change_user(caller: CallerNow, name: PersonName, body: PersonChange) -> PersonPublic:
        """Change a person's role or password, disable or enable them; enabling lifts a wait."""
        desk = _desk(caller)
        if body.password is not None and name == caller.person:
            raise RefusedError("one's own password needs the old one: PUT /v1/me/password")
        if body.role is not None:
            desk.set_role(name, body.role)
        if body.is_disabled is not None:
            (desk.disable if body.is_disabled else desk.enable)(name)
        if body.password is not None:
            desk.set_password(name, body.password)
        with people.books.reading() as book:
            return _person(find_person(book, name))

    @router.delete(
        "/{name}",
        operation_id="remove_user",
        status_code=204,
        **access(Role.ADMIN, 404, 409),
    )
    def remove_user(caller: CallerNow, name: PersonName) -> None:
        """Remove a person; their tokens stop working for good."""
        _desk(caller).remove(name)

    def _desk(caller: Caller) -> PeopleDesk:
        return people.desk(caller.actor, oneself=caller.person)

    return router


def _person(person: Person) -> PersonPublic:
    return PersonPublic(
        name=person.name,
        role=person.role,
        is_disabled=person.disabled_at is not None,
        created_at=person.created_at,
        last_login_at=person.last_login_at,
        locked_until=person.locked_until,
    )
