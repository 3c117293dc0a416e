"""What each route does: it calls the fleet's own services, in the caller's name, audited."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from edge_agent.contract.join import JoinTicket
from fleet_server.api.access import ROLE_KEY
from fleet_server.api.limits import BODY_BYTES_MAX
from fleet_server.core.roles import Role
from fleet_server.services.note_refusals import NOBODY
from fleet_server.wiring.rollouts import build_runner
from tests.support.api import ApiBench, operations

REASON = {"reason": "because the test says so"}
PLAN = {"model": "m", "version": 1, "group": "all", "stages": "2,100%"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiBench]:
    bench = ApiBench(tmp_path_factory.mktemp("routes"))
    with bench.client:
        yield bench


def test_a_device_lives_through_the_api(bench: ApiBench) -> None:
    body = {"id": "door-1", "profile": "camera", "labels": {"site": "north"}, "ttl_s": 3_600}
    joined = bench.call("POST", "/v1/devices", Role.OPERATOR, json=body)
    ticket = JoinTicket.decode(joined["join"])
    assert ticket.device_id == joined["device"] == "door-1"
    shown = bench.call("GET", "/v1/devices/door-1", Role.VIEWER)
    assert (shown["state"], shown["labels"]["site"]) == ("not joined", "north")
    changes = {"labels": {"site": None, "lane": "7"}}
    labelled = bench.call("PATCH", "/v1/devices/door-1/labels", Role.OPERATOR, json=changes)
    assert "site" not in labelled["labels"]
    assert labelled["labels"]["lane"] == "7"
    again = bench.call("POST", "/v1/devices/door-1/add-again", Role.OPERATOR, json={})
    assert JoinTicket.decode(again["join"]).secret != ticket.secret
    revoked = bench.call("POST", "/v1/devices/door-1/revoke", Role.OPERATOR, json=REASON)
    assert revoked["state"] == "revoked"
    assert [act for who, act in bench.acts() if who == "operator"][-4:] == [
        "device.add",
        "device.label",
        "device.add_again",
        "device.revoked",
    ]


def test_a_rollout_lives_through_the_api(bench: ApiBench) -> None:
    preview = bench.call("POST", "/v1/rollouts/preview", Role.OPERATOR, json=PLAN)
    assert preview["id"] is None
    assert [stage["count"] for stage in preview["stages"]] == [2, 8]
    number = bench.call("POST", "/v1/rollouts", Role.OPERATOR, json=PLAN)["id"]
    path = f"/v1/rollouts/{number}"
    dry = bench.call("POST", f"{path}/start?dry_run=true", Role.OPERATOR)
    assert dry["is_dry_run"]
    assert bench.call("GET", path, Role.VIEWER)["state"] == "draft"
    assert bench.call("POST", f"{path}/start", Role.OPERATOR)["state"] == "running"
    build_runner(bench.fleet).run_once()
    assert bench.call("POST", f"{path}/pause", Role.OPERATOR, json=REASON)["state"] == "paused"
    bench.call("POST", f"{path}/resume", Role.OPERATOR, json=REASON)
    members = bench.call("GET", f"{path}/devices?outcome=offered", Role.VIEWER)["devices"]
    assert len(members) == 2
    assert bench.call("GET", f"{path}/explain", Role.VIEWER)["verdicts"] is not None
    rolled = bench.call("POST", f"{path}/rollback", Role.OPERATOR, json=REASON)
    assert rolled["state"] == "rolling_back"
    refused = bench.client.post(f"{path}/start", headers=bench.as_(Role.OPERATOR))
    assert refused.status_code == 409
    other = bench.call("POST", "/v1/rollouts", Role.OPERATOR, json=PLAN)["id"]
    listed = bench.call("GET", "/v1/rollouts?limit=1", Role.VIEWER)
    assert (listed["rollouts"][0]["id"], listed["next"]) == (other, other)
    assert bench.call("GET", f"/v1/rollouts?before={other}", Role.VIEWER)["rollouts"]
    acts = [act for who, act in bench.acts() if who == "operator"]
    for act in ("rollout.plan", "rollout.start", "rollout.pause", "rollout.resume"):
        assert act in acts


def test_a_version_that_nobody_approved_is_not_planned(bench: ApiBench) -> None:
    answer = bench.client.post(
        "/v1/rollouts", json={**PLAN, "version": 2}, headers=bench.as_(Role.ADMIN)
    )
    assert answer.status_code == 409
    assert "registered, not approved" in answer.json()["detail"]


def test_groups_are_named_and_paged(bench: ApiBench) -> None:
    for name in ("left", "right", "top"):
        bench.call("PUT", f"/v1/groups/{name}", Role.OPERATOR, json={"query": "profile=camera"})
    first = bench.call("GET", "/v1/groups?limit=2", Role.VIEWER)
    assert ([g["name"] for g in first["groups"]], first["next"]) == (["left", "right"], "right")
    rest = bench.call("GET", f"/v1/groups?limit=2&after={first['next']}", Role.VIEWER)
    assert ([g["name"] for g in rest["groups"]], rest["next"]) == (["top"], None)
    shown = bench.call("GET", "/v1/groups/left?limit=3&after=cam-02", Role.VIEWER)
    assert shown["devices"] == ["cam-03", "cam-04", "cam-05"]
    assert shown["next"] == "cam-05"
    refused = bench.client.put(
        "/v1/groups/left", json={"query": "profile=="}, headers=bench.as_(Role.OPERATOR)
    )
    assert refused.status_code == 422


def test_pages_of_devices_hold_each_once(bench: ApiBench) -> None:
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = bench.call("GET", f"/v1/devices?profile=camera&limit=3&after={after}", Role.VIEWER)
        seen += [device["id"] for device in page["devices"]]
        assert len(page["devices"]) <= 3
        after = page["next"]
    assert seen == sorted(set(seen))
    assert len(seen) == page["total"]
    online = bench.call("GET", "/v1/devices?state=online", Role.VIEWER)
    assert online["total"] == 10


def test_models_profiles_and_alarms_are_read(bench: ApiBench) -> None:
    assert bench.call("GET", "/v1/models", Role.VIEWER)["models"][0]["versions"] == [1, 2]
    versions = bench.call("GET", "/v1/models/m/versions", Role.VIEWER)["versions"]
    assert versions == [
        {"version": 2, "state": "registered"},
        {"version": 1, "state": "approved"},
    ]
    assert bench.call("GET", "/v1/models/m/versions/1", Role.VIEWER)["artifacts"]
    fit = bench.call("GET", "/v1/models/m/versions/1/fit?limit=4", Role.VIEWER)
    assert (fit["model"], fit["version"], len(fit["devices"])) == ("m", 1, 4)
    assert {"camera", "raspberry-pi-3"} <= {one["profile"] for one in fit["profiles"]}
    later = bench.call(
        "GET", f"/v1/models/m/versions/1/fit?after={fit['next']}&limit=1000", Role.VIEWER
    )
    assert later["next"] is None
    ids = [one["device"] for one in (*fit["devices"], *later["devices"])]
    assert ids == sorted(set(ids))
    profiles = bench.call("GET", "/v1/profiles?limit=2", Role.VIEWER)
    assert len(profiles["profiles"]) == 2
    assert bench.call("GET", "/v1/profiles/camera", Role.VIEWER)["values"]["id"] == "camera"
    alarm = bench.add_alarm()
    assert bench.call("GET", "/v1/drift/alarms", Role.VIEWER)["alarms"][0]["id"] == alarm
    acked = bench.call("POST", f"/v1/drift/alarms/{alarm}/ack", Role.OPERATOR, json=REASON)
    assert acked["acknowledged_reason"] == REASON["reason"]
    assert bench.acts()[-1] == ("operator", "drift.ack")


def test_the_audit_log_is_read_and_checked_by_administrators(bench: ApiBench) -> None:
    bench.call("PUT", "/v1/groups/audited", Role.ADMIN, json={"query": "all"})
    rows = bench.call("GET", "/v1/audit?actor=admin&act=group.&limit=1")["rows"]
    assert (rows[0]["object"], rows[0]["detail"]["query"]) == ("audited", "all")
    check = bench.call("GET", "/v1/audit/verify")
    assert check["is_whole"]
    assert check["head"] == f"{check['rows']}:{bench.call('GET', '/v1/audit')['rows'][0]['sha256']}"


def test_people_are_added_changed_and_removed(bench: ApiBench) -> None:
    body = {"name": "eve", "role": "viewer", "password": "four random words"}
    bench.call("POST", "/v1/users", json=body)
    session = bench.log_in("eve")
    assert bench.client.get("/v1/me", headers=session).json()["person"] == "eve"
    bench.call("PATCH", "/v1/users/eve", json={"role": "operator"})
    assert bench.client.get("/v1/me", headers=session).json()["role"] == "viewer"
    session = bench.log_in("eve")
    assert bench.client.get("/v1/me", headers=session).json()["role"] == "operator"
    bench.call("PATCH", "/v1/users/eve", json={"is_disabled": True})
    assert bench.client.get("/v1/me", headers=session).status_code == 401
    bench.call("PATCH", "/v1/users/eve", json={"is_disabled": False})
    bench.call("DELETE", "/v1/users/eve")
    assert "eve" not in [p["name"] for p in bench.call("GET", "/v1/users")["people"]]
    assert [act for who, act in bench.acts() if who == "admin"][-5:] == [
        "user.add",
        "user.role",
        "user.disable",
        "user.enable",
        "user.rm",
    ]


def test_an_administrator_does_not_lock_themselves_out(bench: ApiBench) -> None:
    for body in ({"role": "viewer"}, {"is_disabled": True}, {"password": "another long one"}):
        answer = bench.client.patch("/v1/users/admin", json=body, headers=bench.as_(Role.ADMIN))
        assert answer.status_code == 409
    answer = bench.client.delete("/v1/users/admin", headers=bench.as_(Role.ADMIN))
    assert answer.status_code == 409


def test_tokens_are_made_by_logins_only_and_revoked_by_their_owner(bench: ApiBench) -> None:
    session = bench.log_in("operator")
    made = bench.client.post(
        "/v1/tokens", json={"label": "ci", "role": "viewer", "days": 7}, headers=session
    ).json()
    program = {"Authorization": f"Bearer {made['token']}"}
    assert bench.client.get("/v1/me", headers=program).json()["role"] == "viewer"
    begotten = bench.client.post("/v1/tokens", json={}, headers=program)
    assert begotten.status_code == 409
    escalated = bench.client.post("/v1/tokens", json={"role": "admin"}, headers=session)
    assert escalated.status_code == 409
    of_others = bench.client.delete(f"/v1/tokens/{made['id']}", headers=bench.as_(Role.VIEWER))
    assert of_others.status_code == 404
    listed = bench.client.get("/v1/tokens", headers=bench.as_(Role.VIEWER)).json()["tokens"]
    assert {token["name"] for token in listed} == {"viewer"}
    assert bench.client.get("/v1/tokens?all=true", headers=session).status_code == 403
    assert bench.client.delete(f"/v1/tokens/{made['id']}", headers=session).status_code == 204
    assert bench.client.get("/v1/me", headers=program).status_code == 401
    assert bench.client.post("/v1/logout", headers=session).status_code == 204
    assert bench.client.get("/v1/me", headers=session).status_code == 401


def test_one_changes_ones_own_password_with_the_old_one(bench: ApiBench) -> None:
    session = bench.log_in("approver")
    wrong = {"old": "not the password", "new": "quite another one"}
    answer = bench.client.put("/v1/me/password", json=wrong, headers=session)
    assert answer.status_code == 401
    right = {"old": "four random words", "new": "quite another one"}
    assert bench.client.put("/v1/me/password", json=right, headers=session).status_code == 204
    assert bench.client.get("/v1/me", headers=session).status_code == 401
    bench.log_in("approver", "quite another one")


def test_logins_that_fail_wait_and_are_told_how_long(bench: ApiBench) -> None:
    body = {"name": "viewer", "password": "wrong password!"}
    statuses = [bench.client.post("/v1/login", json=body).status_code for _ in range(5)]
    assert statuses == [401] * 5
    answer = bench.client.post("/v1/login", json={**body, "password": "four random words"})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) == 30
    assert ("api", "login.locked") in bench.acts()
    bench.clock.advance(31)
    bench.log_in("viewer")


def test_an_unknown_name_and_a_wrong_password_are_answered_alike(bench: ApiBench) -> None:
    answers = [
        bench.client.post("/v1/login", json={"name": name, "password": "wrong password!"})
        for name in ("operator", "nobody-here", "../../etc/passwd", "")
    ]
    assert len({(a.status_code, a.text) for a in answers}) == 1
    assert answers[0].status_code == 401


TRAVERSALS = ["%2e%2e", "..%2f..%2fetc%2fpasswd", "a%2fb", "%00", "a b", "A", "x" * 64, "~"]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_no_path_takes_a_name_that_could_leave_its_place(bench: ApiBench, name: str) -> None:
    for method, path, operation in operations(bench.app.openapi()):
        if "{" not in path:
            continue
        url = "/".join(name if part.startswith("{") else part for part in path.split("/"))
        answer = bench.client.request(method, url, headers=bench.as_(Role.ADMIN))
        assert answer.status_code in (404, 405, 422), f"{method} {url}: {answer.status_code}"
        assert operation


@pytest.mark.parametrize("name", ["../x", "..", "a/b", "a\\b", "a\x00", "", "http://x/"])
def test_no_body_takes_a_name_that_could_leave_its_place(bench: ApiBench, name: str) -> None:
    for method, path, body in (
        ("POST", "/v1/devices", {"id": name, "profile": "camera"}),
        ("POST", "/v1/devices", {"id": "door-9", "profile": name}),
        ("POST", "/v1/rollouts", {**PLAN, "model": name}),
        ("POST", "/v1/rollouts", {**PLAN, "group": name}),
        ("POST", "/v1/rollouts", {**PLAN, "slot": name or ".."}),
        ("POST", "/v1/users", {"name": name, "role": "viewer", "password": "x" * 12}),
    ):
        answer = bench.client.request(method, path, json=body, headers=bench.as_(Role.ADMIN))
        assert answer.status_code == 422, f"{path} {body}: {answer.text}"


def test_no_field_of_any_request_is_a_url_or_a_path(bench: ApiBench) -> None:
    """The server fetches nothing for a caller: there is no field that could name a place."""
    suspicious = {"url", "uri", "href", "path", "file", "webhook", "callback", "source", "host"}
    document = bench.app.openapi()
    for method, path, operation in operations(document):
        names = [p["name"] for p in operation.get("parameters", [])]
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        reference = body.get("schema", {}).get("$ref", "")
        if reference:
            schema = document["components"]["schemas"][reference.rsplit("/", 1)[-1]]
            names += list(schema["properties"])
            assert schema["additionalProperties"] is False, f"{method} {path}"
        assert not [n for n in names if set(n.lower().split("_")) & suspicious], path


def test_no_route_opens_a_file_of_the_operator(bench: ApiBench) -> None:
    """Every route is called as an administrator while every open of the process is watched."""
    folder = str(bench.fleet.workspace.operator_dir)
    opened: list[str] = []
    is_on = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on and event in ("open", "os.listdir", "os.scandir") and arguments:
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    try:
        open_before = len(opened)
        (bench.fleet.workspace.root / "edgefleet.toml").read_text()
        assert len(opened) > open_before  # the watch works
        draft = bench.call("POST", "/v1/rollouts", json=PLAN)["id"]
        bodies: dict[str, Any] = {
            "add_device": {"id": "door-7", "profile": "camera"},
            "add_device_again": {},
            "label_device": {"labels": {"a": "b"}},
            "revoke_device": {},
            "set_group": {"query": "all"},
            "plan_rollout": PLAN,
            "preview_rollout": PLAN,
            "login": {"name": "admin", "password": "four random words"},
        }
        places = {
            "device_id": "cam-10",
            "model": "m",
            "version": "1",
            "group": "watched",
            "rollout": str(draft),
            "profile": "camera",
            "name": "nobody-here",
            "token_id": "0" * 12,
            "alarm": "1",
        }
        for method, path, operation in operations(bench.app.openapi()):
            body = bodies.get(operation["operationId"], REASON)
            options = {} if method in ("GET", "DELETE") else {"json": body}
            answer = bench.client.request(
                method, path.format(**places), headers=bench.as_(Role.ADMIN), **options
            )
            assert answer.status_code < 500, f"{method} {path}: {answer.text}"
    finally:
        is_on = False
    assert [name for name in opened if name.startswith(folder)] == []


def test_nothing_about_approving_or_signing_is_offered(bench: ApiBench) -> None:
    words = ("approve", "sign", "keys", "cosign", "root", "targets")
    for _, path, operation in operations(bench.app.openapi()):
        if operation[ROLE_KEY] != NOBODY:
            assert not [word for word in words if word in path], path


@pytest.mark.parametrize("header", ["x" * 20, "9" * 5_000, "-1"])
def test_a_content_length_that_is_none_is_refused(bench: ApiBench, header: str) -> None:
    headers = {**bench.as_(Role.ADMIN), "Content-Length": header}
    answer = bench.client.post("/v1/groups/x", content=b"", headers=headers)
    assert answer.status_code == 413


def test_a_chunked_body_beyond_the_bound_is_refused(bench: ApiBench) -> None:
    parts = (b"x" * 65_536 for _ in range(BODY_BYTES_MAX // 65_536 + 2))
    answer = bench.client.put("/v1/groups/x", content=parts, headers=bench.as_(Role.ADMIN))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_every_answer_carries_the_security_headers(bench: ApiBench) -> None:
    for path in ("/v1/health", "/v1/models", "/v1/nothing"):
        headers = bench.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["strict-transport-security"].startswith("max-age=")
        assert "server" not in headers


def test_a_busy_database_is_said_and_may_be_tried_again(
    bench: ApiBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    def busy(*_: object, **__: object) -> None:
        raise OperationalError("select", {}, Exception("database is locked"))

    monkeypatch.setattr("fleet_server.adapters.database.pages.FleetPages.devices", busy)
    answer = bench.client.get("/v1/devices", headers=bench.as_(Role.VIEWER))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "locked" not in answer.text
