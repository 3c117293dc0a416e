"""Certificates are renewed over the device's own connection: real agent, broker and gateway."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from edge_agent.adapters.identity_renewer import FileIdentityRenewer, read_facts
from edge_agent.adapters.identity_store import load_identity
from edge_agent.contract.renewal import CertificateAnswer, RenewRequest
from edge_agent.contract.topics import Channel, device_topic
from edge_agent.local_status import find_status
from edge_agent.local_status_text import describe_status
from edge_agent.ports import Identity
from tests.support.gateway import Client, WorkspaceLab
from tests.support.gateway import Identity as Files
from tests.support.identity import (
    Reloader,
    ShiftedClock,
    audit_rows,
    certificates,
    join_fleet,
    running_agent,
)
from tests.support.trust_fleet import make_csr

LIFE = timedelta(hours=1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceLab]:
    lab = WorkspaceLab(tmp_path_factory.mktemp("renewal") / "fleet")
    lab.broker.start()
    reloader = Reloader(lab)
    lab.start_gateway()
    lab.wait_until_ready()
    yield lab
    reloader.stop()
    lab.stop()


def client_of(lab: WorkspaceLab, identity: Identity) -> Client:
    files = Files(identity.certificate_path, identity.key_path)
    client = Client(identity.device_id, files, identity.ca_path)
    client.connect(lab.port)
    client.subscribe(device_topic(identity.device_id, Channel.CERTIFICATE))
    return client


def ask(client: Client, name: str, csr: str, serial: str) -> CertificateAnswer:
    before = len(client.received)
    request = RenewRequest(csr=csr, serial=serial)
    client.publish(device_topic(name, Channel.RENEW), request.encode())
    return CertificateAnswer.decode(client.wait_for(before + 1)[-1].payload)


def test_a_certificate_is_renewed_at_two_thirds_of_its_life(
    lab: WorkspaceLab, tmp_path: Path
) -> None:
    former = join_fleet(lab, "cam-1", tmp_path, life=LIFE)
    clock = ShiftedClock()
    first = read_facts(former).serial
    with running_agent(tmp_path, clock) as process:
        lab.wait(lambda: any(row.seen_at for row in certificates(lab, "cam-1")))
        assert load_identity(tmp_path) == former, "renewed too early"
        clock.ahead = timedelta(minutes=44)

        lab.wait(lambda: load_identity(tmp_path).pair == "device-b")
        lab.wait(lambda: len([r for r in certificates(lab, "cam-1") if r.revoked_at]) == 1)
        identity = load_identity(tmp_path)
        facts = read_facts(identity)
        old, new = certificates(lab, "cam-1")
        assert (old.serial, new.serial) == (first, facts.serial)
        assert old.revoked_at is not None
        assert new.seen_at is not None
        assert new.pem == ""
        assert lab.device_row("cam-1").certificate_serial == facts.serial
        assert not former.key_path.exists()
        assert identity.key_path.stat().st_mode & 0o777 == 0o600
        acts = [row.act for row in audit_rows(lab, "cam-1")]
        assert acts == ["device.add", "device.enrol", "device.renewed"]

        lab.authority.revoke([first])  # only the new one gets in now
        lab.kill_broker()
        lab.broker.start()
        lab.wait(lambda: process._link.is_connected)
        assert find_status(tmp_path)["certificate"]["serial"] == facts.serial
        assert "not renewed" not in describe_status(find_status(tmp_path))


def test_a_lost_answer_is_given_once_more_and_is_no_copy(lab: WorkspaceLab, tmp_path: Path) -> None:
    identity = join_fleet(lab, "cam-2", tmp_path, life=LIFE)
    serial = read_facts(identity).serial
    renewer = FileIdentityRenewer(identity, ShiftedClock(), on_renewed=lambda _: None)
    client = client_of(lab, identity)
    lost = ask(client, "cam-2", renewer.prepare(), serial)
    again = ask(client, "cam-2", renewer.prepare(), serial)  # the same key, another signature
    assert lost.certificate
    assert again.certificate == lost.certificate
    other_key = ask(client, "cam-2", make_csr("cam-2").decode(), serial)  # the key was lost as well
    assert other_key.certificate not in ("", lost.certificate)
    assert lab.device_row("cam-2").cloned_at is None
    assert len(certificates(lab, "cam-2")) == 3


def test_what_is_asked_of_the_server_is_decided_by_the_broker_and_the_record(
    lab: WorkspaceLab, tmp_path: Path
) -> None:
    identity = join_fleet(lab, "cam-3", tmp_path, life=LIFE)
    victim = join_fleet(lab, "cam-4", tmp_path / "other", life=LIFE)
    serial = read_facts(identity).serial
    client = client_of(lab, identity)
    csr = make_csr("cam-4").decode()

    assert ask(client, "cam-3", csr, read_facts(victim).serial).code == "unknown-serial"
    assert ask(client, "cam-3", "no request", serial).code == "bad-request"
    mine = ask(client, "cam-3", csr, serial)
    renewer = FileIdentityRenewer(identity, ShiftedClock(), on_renewed=lambda _: None)
    renewer.prepare()
    with pytest.raises(Exception, match="another name or key"):
        renewer.accept(mine.certificate)
    replies = [ask(client, "cam-3", make_csr().decode(), serial) for _ in range(4)]
    assert [bool(r.certificate) for r in replies] == [True, True, True, False]
    assert replies[-1].code == "too-often"
    assert replies[-1].retry_after_s > 3_600
    refused = [r for r in audit_rows(lab, "cam-3") if r.act == "device.renewal_refused"]
    assert len(refused) == 3
    foreign = RenewRequest(csr=csr, serial=read_facts(victim).serial)
    client.publish(device_topic("cam-4", Channel.RENEW), foreign.encode())  # the broker drops it
    owner = client_of(lab, victim)
    assert ask(owner, "cam-4", make_csr().decode(), read_facts(victim).serial).certificate
    assert len(certificates(lab, "cam-4")) == 2
