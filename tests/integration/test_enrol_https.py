"""Joining over real HTTPS: who gets in, who does not, and what an impostor learns."""

import http.client
import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from sqlmodel import col, select

from edge_agent.adapters.device_keys import make_request
from edge_agent.adapters.enrolment import (
    ServerUnreachableError,
    _check_grant,
    enrol,
    keep_grant,
)
from edge_agent.adapters.identity_store import load_identity
from edge_agent.contract.join import EnrolGrant, JoinTicket
from edge_agent.errors import EnrolmentError
from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import AuditRow
from fleet_server.bootstrap import Fleet
from fleet_server.ports.keys import KeyAct, KeyChange
from fleet_server.services import enrol_device, limit_attempts
from fleet_server.services.add_device import DeviceDesk, DeviceSpec
from fleet_server.services.enrol_device import JoinRefusedError
from fleet_server.wiring.devices import build_authority, build_device_desk, build_enrolment
from fleet_server.wiring.keys import build_key_desk
from fleet_server.wiring.trust import build_repository
from tests.support.clock import FakeClock
from tests.support.trust_fleet import EnrolServer, enrol_server, make_csr, make_fleet


class Site:
    """A fleet, its API and its operator. The clock is the real one's hour: TLS asks for it."""

    def __init__(self, fleet: Fleet, clock: FakeClock, server: EnrolServer) -> None:
        self.fleet, self.clock, self.server = fleet, clock, server
        self.desk: DeviceDesk = build_device_desk(fleet)
        self._number = 0

    def new_ticket(self, **changes: Any) -> JoinTicket:
        self._number += 1
        spec = DeviceSpec(id=f"cam-{self._number}", profile="camera", labels={})
        return replace(self.desk.add(spec), api_port=self.server.port, **changes)

    def post(self, body: bytes) -> tuple[int, dict[str, Any]]:
        context = ssl.create_default_context(cafile=str(self.fleet.workspace.keys_dir / "ca.pem"))
        connection = http.client.HTTPSConnection("127.0.0.1", self.server.port, context=context)
        try:
            connection.request("POST", "/v1/enrol", body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def request(self, secret: str, csr: bytes) -> tuple[int, dict[str, Any]]:
        return self.post(json.dumps({"v": 1, "secret": secret, "csr": csr.decode()}).encode())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    clock = FakeClock(datetime.now(UTC))
    fleet = make_fleet(tmp_path_factory.mktemp("site"), clock)
    with enrol_server(fleet) as server:
        yield Site(fleet, clock, server)
    fleet.engine.dispose()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = make_fleet(tmp_path_factory.mktemp("stranger"), FakeClock(datetime.now(UTC)))
    yield fleet
    fleet.engine.dispose()


def test_a_device_joins_once_and_is_who_the_operator_said(site: Site, tmp_path: Path) -> None:
    ticket = site.new_ticket()
    identity = enrol(ticket.encode(), tmp_path)
    assert (identity.device_id, identity.profile) == (ticket.device_id, "camera")
    assert identity == load_identity(tmp_path)
    assert identity.root == build_repository(site.fleet).root()
    assert identity.key_path.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in identity.directory.iterdir()} == {
        "ca.pem",
        "device.key",
        "device.pem",
        "identity.json",
    }
    certificate = x509.load_pem_x509_certificate(identity.certificate_path.read_bytes())
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == ticket.device_id
    assert certificate.not_valid_before_utc < site.clock.now() - timedelta(hours=23)
    shown = site.desk.label(ticket.device_id, {})
    assert shown.certificate_serial == f"{certificate.serial_number:x}"
    assert shown.enrolled_at == site.clock.now()


def test_a_join_string_works_no_second_time(site: Site, tmp_path: Path) -> None:
    ticket = site.new_ticket()
    enrol(ticket.encode(), tmp_path / "first")
    with pytest.raises(EnrolmentError, match=r"was used at .* device add cam-\d+ --again"):
        enrol(ticket.encode(), tmp_path / "second")
    assert not (tmp_path / "second" / "identity" / "identity.json").exists()


