"""Whoever reaches the API: with no token, a bad one, or one of a low role."""

import socket
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from argon2.profiles import CHEAPEST
from starlette.testclient import TestClient

from fleet_server.adapters.passwords import Argon2Passwords
from fleet_server.api.access import ROLE_KEY
from fleet_server.api.app import create_app
from fleet_server.api.limits import BODY_BYTES_MAX
from fleet_server.core.roles import Role
from fleet_server.ports.people import TokenKind
from fleet_server.services.add_device import DeviceSpec
from fleet_server.services.note_refusals import NOBODY
from fleet_server.wiring.devices import build_device_desk
from fleet_server.wiring.people import build_people
from tests.support.api import operations
from tests.support.attacks import AUDIT, TOLD, Attack, AttackSuite, AttackWorld, hold

attack = AttackSuite("a connection to the API, with no token or a low role")
REFUSED = f"{AUDIT}: api.refused"
PASSWORD = "four random words"
Headers = dict[str, str]


@pytest.fixture(scope="module")
def world(template: AttackWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackWorld]:
    """One world for all: building the API takes longer than any of these attacks."""
    world = template.copy(tmp_path_factory.mktemp("api") / "world")
    yield world
    world.close()


class CountedPasswords(Argon2Passwords):
    """Argon2 at its cheapest, that counts what it checks."""

    def __init__(self) -> None:
        super().__init__(CHEAPEST)
        self.checks = 0

    def is_match(self, encoded: str | None, password: str) -> bool:
        self.checks += 1
        return super().is_match(encoded, password)


