"""The API over a real workspace: who may read, and the shape of every error."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from fleet_server.api.app import create_app
from fleet_server.api.limits import BODY_BYTES_MAX
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.services.add_device import DeviceSpec
from fleet_server.wiring.devices import build_device_desk
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workspace import Config


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    made = init_workspace(tmp_path_factory.mktemp("api") / "fleet", Config())
    return open_fleet(made.workspace)


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> Iterator[TestClient]:
    with TestClient(create_app(fleet), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def token(fleet: Fleet) -> dict[str, str]:
    secret = (fleet.workspace.operator_dir / "api-token").read_text()
    return {"Authorization": f"Bearer {secret}"}


def test_health_needs_no_token(client: TestClient) -> None:
    assert client.get("/v1/health").json() == {"status": "ok", "fleet": "fleet-1"}


@pytest.mark.parametrize("path", ["/v1/models", "/v1/devices", "/v1/drift/alarms"])
def test_reading_needs_a_token_that_is_valid(
    client: TestClient, token: dict[str, str], path: str
) -> None:
    assert client.get(path).status_code == 401
    wrong = client.get(path, headers={"Authorization": "Bearer eft_wrong"})
    assert wrong.status_code == 401
    assert "unknown, expired or revoked" in wrong.json()["detail"]
    assert client.get(path, headers=token).status_code == 200


def test_a_device_is_listed_as_the_command_line_lists_it(
    fleet: Fleet, client: TestClient, token: dict[str, str]
) -> None:
    build_device_desk(fleet).add(DeviceSpec(id="cam-7", profile="camera", labels={}))
    page = client.get("/v1/devices", headers=token, params={"profile": "camera"}).json()
    assert page["total"] == 1
    assert page["devices"][0]["id"] == "cam-7"
    assert page["devices"][0]["state"] == "not joined"
    shown = client.get("/v1/devices/cam-7", headers=token).json()
    assert shown == page["devices"][0]


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/v1/devices/cam-99", 404, "cam-99"),
        ("/v1/models/none/versions/1", 404, "no model 'none'"),
        ("/v1/models/none/versions/one", 422, "does not fit its schema"),
        ("/v1/devices?limit=0", 422, "does not fit its schema"),
        ("/v1/nothing", 404, "there is no /v1/nothing"),
    ],
)
def test_an_error_is_a_problem_with_one_sentence(
    client: TestClient, token: dict[str, str], path: str, status: int, says: str
) -> None:
    answer = client.get(path, headers=token)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


def test_a_body_beyond_its_bound_is_refused(client: TestClient) -> None:
    assert client.post("/v1/enrol", content=b"x" * (BODY_BYTES_MAX + 1)).status_code == 413


def test_a_compressed_body_is_refused_unread(client: TestClient) -> None:
    answer = client.post("/v1/enrol", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "send it plain" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"v":1,"secret":"\\ud800","csr":"x"}',
        b'{"v":1,"secret":"s","csr":"\\udfff"}',
        b'{"v":1,"secret":"s","csr":"x","root":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"v":' + b"9" * 5_000 + b"}",
        b"\xed\xa0\x80",
        b"\xff\xfe{\x00}\x00",
    ],
)
def test_a_body_that_cannot_be_read_is_a_problem_not_a_defect(
    client: TestClient, body: bytes
) -> None:
    assert client.post("/v1/enrol", content=body).status_code == 422


def test_the_openapi_document_names_every_operation(
    client: TestClient, token: dict[str, str]
) -> None:
    assert client.get("/v1/openapi.json").status_code == 401
    document = client.get("/v1/openapi.json", headers=token).json()
    names = [o["operationId"] for path in document["paths"].values() for o in path.values()]
    assert len(set(names)) == len(names)
    assert {"health", "list_models", "list_devices", "get_device", "list_alarms"} <= set(names)
    assert "Problem" in document["components"]["schemas"]