def test_of_two_devices_with_one_string_one_gets_in(site: Site) -> None:
    ticket = site.new_ticket()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: site.request(ticket.secret, make_csr()), range(4)))
    assert sorted(status for status, _ in answers) == [200, 403, 403, 403]


def test_a_join_string_expires(site: Site, tmp_path: Path) -> None:
    ticket = site.new_ticket()
    site.clock.advance(86_401)
    try:
        with pytest.raises(EnrolmentError, match="expired or was cancelled"):
            enrol(ticket.encode(), tmp_path)
    finally:
        site.clock.advance(-86_401)


def test_a_new_join_string_cancels_the_one_before(site: Site, tmp_path: Path) -> None:
    first = site.new_ticket()
    second = replace(site.desk.add_again(first.device_id), api_port=site.server.port)
    with pytest.raises(EnrolmentError, match="cancelled"):
        enrol(first.encode(), tmp_path)
    assert enrol(second.encode(), tmp_path).device_id == first.device_id


def test_joining_again_revokes_the_former_certificate(site: Site, tmp_path: Path) -> None:
    ticket = site.new_ticket()
    enrol(ticket.encode(), tmp_path)
    former = site.desk.label(ticket.device_id, {}).certificate_serial
    again = replace(site.desk.add_again(ticket.device_id), api_port=site.server.port)
    with pytest.raises(EnrolmentError, match="holds an identity already"):
        enrol(again.encode(), tmp_path)
    enrol(again.encode(), tmp_path, is_replacing=True)
    authority = build_authority(site.fleet)
    assert authority.is_revoked(former)
    assert not authority.is_revoked(site.desk.label(ticket.device_id, {}).certificate_serial)


def test_an_unknown_secret_is_refused_with_the_next_step(site: Site, tmp_path: Path) -> None:
    ticket = site.new_ticket(secret="guess")
    with pytest.raises(EnrolmentError, match=r"does not know the join string.*device add"):
        enrol(ticket.encode(), tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hello", "must begin with ef1:"),
        ("ef1:", "not JSON"),
        ("ef1:eyJoIjoi", "join string"),
        ("ef1:" + "A" * 3_000, "limit is 2048"),
        ("ef1:!!!!", "cut short or mistyped"),
    ],
)
def test_a_string_that_is_not_whole_says_so(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match=problem):
        enrol(text, tmp_path)
    assert not (tmp_path / "identity").exists()


def test_line_breaks_from_copying_do_not_matter(site: Site, tmp_path: Path) -> None:
    text = site.new_ticket().encode()
    assert enrol(f"  {text[:40]}\n  {text[40:]}\n", tmp_path).fleet == "fleet-1"


def test_an_impostor_is_found_out_before_the_secret_is_sent(
    site: Site, stranger: Fleet, tmp_path: Path
) -> None:
    with enrol_server(stranger) as impostor:
        ticket = site.new_ticket()
        with pytest.raises(EnrolmentError, match="not the server of this join string"):
            enrol(replace(ticket, api_port=impostor.port).encode(), tmp_path)
        assert impostor.asked == ["GET /v1/enrol/ca"]


def test_an_impostor_with_the_real_ca_certificate_cannot_prove_itself(
    site: Site, stranger: Fleet, tmp_path: Path
) -> None:
    real_ca = build_authority(site.fleet).ca_pem
    with enrol_server(stranger, answer_ca=real_ca) as impostor:
        ticket = replace(site.new_ticket(), api_port=impostor.port)
        with pytest.raises(EnrolmentError, match=r"could not prove.*secret was not sent"):
            enrol(ticket.encode(), tmp_path)
        assert impostor.asked == ["GET /v1/enrol/ca"]
    assert not (tmp_path / "identity" / "identity.json").exists()


