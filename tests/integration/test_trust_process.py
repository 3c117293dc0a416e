"""Trust in a process of its own: the same word as in this one, and what its ends come to."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge_agent.adapters.identity_renewer import read_facts
from edge_agent.adapters.identity_store import identity_directory, load_identity, save_identity
from edge_agent.adapters.trust_process import (
    ProcessRenewer,
    ProcessVerifier,
    TrustProcess,
    find_facts,
)
from edge_agent.contract.codes import Code
from edge_agent.core.release import PackageKey
from edge_agent.core.verified import AcceptedTrust, VerifiedAssignment
from edge_agent.errors import EnrolmentError, Refusal, StorageError
from edge_agent.ports import Identity, Verdict
from tests.support.clock import FakeClock
from tests.support.power_cut_identity import PlayedAuthority, join
from tests.support.trust import DEVICE, PROFILE, TrustWorld
from tests.support.waiting import wait_until

CRASH = (sys.executable, "-c", "import os; os.kill(os.getpid(), 4)")
HURRIED = """
import sys
from edge_agent import trust_worker
trust_worker.LINGER_S = 0.2
sys.exit(trust_worker.main())
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TrustWorld:
    world = TrustWorld(tmp_path_factory.mktemp("trust"))
    world.approve("digits/1/camera.tar", "digits/2/camera.tar")
    return world


@pytest.fixture
def directory(world: TrustWorld, tmp_path: Path) -> Path:
    """An agent's directory of the world's device; its certificate is none."""
    identity = Identity(
        device_id=DEVICE,
        profile=PROFILE,
        fleet=world.fleet,
        host="127.0.0.1",
        mqtt_port=1,
        api_port=1,
        root=world.pinned_root,
        directory=identity_directory(tmp_path),
    )
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    save_identity(identity, ca_pem=b"ca", certificate_pem=b"none", key_pem=pem)
    return tmp_path


@pytest.fixture
def process(world: TrustWorld, directory: Path) -> Iterator[TrustProcess]:
    with closing(TrustProcess(directory, world.device_clock)) as process:
        yield process


def held_by(path: str) -> frozenset[PackageKey]:
    return frozenset({PackageKey(target=path, sha256="0" * 64)})


def same(one: Verdict, other: Verdict) -> bool:
    """Compare; a refusal is an exception, which equals itself only."""

    def plain(refusal: object) -> object:
        return (refusal.code, refusal.detail) if isinstance(refusal, Refusal) else refusal

    return (one.standing, plain(one.result), plain(one.doubt)) == (
        other.standing,
        plain(other.result),
        plain(other.doubt),
    )


def test_every_kind_of_verdict_is_that_of_this_process(
    world: TrustWorld, process: TrustProcess
) -> None:
    here, there = world.make_verifier(), ProcessVerifier(process)
    assert there.stored_files() == {}
    files = world.refresh()
    good = world.assign("digits/1/camera.tar", 3)
    held = held_by("digits/2/camera.tar")
    for envelope, given in [
        (good, held),
        (good, frozenset()),
        (b"", held),
        (b"no envelope", held),
        (world.assign("digits/9/camera.tar", 4), held),
        (world.assign("digits/1/camera.tar", 5, device="another"), held),
    ]:
        mine = here.judge(files, envelope, AcceptedTrust(), given)
        its = there.judge(files, envelope, AcceptedTrust(), given)
        assert same(mine, its), (envelope[:20], mine, its)
    verdict = there.judge(files, good, AcceptedTrust(), held)
    assert isinstance(verdict.result, VerifiedAssignment)
    assert verdict.standing is not None
    assert verdict.standing.withdrawn == held
    assert there.stored_files() == here.stored_files() != {}
    broken = {name: data.replace(b"sig", b"gis") for name, data in files.items()}
    nothing = there.judge(broken, good, AcceptedTrust(), held)
    assert nothing.standing is None
    assert isinstance(nothing.result, Refusal)


def test_the_agents_clock_counts(world: TrustWorld, directory: Path) -> None:
    late = FakeClock(world.clock.now().replace(year=world.clock.now().year + 5))
    with closing(TrustProcess(directory, late)) as process:
        verdict = ProcessVerifier(process).judge(world.refresh(), b"", AcceptedTrust())
    assert isinstance(verdict.result, Refusal)
    assert verdict.result.code is Code.TUF_EXPIRED


def test_a_child_that_was_killed_is_replaced_unseen(
    world: TrustWorld, process: TrustProcess
) -> None:
    verifier, files = ProcessVerifier(process), world.refresh()
    envelope = world.assign("digits/1/camera.tar", 3)
    assert isinstance(verifier.judge(files, envelope, AcceptedTrust()).result, VerifiedAssignment)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert isinstance(verifier.judge(files, envelope, AcceptedTrust()).result, VerifiedAssignment)


def test_a_child_that_crashes_is_a_refusal_that_is_tried_again(
    world: TrustWorld, directory: Path
) -> None:
    with closing(TrustProcess(directory, world.device_clock, command=CRASH)) as process:
        verifier = ProcessVerifier(process)
        verdict = verifier.judge(world.refresh(), b"", AcceptedTrust())
        assert verdict.standing is None
        assert isinstance(verdict.result, Refusal)
        assert verdict.result.code is Code.DISK_ERROR
        assert "SIGILL" in verdict.result.detail
        assert verifier.stored_files() == {}


def test_an_idle_child_ends_by_itself_and_the_next_question_starts_another(
    world: TrustWorld, directory: Path
) -> None:
    command = (sys.executable, "-c", HURRIED)
    with closing(TrustProcess(directory, world.device_clock, command=command)) as process:
        verifier, files = ProcessVerifier(process), world.refresh()
        assert verifier.judge(files, b"", AcceptedTrust()).standing is not None
        first = process.pid
        wait_until(lambda: process.pid is None)
        assert not Path(f"/proc/{first}").exists()
        assert verifier.judge(files, b"", AcceptedTrust()).standing is not None


def test_a_renewal_through_the_child_takes_the_new_pair_into_use(tmp_path: Path) -> None:
    authority = PlayedAuthority("fleet-1")
    identity = join(authority, tmp_path)
    clock, renewed = FakeClock(datetime.now(UTC)), list[Identity]()
    with closing(TrustProcess(tmp_path, clock)) as process:
        renewer = ProcessRenewer(
            process, identity, clock, on_renewed=renewed.append, on_trusted=lambda _: None
        )
        first = renewer.facts
        assert first == find_facts(process) == read_facts(identity)
        request = renewer.prepare()
        with pytest.raises(EnrolmentError, match="not accepted"):
            renewer.accept(PlayedAuthority("stranger").issue(request.encode()))
        assert renewed == []
        second = renewer.accept(authority.issue(request.encode()))
        assert second.serial != first.serial
        assert renewed == [replace(identity, pair="device-b")]
        assert load_identity(tmp_path) == renewed[0]
        assert renewer.facts == second == find_facts(process)
        assert renewer.follow_authorities((authority.sha256,), authority.pem) == second
        with pytest.raises(EnrolmentError, match="no approver listed"):
            renewer.follow_authorities((authority.sha256,), PlayedAuthority("stranger").pem)


def test_a_certificate_that_cannot_be_read_is_said(process: TrustProcess) -> None:
    with pytest.raises(StorageError, match="certificate cannot be read"):
        find_facts(process)
