"""Names and numbers as they may stand in paths and queries; nothing else reaches a service.

No name can hold a slash, two dots in a row as a path, a space or a control character, so none can
leave the folder or the row it names.
"""

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from fleet_server.services.manage_people import PASSWORD_CHARS

PAGE_DEFAULT, PAGE_MAX = 100, 1_000
ROLLOUTS_PAGE_MAX = 100
NUMBER_MAX = 2**31 - 1
DEVICE_ID = r"^[a-z0-9][a-z0-9-]{0,62}$"
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
MODEL = r"^[a-z0-9][a-z0-9-]{0,62}$"
TOKEN_ID = r"^[0-9a-f]{12}$"  # noqa: S105 - a pattern

NewPassword = Annotated[str, Field(min_length=PASSWORD_CHARS[0], max_length=PASSWORD_CHARS[-1])]
DeviceId = Annotated[str, Path(pattern=DEVICE_ID, description="Device id.")]
GroupName = Annotated[str, Path(pattern=NAME, description="Group name; `all` is everybody.")]
ModelName = Annotated[str, Path(pattern=MODEL, description="Model name.")]
ProfileId = Annotated[str, Path(pattern=DEVICE_ID, description="Device profile id.")]
PersonName = Annotated[str, Path(pattern=NAME, description="Person's name.")]
TokenId = Annotated[str, Path(pattern=TOKEN_ID, description="Id of a token, not the token.")]
Number = Annotated[int, Path(ge=1, le=NUMBER_MAX)]

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="Most entries of a page.")]
After = Annotated[
    str,
    Query(
        pattern=r"^([a-z0-9][a-z0-9._-]{0,62})?$",
        description="`next` of the page before; empty for the first page.",
    ),
]
Before = Annotated[
    int,
    Query(
        ge=1,
        le=NUMBER_MAX,
        description="`next` of the page before; left out for the first page.",
    ),
]


class Body(BaseModel):
    """What a request carries: unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid")


class Reason(Body):
    """Why something is done; kept in the audit log."""

    reason: Annotated[str, Field(min_length=8, max_length=400)]