def test_another_root_than_the_pinned_one_is_not_accepted(site: Site, tmp_path: Path) -> None:
    ticket = site.new_ticket(root_sha256="0" * 64)
    with pytest.raises(EnrolmentError, match="root of trust is not the one"):
        enrol(ticket.encode(), tmp_path)
    assert not (tmp_path / "identity" / "identity.json").exists()


def test_a_root_rotated_after_the_string_was_made_changes_nothing(
    site: Site, tmp_path: Path
) -> None:
    ticket, repository = site.new_ticket(), build_repository(site.fleet)
    pinned = repository.root()
    build_key_desk(site.fleet).change(KeyChange(act=KeyAct.RENEW, role="root"))
    assert repository.root() != pinned
    assert enrol(ticket.encode(), tmp_path / "a").root == pinned
    assert enrol(site.new_ticket().encode(), tmp_path / "b").root == repository.root()


def test_nobody_there_is_said_as_such(site: Site, tmp_path: Path) -> None:
    ticket = site.new_ticket(host="127.0.0.1")
    with pytest.raises(ServerUnreachableError, match=r"does not answer.*edgefleet up"):
        enrol(replace(ticket, api_port=1).encode(), tmp_path)


def test_the_name_comes_from_the_record_never_from_the_request(site: Site) -> None:
    ticket = site.new_ticket()
    status, answer = site.request(ticket.secret, make_csr("server"))
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert status == 200
    assert certificate.subject.rfc4514_string() == f"CN={ticket.device_id}"


def rsa_csr() -> bytes:
    key = rsa.generate_private_key(65_537, 2_048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    return request.public_bytes(Encoding.PEM)


def forged_csr() -> bytes:
    """A request for somebody else's public key, which we cannot sign."""
    der = bytearray(x509.load_pem_x509_csr(make_csr()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "csr",
    [b"garbage", b"", rsa_csr(), forged_csr()],
    ids=["garbage", "empty", "rsa", "not signed by its key"],
)
def test_a_bad_request_is_refused_and_the_secret_still_works(site: Site, csr: bytes) -> None:
    ticket = site.new_ticket()
    status, problem = site.request(ticket.secret, csr)
    assert (status, problem["status"]) == (422, 422)
    assert "certificate request" in problem["detail"]
    assert site.request(ticket.secret, make_csr())[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[]", 422),
        (b"\xff", 422),
        (b'{"v":1}', 422),
        (b'{"v":2,"secret":"a","csr":"b"}', 422),
        (b"[" * 10_000, 422),
        (b'{"v":1,"secret":"' + b"a" * 200 + b'","csr":"b"}', 422),
        (b" " * 16_385, 413),
    ],
)
def test_malformed_and_oversized_bodies_are_refused(site: Site, body: bytes, status: int) -> None:
    answer, problem = site.post(body)
    assert (answer, problem["status"]) == (status, status)


def test_a_fleet_joins_in_one_transaction_or_not_at_all(site: Site, tmp_path: Path) -> None:
    tickets = [site.new_ticket() for _ in range(3)]
    enrolment = build_enrolment(site.fleet)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in tickets]
    requests = [
        (ticket.secret, make_request(key, ticket.device_id))
        for ticket, key in zip(tickets, keys, strict=True)
    ]
    with pytest.raises(JoinRefusedError):
        enrolment.desk.enrol_many([*requests, ("unknown", make_csr())])
    root = tickets[0].root_sha256
    grants = enrolment.desk.enrol_many(requests, root_sha256=root)
    for ticket, grant, key in zip(tickets, grants, keys, strict=True):
        home = tmp_path / ticket.device_id
        identity = keep_grant(ticket, grant, enrolment.ca_pem, key, home)
        assert identity == load_identity(home)


