"""The API in this process over a real workspace, with a person of every role."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from argon2.profiles import CHEAPEST
from sqlmodel import col, select
from starlette.testclient import TestClient

from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.tables import AuditRow, DeviceRow, DriftAlarmRow
from fleet_server.adapters.passwords import Argon2Passwords
from fleet_server.api.app import create_app
from fleet_server.core.drift_alarm import AlarmMemory, AlarmState
from fleet_server.core.roles import Role
from fleet_server.wiring.people import build_people
from fleet_server.wiring.trust import build_approver
from tests.support.clock import FakeClock
from tests.support.trust_fleet import make_fleet, register

PASSWORD = "four random words"
Headers = dict[str, str]


class ApiBench:
    """Model ``m`` with version 1 approved and 2 registered, ten cameras, an open alarm.

    The person of a role is called as the role; ``as_(role)`` gives the headers of a token of
    theirs. Errors inside the application reach the test.
    """

    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self.fleet = make_fleet(root, self.clock)
        register(self.fleet, "m", 1, ["camera"])
        register(self.fleet, "m", 2, ["camera"])
        build_approver(self.fleet, actor="ann").approve("m", 1)
        self.people = build_people(self.fleet, passwords=Argon2Passwords(CHEAPEST))
        self.app = create_app(self.fleet, people=self.people)
        self.client = TestClient(self.app, base_url="https://testserver")
        self._headers: dict[Role, Headers] = {}
        for role in Role:
            self.people.desk("test").add(str(role), role, PASSWORD)
        with write_session(self.fleet.engine) as session:
            now = self.clock.now()
            for k in range(1, 11):
                row = DeviceRow(
                    id=f"cam-{k:02d}",
                    profile="camera",
                    created_at=now,
                    enrolled_at=now,
                    is_online=True,
                    last_seen_at=now,
                )
                session.add(row)

    def as_(self, role: Role) -> Headers:
        """Give the headers of a token that is made once."""
        if role not in self._headers:
            issued = self.people.tokens.issue(str(role), actor="test")
            self._headers[role] = {"Authorization": f"Bearer {issued.secret}"}
        return self._headers[role]

    def log_in(self, name: str, password: str = PASSWORD) -> Headers:
        """Log in over the API; give the headers of the session."""
        answer = self.client.post("/v1/login", json={"name": name, "password": password})
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['token']}"}

    def call(self, method: str, path: str, role: Role = Role.ADMIN, **options: Any) -> Any:
        """Call a route and give its JSON; it must answer 2xx."""
        answer = self.client.request(method, path, headers=self.as_(role), **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def add_alarm(self) -> int:
        """Open a drift alarm; give its number."""
        memory = AlarmMemory.from_json(
            dict.fromkeys(AlarmMemory.__dataclass_fields__, 0) | {"state": AlarmState.OPEN}
        )
        with write_session(self.fleet.engine) as session:
            row = DriftAlarmRow(
                model="m",
                level="device",
                subject="cam-01",
                state="open",
                severity="watch",
                features='["width"]',
                sentence="width moved",
                memory=_dump(memory.to_json()),
                opened_at=self.clock.now(),
                changed_at=self.clock.now(),
            )
            session.add(row)
            session.flush()
            return row.id or 0

    def acts(self) -> list[tuple[str, str]]:
        """Give actor and act of every audit row, oldest first."""
        with read_session(self.fleet.engine) as session:
            rows = session.exec(select(AuditRow).order_by(col(AuditRow.id)))
            return [(row.actor, row.act) for row in rows]


def operations(document: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Give method, path and description of every operation of an OpenAPI document."""
    return [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, default=str)
