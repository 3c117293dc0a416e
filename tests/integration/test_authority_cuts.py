"""The power fails between any two writes while one authority follows another; who may sign it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from tuf.api.metadata import Metadata, Targets

from edge_agent.contract.authorities import AUTHORITIES_FIELD
from edge_agent.contract.errors import MalformedError
from fleet_server.adapters.approver_keys import sign_files
from fleet_server.adapters.key_files import load_key
from fleet_server.adapters.target_layout import COMPACT, authorities_of
from fleet_server.bootstrap import Fleet, open_fleet
from fleet_server.errors import RefusedError
from fleet_server.ports.keys import KeyAct
from fleet_server.services.hand_over_authority import AuthorityDesk
from fleet_server.wiring.authority import build_authority_desk
from fleet_server.wiring.devices import build_authority
from fleet_server.wiring.trust import build_pending, build_repository
from fleet_server.wiring.workspace import init_workspace
from fleet_server.workspace import Config
from tests.support.clock import FakeClock
from tests.support.key_room import KeyRoom
from tests.support.power_cuts import PowerCut, cut_after

Step = Callable[[AuthorityDesk], object]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("authority") / "fleet"
    fleet = open_fleet(init_workspace(root, Config(fleet="fleet-1"), clock=FakeClock()).workspace)
    fleet.engine.dispose()
    return root


def open_copy(template: Path, root: Path) -> Fleet:
    shutil.copytree(template, root)
    return open_fleet(root, FakeClock())


def listed(fleet: Fleet) -> tuple[str, ...]:
    return authorities_of(build_repository(fleet).current_targets())


def check_that_devices_get_in(fleet: Fleet, where: str) -> None:
    """Whom devices trust has issued the server's certificates and keeps a revocation list."""
    files = build_authority(fleet).files
    authorities = x509.load_pem_x509_certificates(files.ca.read_bytes())
    shown = {x509.load_pem_x509_certificate(files.certificate("api").read_bytes()).issuer}
    lists = files.crl.read_bytes().split(b"-----BEGIN")[1:]
    kept = {x509.load_pem_x509_crl(b"-----BEGIN" + one).issuer for one in lists}
    assert {one.subject for one in authorities} <= kept, where
    trusted = {
        one.subject for one in authorities if not listed(fleet) or _sha256(one) in listed(fleet)
    }
    assert shown <= trusted, where


def _sha256(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex()


def cut_everywhere(
    template: Path, place: Path, patch: pytest.MonkeyPatch, before: list[Step], step: Step
) -> Fleet:
    """Cut a step after each of its effects, and give it again; return the whole one."""
    began = open_copy(template, place / "began")
    for one in before:
        one(build_authority_desk(began, actor="ann"))
    began.engine.dispose()
    effects, is_whole = 0, False
    while True:
        fleet = open_copy(place / "began", place / str(effects))
        where = f"cut after {effects} effects"
        try:
            with cut_after(effects, patch):
                step(build_authority_desk(fleet, actor="ann"))
                is_whole = True
        except PowerCut:
            check_that_devices_get_in(fleet, where)
            step(build_authority_desk(fleet, actor="ann"))
        check_that_devices_get_in(fleet, where)
        assert listed(fleet) == build_authority(fleet).authorities, where
        assert not (fleet.workspace.server_dir / "pending.json").exists(), where
        if is_whole:
            assert effects > 8
            return fleet
        fleet.engine.dispose()
        shutil.rmtree(place / str(effects))
        effects += 1


def test_a_new_authority_cut_anywhere_is_completed(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = cut_everywhere(template, tmp_path, monkeypatch, [], AuthorityDesk.begin)
    assert len(listed(fleet)) == 2
    fleet.engine.dispose()


def test_the_end_of_the_former_authority_cut_anywhere_is_completed(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = cut_everywhere(
        template, tmp_path, monkeypatch, [AuthorityDesk.begin], AuthorityDesk.conclude
    )
    assert len(listed(fleet)) == 1
    files = build_authority(fleet).files
    assert not [path for path in (files.next_ca, files.next_ca_key) if path.exists()]
    assert listed(fleet)[0] != build_authority(open_fleet(template)).ca_sha256
    fleet.engine.dispose()


def test_several_approvers_agree_on_the_authority_that_is_shown(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(template, tmp_path / "fleet")
    room = KeyRoom(tmp_path, FakeClock(), monkeypatch)
    room.need_two()
    desk = build_authority_desk(room.fleet, actor="ann")
    outcome = desk.begin()
    assert outcome is not None
    assert outcome.waiting
    assert len(build_authority(room.fleet).authorities) == 1, "it counts nowhere yet"
    pending = build_pending(room.fleet)
    proposal = pending.load()
    assert proposal is not None
    added = proposal.detail["keyids"]["ca"]["added"]
    with room.as_person("bea"):
        review = room.desk("bea").ceremony.review(proposal)
        assert sorted(review.sentences) == [f"authority: + {one}" for one in added]
        assert not room.cosign_keys("bea").waiting
    assert build_authority(room.fleet).authorities == listed(room.fleet)

    # The same list changed on the side, in what says that it only renews, is not signed.
    room.change(KeyAct.RENEW, "targets")
    renewal = pending.load()
    assert renewal is not None
    metadata = Metadata[Targets].from_bytes(renewal.files["targets"])
    metadata.signed.unrecognized_fields[AUTHORITIES_FIELD] = ["f" * 64]
    metadata.signatures.clear()
    forged = sign_files(
        {"targets": metadata.to_bytes(COMPACT)}, [load_key(room.folder("ann") / "approver.pem")]
    )
    pending.save(replace(renewal, files=forged))
    with pytest.raises(RefusedError, match="does not hold exactly what it says"):
        room.cosign_keys("bea")
    room.fleet.engine.dispose()


@pytest.mark.parametrize("value", [[], ["f" * 63], ["f" * 64] * 2, "f" * 64, {}, [1]])
def test_a_list_that_devices_could_not_read_is_refused(
    template: Path, tmp_path: Path, value: object
) -> None:
    fleet = open_copy(template, tmp_path / "fleet")
    repository = build_repository(fleet)
    metadata = Metadata[Targets].from_bytes(repository.current_targets()["targets"])
    metadata.signed.version += 1
    metadata.signed.unrecognized_fields[AUTHORITIES_FIELD] = value
    key = load_key(fleet.workspace.operator_dir / "approver.pem")
    metadata.signatures.clear()
    files = sign_files({"targets": metadata.to_bytes(COMPACT)}, [key])
    with pytest.raises(RefusedError, match="x-authorities"):
        repository.store_targets(files)
    with pytest.raises(MalformedError):
        authorities_of(files)
    fleet.engine.dispose()