def test_the_device_checks_what_it_is_given(site: Site) -> None:
    ticket, other = site.new_ticket(), site.new_ticket()
    key = ec.generate_private_key(ec.SECP256R1())
    enrolment = build_enrolment(site.fleet)
    csr = make_request(key, ticket.device_id)
    grant = enrolment.desk.enrol(ticket.secret, csr, root_sha256=ticket.root_sha256)
    of_other = enrolment.desk.enrol(other.secret, make_csr())
    ca_pem = enrolment.ca_pem
    _check_grant(ticket, grant, ca_pem, key)

    def refused(changed: EnrolGrant, problem: str) -> None:
        with pytest.raises(EnrolmentError, match=problem):
            _check_grant(ticket, changed, ca_pem, key)

    refused(replace(grant, device_id="cam-99"), "it is for cam-99")
    refused(replace(grant, fleet="fleet-2"), "of fleet fleet-2")
    refused(replace(grant, root=grant.root + " "), "root of trust")
    refused(replace(grant, certificate=of_other.certificate), "another name or key")
    refused(replace(grant, certificate="garbage"), "does not hold")
    with pytest.raises(EnrolmentError, match="another name or key"):
        _check_grant(ticket, grant, ca_pem, ec.generate_private_key(ec.SECP256R1()))


def test_a_certificate_of_another_authority_is_not_accepted(site: Site, tmp_path: Path) -> None:
    ticket, key = site.new_ticket(), ec.generate_private_key(ec.SECP256R1())
    stranger = CertificateAuthority(tmp_path, site.clock)
    stranger.create([])
    forged = stranger.issue_device(make_request(key, "x"), ticket.device_id)
    enrolment = build_enrolment(site.fleet)
    grant = enrolment.desk.enrol(ticket.secret, make_csr(), root_sha256=ticket.root_sha256)
    with pytest.raises(EnrolmentError, match="does not hold"):
        _check_grant(ticket, replace(grant, certificate=forged.pem.decode()), enrolment.ca_pem, key)


def audit_of(site: Site, act: str) -> list[AuditRow]:
    with read_session(site.fleet.engine) as session:
        query = select(AuditRow).where(AuditRow.act == act).order_by(col(AuditRow.id))
        return list(session.exec(query))


@pytest.mark.parametrize("name", ["a/b", "a+b", "#", "x" * 64, "cam-1,CN=server", "\u202ecam"])
def test_a_name_in_a_request_changes_nothing_whatever_it_is(site: Site, name: str) -> None:
    ticket = site.new_ticket()
    status, answer = site.request(ticket.secret, make_csr(name))
    assert status == 200
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert certificate.subject.rfc4514_string() == f"CN={ticket.device_id}"
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_a_request_that_was_overheard_is_no_use_with_another_string(site: Site) -> None:
    """Whoever replays a request gets a certificate for a key that is not theirs."""
    overheard = make_csr()
    first, second = site.new_ticket(), site.new_ticket()
    assert site.request(first.secret, overheard)[0] == 200
    status, answer = site.request(second.secret, overheard)
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert status == 200
    assert certificate.public_key() == x509.load_pem_x509_csr(overheard).public_key()
    assert certificate.subject.rfc4514_string() == f"CN={second.device_id}"


def test_who_fails_too_often_waits_and_the_log_stays_small(
    stranger: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_attempts, "FAILURES_MAX", 5)
    clock = stranger.clock
    assert isinstance(clock, FakeClock)
    with enrol_server(stranger) as server:
        site = Site(stranger, clock, server)
        good = site.new_ticket()
        for _ in range(5):
            assert site.request("guess", make_csr())[0] == 403
        answers = [site.request(good.secret, make_csr()) for _ in range(30)]
        assert {status for status, _ in answers} == {429}
        assert "try again in 600 s" in answers[0][1]["detail"]
        clock.advance(601)
        assert site.request(good.secret, make_csr())[0] == 200
        for _ in range(20):  # any number may join from one address
            assert site.request(site.new_ticket().secret, make_csr())[0] == 200
        rows = audit_of(site, "join.refused")
        assert 2 <= len(rows) <= 2 * enrol_device.REFUSALS_TOLD_PER_HOUR_MAX
        assert any("have failed within" in row.reason for row in rows)
