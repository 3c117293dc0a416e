"""Who may call what: every route of the OpenAPI document, every role, and nobody."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from fleet_server.api.access import OPEN, ROLE_KEY, access, check_access
from fleet_server.api.app import create_app
from fleet_server.core.roles import Role
from fleet_server.services.note_refusals import NOBODY
from tests.support.api import ApiBench, operations

VIEWERS = """
openapi logout get_me set_my_password list_tokens make_token revoke_token list_models get_model
list_versions get_version check_version list_profiles get_profile list_devices get_device
list_groups get_group list_rollouts get_rollout list_members explain_rollout list_alarms
"""
OPERATORS = """
add_device add_device_again label_device revoke_device set_group plan_rollout preview_rollout
start_rollout pause_rollout resume_rollout abort_rollout rollback_rollout ack_alarm
"""
ADMINS = "list_users add_user change_user remove_user list_audit verify_audit"
NEEDS = {
    **dict.fromkeys(("health", "login", "get_ca", "enrol"), NOBODY),
    **dict.fromkeys(VIEWERS.split(), "viewer"),
    **dict.fromkeys(OPERATORS.split(), "operator"),
    **dict.fromkeys(ADMINS.split(), "admin"),
}
"""The roles as docs/api.md promises them: a route that is not here fails the test."""
ANSWERED = {200, 201, 204, 404, 409, 422}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiBench]:
    bench = ApiBench(tmp_path_factory.mktemp("roles"))
    with bench.client:
        yield bench


def test_every_route_names_the_role_that_was_promised(bench: ApiBench) -> None:
    found = {o["operationId"]: o[ROLE_KEY] for _, _, o in operations(bench.app.openapi())}
    assert found == NEEDS


def test_every_route_lets_its_role_through_and_nobody_below(bench: ApiBench) -> None:
    """Calls carry no body and paths of things that do not exist: roles come before both."""
    wrong = []
    for method, path, operation in operations(bench.app.openapi()):
        if operation[ROLE_KEY] == NOBODY:
            continue
        if operation["operationId"] == "logout":
            continue  # ends the login it is called with; its own test below
        needed = Role(operation[ROLE_KEY])
        url = _fill(path, operation)
        nobody = bench.client.request(method, url)
        if nobody.status_code != 401 or "www-authenticate" not in nobody.headers:
            wrong.append((method, path, "nobody", nobody.status_code))
        for role in Role:
            answer = bench.client.request(method, url, headers=bench.as_(role))
            is_right = answer.status_code in (ANSWERED if role.reaches(needed) else {403})
            if not is_right:
                wrong.append((method, path, str(role), answer.status_code))
            if answer.status_code == 403:
                assert f"needs the role {needed}" in answer.json()["detail"]
    assert wrong == []


def test_every_route_documents_how_it_refuses(bench: ApiBench) -> None:
    for method, path, operation in operations(bench.app.openapi()):
        responses = operation["responses"]
        wanted = {"413", "422", "503"}
        if operation[ROLE_KEY] != NOBODY:
            wanted |= {"401", "403"}
            assert operation["security"], f"{method} {path}"
        if "{" in path:
            wanted.add("404") if operation["operationId"] != "set_group" else None
        assert wanted <= set(responses), f"{method} {path}: {sorted(responses)}"
        for status in wanted:
            assert list(responses[status]["content"]) == ["application/problem+json"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/docs", "/v1/models/../users"])
def test_without_a_token_nothing_is_told_of_what_exists(bench: ApiBench, path: str) -> None:
    assert bench.client.get(path).status_code == 401
    assert bench.client.get(path, headers=bench.as_(Role.VIEWER)).status_code in (403, 404)


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Basic YWRhOmFkYQ==", "Bearer eft_wrong", "Bearer " + "x" * 4_000],
)
def test_what_is_no_token_is_refused(bench: ApiBench, header: str) -> None:
    answer = bench.client.get("/v1/models", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


def test_two_authorization_headers_are_refused(bench: ApiBench) -> None:
    good = bench.as_(Role.VIEWER)["Authorization"]
    headers = [("Authorization", good), ("Authorization", good)]
    assert bench.client.get("/v1/models", headers=headers).status_code == 401


def test_a_token_in_the_address_does_not_count(bench: ApiBench) -> None:
    secret = bench.as_(Role.VIEWER)["Authorization"].removeprefix("Bearer ")
    assert bench.client.get(f"/v1/models?token={secret}&access_token={secret}").status_code == 401
    bench.client.cookies.set("token", secret)
    assert bench.client.get("/v1/models").status_code == 401
    bench.client.cookies.clear()


def test_a_body_is_not_read_before_the_caller_is_known(bench: ApiBench) -> None:
    answer = bench.client.post("/v1/rollouts", content=b"{not json")
    assert answer.status_code == 401


def test_the_open_doors_are_four(bench: ApiBench) -> None:
    found = {(m, p) for m, p, o in operations(bench.app.openapi()) if o[ROLE_KEY] == NOBODY}
    assert found == OPEN
    assert len(OPEN) == 4


def test_an_application_with_a_route_that_names_no_role_does_not_start() -> None:
    app = FastAPI()

    @app.get("/v1/named", **access(Role.VIEWER))
    def named() -> None: ...

    check_access(app)

    @app.get("/v1/forgotten")
    def forgotten() -> None: ...

    app.openapi_schema = None
    with pytest.raises(RuntimeError, match="GET /v1/forgotten names no role"):
        check_access(app)


def test_the_gate_stands_before_every_route(bench: ApiBench) -> None:
    app = create_app(bench.fleet, people=bench.people)
    assert "TokenGate" in str(app.user_middleware)


def _fill(path: str, operation: dict[str, object]) -> str:
    """Put in names that fit the pattern and name nothing."""
    values = {"token_id": "0" * 12, "rollout": "999999", "alarm": "999999", "version": "999999"}
    parts = []
    for part in path.split("/"):
        name = part[1:-1] if part.startswith("{") else ""
        parts.append(values.get(name, "nothing-here") if name else part)
    assert operation
    return "/".join(parts)