class Api:
    """The API of the one world of this file, with a person of every role anew for each attack."""

    _made: ClassVar["dict[int, Api]"] = {}

    def __init__(self, w: AttackWorld) -> None:
        self.w, self.attacks = w, 0
        self.passwords = CountedPasswords()
        self.people = build_people(w.server.opened, passwords=self.passwords)
        self.app = create_app(w.server.opened, people=self.people)
        self.client = TestClient(
            self.app, base_url="https://testserver", raise_server_exceptions=False
        )
        self.tokens: dict[Role, Headers] = {}
        self.names: dict[Role, str] = {}

    @classmethod
    def of(cls, w: AttackWorld) -> "Api":
        """Return it; two hours pass, so that waits and bounds of the attack before are over."""
        if id(w) not in cls._made:
            cls._made = {id(w): cls(w)}
        api = cls._made[id(w)]
        api.attacks += 1
        w.advance(days=1 / 12)
        for role in Role:
            api.names[role] = f"{role}-{api.attacks}"
            api.people.desk("ann").add(api.names[role], role, PASSWORD)
            api.tokens[role] = api.token(api.names[role])
        return api

    def token(self, name: str, **options: Any) -> Headers:
        return bearer(self.people.tokens.issue(name, actor="ann", **options).secret)

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Every operation with a path that names things which do not exist."""
        values = {"token_id": "0" * 12, "version": "1", "rollout": "1", "alarm": "1"}
        for method, path, operation in operations(self.app.openapi()):
            url = path
            for parameter in operation.get("parameters", ()):
                name = parameter["name"]
                url = url.replace(f"{{{name}}}", values.get(name, "nothing"))
            yield method, url, operation

    def statuses(self, headers: Headers, *, least: Role = Role.VIEWER) -> set[int]:
        """What every operation that needs ``least`` or more answers."""
        return {
            self.client.request(method, path, headers=headers).status_code
            for method, path, operation in self.operations()
            if operation[ROLE_KEY] != NOBODY and Role(operation[ROLE_KEY]).reaches(least)
        }

    def me(self, headers: Headers) -> int:
        return int(self.client.get("/v1/me", headers=headers).status_code)


def bearer(secret: str) -> Headers:
    return {"Authorization": f"Bearer {secret}"}


def only(statuses: set[int]) -> str:
    (status,) = statuses
    return str(status)


# Tokens -----------------------------------------------------------------------------------------


@attack("401", seen=REFUSED)
def call_every_route_without_a_token(w: AttackWorld) -> str:
    """The gate stands before every route but four; a route without a role ends the start."""
    return only(Api.of(w).statuses({}))


@attack("401", seen=REFUSED)
def guess_tokens(w: AttackWorld) -> str:
    """A token is 256 random bits, found by its sha256; timing says nothing of it."""
    api = Api.of(w)
    real = api.tokens[Role.ADMIN]["Authorization"].removeprefix("Bearer ")
    near = real[:-1] + ("B" if real.endswith("A") else "A")
    guesses = (real[:-1], near, real.upper(), real + " x", "eft_", "' OR 1=1", "a" * 9)
    return only({api.me(bearer(guess)) for guess in guesses})


@attack("401", seen=REFUSED)
def show_the_stored_hash_of_a_token(w: AttackWorld) -> str:
    """What the database holds is no token: who reads it cannot log in with it."""
    api = Api.of(w)
    with api.people.books.reading() as book:
        found = book.tokens.list_page(name=api.names[Role.ADMIN], after="", limit=9)
    texts = {str(value) for token in found for value in vars_of(token)}
    assert len(texts) > 4
    return only({api.me({"Authorization": f"Bearer {quote(text)}"}) for text in texts})


def vars_of(value: object) -> list[object]:
    return [getattr(value, name) for name in type(value).__dataclass_fields__]  # type: ignore[attr-defined]


@attack("401", seen=REFUSED)
def use_a_token_after_its_last_day(w: AttackWorld) -> str:
    """A token works until its date."""
    api = Api.of(w)
    headers = api.token(api.names[Role.ADMIN], days=1)
    assert api.me(headers) == 200
    w.advance(days=1.1)
    status = api.me(headers)
    w.turn_back(days=1.1)
    return str(status)


@attack("401", seen=REFUSED)
def use_a_revoked_token(w: AttackWorld) -> str:
    """A token taken back works no more."""
    api = Api.of(w)
    issued = api.people.tokens.issue(api.names[Role.ADMIN], actor="ann")
    assert api.me(bearer(issued.secret)) == 200
    api.people.tokens.revoke(issued.token.id, actor="ann", owner=None)
    return str(api.me(bearer(issued.secret)))


@attack("401", seen=REFUSED)
def use_the_token_of_a_person_who_left(w: AttackWorld) -> str:
    """Removing or disabling a person ends every token of theirs."""
    api = Api.of(w)
    gone, disabled = api.tokens[Role.VIEWER], api.tokens[Role.OPERATOR]
    assert {api.me(gone), api.me(disabled)} == {200}
    api.people.desk("ann").remove(api.names[Role.VIEWER])
    api.people.desk("ann").disable(api.names[Role.OPERATOR])
    return only({api.me(gone), api.me(disabled)})


@attack("401", seen=REFUSED)
def keep_a_login_over_a_change_of_password(w: AttackWorld) -> str:
    """A new password ends every login."""
    api = Api.of(w)
    answer = api.client.post(
        "/v1/login", json={"name": api.names[Role.VIEWER], "password": PASSWORD}
    )
    headers = bearer(answer.json()["token"])
    assert api.me(headers) == 200
    api.people.desk("ann").set_password(api.names[Role.VIEWER], "five other random words")
    return str(api.me(headers))


@attack("401", seen=REFUSED)
def show_a_good_token_in_another_place(w: AttackWorld) -> str:
    """A token counts in one header only: no cookie, address or second header carries it."""
    api = Api.of(w)
    secret = api.tokens[Role.ADMIN]["Authorization"].removeprefix("Bearer ")
    get = api.client.get
    double = [("Authorization", f"Bearer {secret}"), ("Authorization", "Bearer x")]
    answers = [
        get(f"/v1/me?token={secret}&access_token={secret}"),
        get("/v1/me", headers={"Cookie": f"token={secret}"}),
        get("/v1/me", headers={"Authorization": f"Basic {secret}"}),
        get("/v1/me", headers={"X-Api-Key": secret}),
        get("/v1/me", headers=double),
    ]
    return only({answer.status_code for answer in answers})


@attack("401", seen=REFUSED)
def go_round_the_gate_by_the_spelling_of_a_path(w: AttackWorld) -> str:
    """Every path but the four open ones asks for a token first, existing or not."""
    api = Api.of(w)
    paths = (
        "//v1/devices",
        "/v1/health/../devices",
        "/v1/health/",
        "/v1/health%2f..%2fdevices",
        "/V1/DEVICES",
        "/v1/devices;health",
        "/openapi.json",
        "/docs",
        "/static/../../keys/ca.key",
        "/.git/config",
    )
    found = {api.client.get(path).status_code for path in paths}
    methods = ("HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH")
    return only(found | {api.client.request(m, "/v1/devices").status_code for m in methods})


# Roles ------------------------------------------------------------------------------------------


@attack("403", seen=REFUSED)
def operate_as_a_viewer(w: AttackWorld) -> str:
    """Every route names the least role, checked before the body is read."""
    api = Api.of(w)
    return only(api.statuses(api.tokens[Role.VIEWER], least=Role.OPERATOR))


@attack("403", seen=REFUSED)
def administer_as_an_approver(w: AttackWorld) -> str:
    """People, and what they did, are an administrator's."""
    api = Api.of(w)
    statuses = api.statuses(api.tokens[Role.APPROVER], least=Role.ADMIN)
    return only(statuses | api.statuses(api.tokens[Role.OPERATOR], least=Role.ADMIN))


