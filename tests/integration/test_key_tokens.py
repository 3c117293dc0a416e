"""A person's key in a PKCS#11 token (SoftHSM): approving, and two of two with a key file."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleet_server.adapters.token_signer import MODULE_VARIABLE, PIN_VARIABLE
from fleet_server.errors import MisuseError, RefusedError
from fleet_server.ports.keys import KeyAct
from fleet_server.wiring.keys import create_approver, list_roots, pin_root, read_public_key
from tests.support.clock import FakeClock
from tests.support.key_room import V2, KeyRoom
from tests.support.trust_fleet import make_fleet, register

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "123456"

pytestmark = pytest.mark.skipif(
    not SOFTHSM.exists() or shutil.which("softhsm2-util") is None, reason="needs SoftHSM"
)


@pytest.fixture(scope="module", autouse=True)
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A token of this module alone; the library reads its configuration once a process."""
    pytest.importorskip("pkcs11", reason="needs the extra token")
    directory = tmp_path_factory.mktemp("softhsm")
    (directory / "tokens").mkdir()
    (directory / "softhsm2.conf").write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\n"
        "log.level = ERROR\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(directory / "softhsm2.conf"))
        subprocess.run(
            f"softhsm2-util --init-token --free --label bea --so-pin {PIN} --pin {PIN}".split(),
            check=True,
            capture_output=True,
        )
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    fleet = make_fleet(directory / "fleet", FakeClock(datetime(2026, 3, 1, tzinfo=UTC)))
    for version in (1, 2):
        register(fleet, "digits", version, ["camera"])
    fleet.engine.dispose()
    return directory


@pytest.fixture
def room(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyRoom:
    monkeypatch.setenv(PIN_VARIABLE, PIN)
    monkeypatch.delenv(MODULE_VARIABLE, raising=False)
    shutil.copytree(template, tmp_path / "room")
    clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
    return KeyRoom(tmp_path / "room", clock, monkeypatch)


def add_bea(room: KeyRoom) -> str:
    """Bea's key is made in her token; ann lets it count."""
    keyid, public = create_approver(
        room.folder("bea"), token="bea", slot=2, module=SOFTHSM, ask=None
    )
    read, pem = read_public_key(public)
    assert read == keyid
    room.change(KeyAct.ADD, "targets", public_pem=pem)
    with room.as_person("bea"):
        pin_root(room.fleet, list_roots(room.fleet)[0].sha256)
    return keyid


def test_a_token_approves_and_devices_need_no_pkcs11(room: KeyRoom) -> None:
    keyid = add_bea(room)
    with room.as_person("bea"):
        approval = room.approver("bea").approve("digits", 2)
    assert approval.keyid == keyid
    assert room.device_runs(V2).targets["digits"].path == V2
    folder = sorted(path.name for path in room.folder("bea").iterdir())
    assert "approver.toml" in folder
    assert "approver.pem" not in folder


def test_a_key_file_and_a_token_approve_together(room: KeyRoom) -> None:
    add_bea(room)
    assert room.change(KeyAct.THRESHOLD, "targets", threshold=2).waiting
    assert not room.cosign_keys("bea").waiting
    assert room.approver().approve("digits", 2).waiting
    with room.as_person("bea"):
        assert not room.approver("bea").cosign("approved", "digits", 2).waiting
    assert room.device_runs(V2).targets["digits"].path == V2


def test_a_key_on_the_token_is_found_again_not_made_anew(room: KeyRoom) -> None:
    first = create_approver(room.folder("bea"), token="bea", slot=2, module=SOFTHSM, ask=None)
    again = create_approver(room.folder("cal"), token="bea", slot=2, module=SOFTHSM, ask=None)
    assert first[0] == again[0]


def test_a_key_in_a_token_is_replaced_by_another_person_not_rotated(room: KeyRoom) -> None:
    add_bea(room)
    (room.folder("bea") / "root.pem").write_bytes((room.folder("ann") / "root.pem").read_bytes())
    with pytest.raises(MisuseError, match=r"is in a token.*create-approver"):
        room.change(KeyAct.ROTATE, "targets", "bea")


def test_what_a_token_refuses_is_one_sentence(
    room: KeyRoom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_bea(room)
    with room.as_person("bea"):
        monkeypatch.setenv(PIN_VARIABLE, "0000")
        with pytest.raises(RefusedError, match="wrong PIN; it was tried once"):
            room.approver("bea").approve("digits", 2)
        monkeypatch.delenv(PIN_VARIABLE)
        with pytest.raises(RefusedError, match=f"needs its PIN; set {PIN_VARIABLE}"):
            room.approver("bea").approve("digits", 2)
    monkeypatch.setenv(PIN_VARIABLE, PIN)
    with pytest.raises(RefusedError, match="token dora: No PKCS#11 token found"):
        create_approver(tmp_path / "dora", token="dora", slot=2, module=SOFTHSM, ask=None)


def test_what_is_missing_for_tokens_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MODULE_VARIABLE, raising=False)
    with pytest.raises(MisuseError, match=f"--module FILE, or {MODULE_VARIABLE}"):
        create_approver(tmp_path / "a", token="bea", slot=2, module=None, ask=None)
    with pytest.raises(MisuseError, match="no PKCS#11 library"):
        create_approver(tmp_path / "a", token="bea", slot=2, module=tmp_path / "x.so", ask=None)
    monkeypatch.setitem(__import__("sys").modules, "pkcs11.exceptions", None)
    with pytest.raises(MisuseError, match=r"pip install 'edgefleet\[token\]'"):
        create_approver(tmp_path / "a", token="bea", slot=2, module=SOFTHSM, ask=None)
    assert os.environ[MODULE_VARIABLE] == str(SOFTHSM)
