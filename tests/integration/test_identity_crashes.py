"""Kill the device at every file-system call of a renewal and of joining anew: a whole pair stays.

The style of ``test_agent_crashes.py``: the calls are those of ``adapters/files.py``; at each the
process dies before or after it. What is left must load as an identity whose key fits its
certificate, and the renewal must come to its end afterwards.
"""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from edge_agent.adapters.device_keys import load_key, make_key, make_request
from edge_agent.adapters.enrolment import keep_grant
from edge_agent.adapters.identity_renewer import FileIdentityRenewer, read_facts
from edge_agent.adapters.identity_store import load_identity
from edge_agent.contract.join import EnrolGrant, JoinTicket
from edge_agent.errors import EnrolmentError, StorageError
from edge_agent.ports import Identity
from fleet_server.adapters.certificate_authority import CertificateAuthority
from tests.support.clock import FakeClock
from tests.support.dying_calls import Killed, Killer, killing

NAME = "cam-7"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    authority = CertificateAuthority(tmp_path_factory.mktemp("ca"), FakeClock(datetime.now(UTC)))
    authority.create(["127.0.0.1"])
    return authority


def enrolled(authority: CertificateAuthority, directory: Path) -> Identity:
    key = make_key()
    issued = authority.issue_device(make_request(key, NAME), NAME)
    ticket = JoinTicket(
        host="127.0.0.1",
        api_port=1,
        mqtt_port=2,
        fleet="fleet",
        device_id=NAME,
        ca_sha256=authority.ca_sha256,
        root_sha256="4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865",
        secret="secret",
    )
    grant = EnrolGrant(
        device_id=NAME,
        profile="camera",
        fleet="fleet",
        certificate=issued.pem.decode(),
        ca=authority.ca_pem.decode(),
        root="1\n",
        mqtt_host="127.0.0.1",
        mqtt_port=2,
    )
    return keep_grant(ticket, grant, authority.ca_pem, key, directory)


@pytest.fixture(scope="module")
def joined(authority: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device that has joined, to be copied."""
    directory = tmp_path_factory.mktemp("joined")
    enrolled(authority, directory)
    return directory


def renew(authority: CertificateAuthority, directory: Path, used: list[Identity]) -> None:
    """What the agent does between two starts."""
    renewer = FileIdentityRenewer(
        load_identity(directory), FakeClock(datetime.now(UTC)), on_renewed=used.append
    )
    pem = authority.issue_device(renewer.prepare().encode(), NAME).pem
    renewer.accept(pem.decode())


def check_whole(directory: Path) -> str:
    """Load the identity; return its serial."""
    identity = load_identity(directory)
    key = load_key(identity.key_path.read_bytes())
    certificate = x509.load_pem_x509_certificate(identity.certificate_path.read_bytes())
    assert key is not None
    assert key.public_key() == certificate.public_key()
    return read_facts(identity).serial


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("how", ["renewal", "joining anew"])
def test_a_kill_at_any_call_leaves_one_whole_pair(
    authority: CertificateAuthority, joined: Path, tmp_path: Path, how: str, after: bool
) -> None:
    at, was_killed, seen = 0, True, set()
    first = read_facts(load_identity(joined)).serial
    while was_killed:
        at += 1
        directory = tmp_path / str(at)
        shutil.copytree(joined, directory)
        was_killed, used = False, list[Identity]()
        with killing(Killer(at, after=after)):
            try:
                if how == "renewal":
                    renew(authority, directory, used)
                else:
                    enrolled(authority, directory)
            except Killed:
                was_killed = True
        serial = check_whole(directory)
        seen.add(serial == first)
        if used:
            assert serial != first, "the link was given what is not durable"
        renew(authority, directory, used)
        assert check_whole(directory) not in (first, serial)
        names = {path.name for path in load_identity(directory).directory.iterdir()}
        identity = load_identity(directory)
        pair = identity.pair
        expected = {identity.ca, "identity.json", f"{pair}.pem", f"{pair}.key"}
        assert {n for n in names if not n.endswith(".tmp")} == expected
    assert seen == {True, False}
    assert at > 10


def test_the_same_key_is_asked_for_after_a_restart(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    identity = enrolled(authority, tmp_path)
    clock = FakeClock(datetime.now(UTC))
    keys = set()
    for _ in range(3):
        renewer = FileIdentityRenewer(identity, clock, on_renewed=lambda _: None)
        keys.add(authority.read_key(renewer.prepare().encode()))
    assert len(keys) == 1
    renewer.accept(authority.issue_device(renewer.prepare().encode(), NAME).pem.decode())
    assert authority.read_key(renewer.prepare().encode()) not in keys, "each renewal has a new key"


@pytest.mark.parametrize("what", ["another authority", "another name", "another key", "garbage"])
def test_what_is_not_ours_is_not_taken(
    authority: CertificateAuthority, tmp_path: Path, what: str
) -> None:
    identity = enrolled(authority, tmp_path)
    renewer = FileIdentityRenewer(identity, FakeClock(datetime.now(UTC)), on_renewed=lambda _: None)
    csr = renewer.prepare().encode()
    issuer = authority
    if what == "another authority":
        issuer = CertificateAuthority(tmp_path / "ca", FakeClock(datetime.now(UTC)))
        issuer.create(["127.0.0.1"])
    name = "cam-8" if what == "another name" else NAME
    if what == "another key":
        csr = make_request(make_key(), NAME)
    pem = b"-----BEGIN" if what == "garbage" else issuer.issue_device(csr, name).pem
    with pytest.raises(EnrolmentError, match="not accepted"):
        renewer.accept(pem.decode())
    assert load_identity(tmp_path) == identity


def test_a_full_disk_keeps_the_former_identity(
    authority: CertificateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = enrolled(authority, tmp_path)
    renewer = FileIdentityRenewer(identity, FakeClock(datetime.now(UTC)), on_renewed=lambda _: None)
    pem = authority.issue_device(renewer.prepare().encode(), NAME).pem.decode()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="disk-full"):
        renewer.accept(pem)
    monkeypatch.undo()
    assert load_identity(tmp_path) == identity
    renewer.accept(pem)
    assert read_facts(load_identity(tmp_path)).not_after > datetime.now(UTC) + timedelta(days=80)