@attack("403", seen=REFUSED)
def use_a_token_from_before_one_was_demoted(w: AttackWorld) -> str:
    """A token never may more than its person may now."""
    api = Api.of(w)
    api.people.desk("ann").set_role(api.names[Role.ADMIN], Role.VIEWER)
    return str(api.client.get("/v1/users", headers=api.tokens[Role.ADMIN]).status_code)


@attack("403", seen=REFUSED)
def make_a_token_of_a_higher_role(w: AttackWorld) -> str:
    """A token is made for a role that its person has, and by a login only."""
    api = Api.of(w)
    login = api.client.post(
        "/v1/login", json={"name": api.names[Role.VIEWER], "password": PASSWORD}
    )
    headers = bearer(login.json()["token"])
    made = api.client.post("/v1/tokens", headers=headers, json={"role": "admin"})
    if made.status_code == 201:  # it is of that role in name only
        headers = bearer(made.json()["token"])
    else:
        assert made.status_code in (403, 409, 422)
    beget = api.client.post("/v1/tokens", headers=api.tokens[Role.VIEWER], json={})
    assert beget.status_code == 409
    return str(api.client.get("/v1/users", headers=headers).status_code)


@attack("403", seen=REFUSED)
def make_oneself_an_administrator(w: AttackWorld) -> str:
    """Roles are given by administrators."""
    api = Api.of(w)
    headers, body = api.tokens[Role.OPERATOR], {"role": "admin"}
    answers = [
        api.client.patch(f"/v1/users/{api.names[Role.OPERATOR]}", headers=headers, json=body),
        api.client.post(
            "/v1/users", headers=headers, json={"name": "x", "password": PASSWORD, **body}
        ),
    ]
    return only({answer.status_code for answer in answers})


@attack("no route", seen=TOLD)
def approve_a_package_over_the_api(w: AttackWorld) -> str:
    """The server has no key that approves, and the API no route that would."""
    api = Api.of(w)
    for method, path, operation in api.operations():
        words = f"{path} {operation['operationId']}"
        assert "approve" not in words, method
        assert "sign" not in words, method
    url = "/v1/models/plant/versions/99/approve"
    answer = api.client.post(url, headers=api.tokens[Role.ADMIN])
    assert answer.status_code in (404, 405)
    assert "plant/99/camera.tar" not in w.server.repository.approved()
    return "no route"


# Logins -----------------------------------------------------------------------------------------


@attack("429", seen=f"{AUDIT}: login.locked")
def guess_a_password(w: AttackWorld) -> str:
    """After five wrong passwords a name waits, longer after each, the right password included."""
    api = Api.of(w)
    for _ in range(5):
        wrong = api.client.post(
            "/v1/login", json={"name": api.names[Role.ADMIN], "password": "a guess or so"}
        )
        assert wrong.status_code == 401
    checks = api.passwords.checks
    right = api.client.post("/v1/login", json={"name": api.names[Role.ADMIN], "password": PASSWORD})
    assert api.passwords.checks == checks  # a locked name costs the server nothing
    return str(right.status_code)


@attack("429", seen=f"{AUDIT}: login.failed")
def guess_one_password_for_many_names(w: AttackWorld) -> str:
    """An address waits, too, whatever names it tries."""
    api = Api.of(w)
    statuses = [
        api.client.post("/v1/login", json={"name": f"user-{n}", "password": PASSWORD}).status_code
        for n in range(21)
    ]
    assert statuses[:20] == [401] * 20
    return str(statuses[-1])


@attack("401", seen=f"{AUDIT}: login.failed")
def find_out_who_has_an_account(w: AttackWorld) -> str:
    """An unknown name is answered in the same words after the same work."""
    api = Api.of(w)
    answers, checks = [], []
    for name in (api.names[Role.ADMIN], "nobody-of-that-name"):
        before = api.passwords.checks
        body = {"name": name, "password": "a guess or so"}
        answers.append(api.client.post("/v1/login", json=body))
        checks.append(api.passwords.checks - before)
    assert checks == [1, 1]
    assert answers[0].json() == answers[1].json()
    return only({answer.status_code for answer in answers})


# What is sent -----------------------------------------------------------------------------------

ESCAPES = ("../../keys/ca.key", "..\\..\\keys", "/etc/passwd", "....//", "a\0b", "%2e%2e%2f", "~")


