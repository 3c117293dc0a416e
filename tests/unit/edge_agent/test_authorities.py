"""What a device trusts when lists and certificates of authorities arrive, in any order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from edge_agent.adapters.device_keys import key_pem, make_key, make_request
from edge_agent.adapters.identity_renewer import FileIdentityRenewer
from edge_agent.adapters.identity_store import save_identity
from edge_agent.authorities import Authorities, AuthoritiesFollowed
from edge_agent.contract.authorities import (
    AUTHORITIES_BYTES_MAX,
    AUTHORITIES_MAX,
    read_authorities,
    split_bundle,
)
from edge_agent.contract.errors import ContractError
from edge_agent.core.renewal_plan import CertificateFacts
from edge_agent.errors import EnrolmentError
from edge_agent.ports import Identity, Lane
from fleet_server.adapters.authority_files import Authority, make_authority
from fleet_server.adapters.certificate_authority import CertificateAuthority
from tests.support.clock import FakeClock

CLOCK = FakeClock()
NEW, FOREIGN = make_authority(CLOCK), make_authority(CLOCK)


@dataclass
class Device:
    """A device's folder on disk, its certificate issued by ``old``."""

    directory: Path
    told: list[Identity] = field(default_factory=list)

    def __post_init__(self) -> None:
        authority = CertificateAuthority(self.directory / "server", CLOCK)
        authority.create(["127.0.0.1"])
        self.old, self.old_pem = authority.ca_sha256, authority.ca_pem
        key = make_key()
        issued = authority.issue_device(make_request(key, "cam-1"), "cam-1")
        self.identity = Identity(
            device_id="cam-1",
            profile="camera",
            fleet="fleet-1",
            host="127.0.0.1",
            mqtt_port=1,
            api_port=2,
            root=b"{}",
            directory=self.directory / "identity",
        )
        save_identity(
            self.identity, ca_pem=self.old_pem, certificate_pem=issued.pem, key_pem=key_pem(key)
        )
        self.renewer = FileIdentityRenewer(
            self.identity, CLOCK, on_renewed=lambda _: None, on_trusted=self.told.append
        )

    @property
    def trusted(self) -> list[str]:
        return list(split_bundle(self.identity.ca_path.read_bytes()))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_listed_authority_is_trusted_beside_the_old_one_and_then_alone(device: Device) -> None:
    both = (NEW.sha256, device.old)
    assert not device.renewer.facts.is_of_former
    facts = device.renewer.follow_authorities(both, b"")  # the list came first
    assert (device.trusted, facts.is_of_former) == ([device.old], False)
    facts = device.renewer.follow_authorities(both, device.old_pem + NEW.pem)
    assert device.trusted == list(both)
    assert (facts.authority, facts.newest, facts.is_of_former) == (device.old, NEW.sha256, True)
    device.renewer.follow_authorities(both, NEW.pem)
    assert len(device.told) == 1, "nothing new, nothing written"
    device.renewer.follow_authorities((NEW.sha256,), b"")
    assert device.trusted == [NEW.sha256]


@pytest.mark.parametrize("listed", [(), (NEW.sha256,)])
def test_of_a_bundle_with_a_stranger_nothing_is_taken(
    device: Device, listed: tuple[str, ...]
) -> None:
    with pytest.raises(EnrolmentError, match=f"no approver listed: sha256 {FOREIGN.sha256}"):
        device.renewer.follow_authorities(listed, NEW.pem * bool(listed) + FOREIGN.pem)
    assert device.trusted == [device.old]


def test_who_has_none_of_those_listed_stays_with_what_it_trusts(device: Device) -> None:
    with pytest.raises(EnrolmentError, match=r"is listed, its certificate is missing"):
        device.renewer.follow_authorities((NEW.sha256,), device.old_pem)
    assert device.trusted == [device.old]
    assert not device.told


def test_where_nothing_is_listed_nothing_changes(device: Device) -> None:
    device.renewer.follow_authorities((), device.old_pem)
    device.renewer.follow_authorities((), b"")
    assert device.trusted == [device.old]
    assert not device.told


def many(count: int) -> list[Authority]:
    return [make_authority(CLOCK) for _ in range(count)]


@pytest.mark.parametrize(
    "payload",
    [
        b"junk",
        NEW.pem + b"junk",
        b"-----BEGIN CERTIFICATE-----\n=A==\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n" + b"A" * AUTHORITIES_BYTES_MAX,
        b"".join(one.pem for one in many(AUTHORITIES_MAX + 1)),
    ],
)
def test_what_is_no_bundle_is_refused(device: Device, payload: bytes) -> None:
    with pytest.raises(ContractError):
        split_bundle(payload)
    with pytest.raises(EnrolmentError):
        device.renewer.follow_authorities((NEW.sha256,), payload)
    assert device.trusted == [device.old]


def test_a_bundle_gives_back_what_went_in() -> None:
    assert split_bundle(NEW.pem + FOREIGN.pem) == {
        NEW.sha256: NEW.pem,
        FOREIGN.sha256: FOREIGN.pem,
    }
    assert read_authorities([NEW.sha256]) == (NEW.sha256,)


class Keeper:
    """Refuses until told otherwise."""

    def __init__(self) -> None:
        self.refuses = True
        self.asked: list[tuple[tuple[str, ...], bytes]] = []

    def follow_authorities(self, listed: tuple[str, ...], bundle: bytes) -> CertificateFacts:
        self.asked.append((listed, bundle))
        if self.refuses:
            raise EnrolmentError("a stranger")
        now_at = CLOCK.now()
        return CertificateFacts(serial="1", not_before=now_at, not_after=now_at + timedelta(days=1))


def test_what_does_not_fit_is_told_when_it_lasts() -> None:
    clock, keeper = FakeClock(), Keeper()
    jobs: list[Callable[[], object]] = []

    class Jobs:
        def submit(self, lane: Lane, job: Callable[[], object]) -> None:
            assert lane is Lane.DISK
            jobs.append(job)

    authorities = Authorities(keeper, clock=clock, jobs=Jobs(), grace_s=30)

    def turn() -> None:
        authorities.tick()
        while jobs:
            done = jobs.pop()()
            assert isinstance(done, AuthoritiesFollowed)
            authorities.handle(done)

    authorities.put_bundle(b"x")
    turn()
    assert not keeper.asked, "what is listed is not known yet"
    authorities.put_listed(())
    turn()
    turn()
    assert (keeper.asked, authorities.refused) == ([((), b"x")], "")
    clock.advance(31)
    assert authorities.refused == "a stranger"
    keeper.refuses = False
    authorities.put_bundle(b"y")
    turn()
    assert (keeper.asked[1:], authorities.refused) == ([((), b"y")], "")