@attack("refused", seen=TOLD)
def leave_a_folder_by_a_name(w: AttackWorld) -> str:
    """No name can hold a slash, two dots or a control character."""
    api = Api.of(w)
    headers = api.tokens[Role.ADMIN]
    for escape in ESCAPES:
        name = quote(escape, safe="")
        for path in ("devices", "models", "profiles", "groups", "users", "rollouts"):
            answer = api.client.get(f"/v1/{path}/{name}", headers=headers)
            assert answer.status_code in (404, 405, 422), (path, escape, answer.status_code)
        body = {"id": escape, "profile": "camera"}
        assert api.client.post("/v1/devices", headers=headers, json=body).status_code == 422
        body = {"id": "cam-9", "profile": escape}
        assert api.client.post("/v1/devices", headers=headers, json=body).status_code in (404, 422)
    return "refused"


@attack("MisuseError", seen=TOLD)
def leave_a_folder_by_a_devices_name(w: AttackWorld) -> str:
    """Ids, models and profiles are checked wherever they come in, not only at the API."""
    desk = build_device_desk(w.server.opened, actor="ann")
    for escape in ESCAPES:
        with pytest.raises(Exception, match=r"device id|profile"):
            desk.add(DeviceSpec(id=escape, profile="camera", labels={}))
        with pytest.raises(Exception, match="profile"):
            desk.add(DeviceSpec(id="cam-9", profile=escape, labels={}))
    return "MisuseError"


@attack("413", seen=TOLD)
def post_a_body_of_a_hundred_megabytes(w: AttackWorld) -> str:
    """A body beyond a mebibyte is refused by what it says of itself, unread."""
    api = Api.of(w)
    headers = {**api.tokens[Role.ADMIN], "Content-Length": str(100_000_000)}
    answer = api.client.post("/v1/devices", headers=headers, content=b"{")
    return str(answer.status_code)


@attack("413", seen=TOLD)
def post_a_body_that_does_not_say_its_length(w: AttackWorld) -> str:
    """A body is counted as it arrives."""
    api = Api.of(w)
    read = [0]

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            read[0] += 1
            yield b" " * 65_536

    paths = ("/v1/devices", "/v1/login", "/v1/enrol")
    answers = [
        api.client.post(path, headers=api.tokens[Role.ADMIN], content=pieces()) for path in paths
    ]
    assert BODY_BYTES_MAX < 100 * 65_536
    return only({answer.status_code for answer in answers})


@attack("401", seen=REFUSED)
def make_the_server_read_a_body_without_a_token(w: AttackWorld) -> str:
    """Who shows no token is answered before the body is read."""
    api, read = Api.of(w), [0]

    def pieces() -> Iterator[bytes]:
        for _ in range(8):
            read[0] += 1
            yield b"[" * 65_536

    return str(api.client.post("/v1/devices", content=pieces()).status_code)


@attack("422", seen=TOLD)
def send_json_made_to_choke_on(w: AttackWorld) -> str:
    """Deep, huge and non-finite JSON is refused, never a failure of the server."""
    api = Api.of(w)
    bodies = (b"[" * 100_000, b'{"days":1e999}', b'{"days":' + b"9" * 5_000 + b"}", b"\xff", b"NaN")
    headers = {**api.tokens[Role.ADMIN], "Content-Type": "application/json"}
    statuses = {
        api.client.post("/v1/devices", headers=headers, content=body).status_code for body in bodies
    }
    return only(statuses)


@attack("nobody was called", seen=TOLD)
def make_the_server_call_an_address(w: AttackWorld) -> str:
    """No input is an address: nothing that comes in is ever fetched."""
    api = Api.of(w)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        urls = [f"{scheme}://127.0.0.1:{port}/x" for scheme in ("http", "https", "ftp", "gopher")]
        urls += [
            f"//127.0.0.1:{port}/x",
            f"http://localhost:{port}@127.0.0.1/",
            "file:///etc/hosts",
        ]
        schemas = api.app.openapi()["components"]["schemas"]
        for method, path, operation in api.operations():
            content = operation.get("requestBody", {}).get("content", {})
            for schema in (media["schema"] for media in content.values()):
                named = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
                for url in urls:
                    body = dict.fromkeys(named.get("properties", {}), url)
                    answer = api.client.request(
                        method, path, json=body, headers=api.tokens[Role.ADMIN]
                    )
                    assert 400 <= answer.status_code < 500, (method, path, url)
        with pytest.raises(TimeoutError):
            listener.accept()
    return "nobody was called"


def test_sessions_are_what_a_login_makes(world: AttackWorld) -> None:
    api = Api.of(world)
    answer = api.client.post(
        "/v1/login", json={"name": api.names[Role.VIEWER], "password": PASSWORD}
    )
    shown = api.client.get("/v1/me", headers=bearer(answer.json()["token"])).json()
    assert shown["kind"] == TokenKind.SESSION


@attack.cases()
def test_an_attack_on_the_api_is_refused_and_seen(attack: Attack, world: AttackWorld) -> None:
    hold(world, attack)
