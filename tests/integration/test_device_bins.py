"""A device follows packages into hash bins, and is told by them what was withdrawn."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Targets

from edge_agent.contract.codes import Code
from edge_agent.contract.package import OnWithdrawn
from edge_agent.core.release import PackageKey
from edge_agent.core.verified import AcceptedTrust, VerifiedAssignment
from edge_agent.errors import Refusal
from edge_agent.ports import Verdict
from tests.support.clock import FakeClock
from tests.support.target_bins import PATHS, all_files, approve_in_bins
from tests.support.trust import TrustWorld, make_target
from tests.support.trust_bins import COMPACT, NOW, SignedFleet, key_of, path_of

V1, V2 = path_of(1), path_of(2)
STOP = OnWithdrawn.STOP


@dataclass
class Device:
    """A device that commits what its verifier says."""

    fleet: SignedFleet
    directory: Path
    clock: FakeClock = field(default_factory=lambda: FakeClock(NOW))
    accepted: AcceptedTrust = field(default_factory=AcceptedTrust)

    def __post_init__(self) -> None:
        self.verifier = self.fleet.verifier(self.directory, self.clock)

    def restart(self) -> None:
        self.verifier = self.fleet.verifier(self.directory, self.clock)

    def judge(self, files: dict[str, bytes], envelope: bytes = b"", *held: str) -> Verdict:
        keys = frozenset(key_of(path) for path in held)
        verdict = self.verifier.judge(files, envelope, self.accepted, keys)
        if isinstance(verdict.result, VerifiedAssignment):
            self.accepted = verdict.result.accepted
        elif verdict.standing is not None:
            self.accepted = verdict.standing.accepted
        return verdict


@pytest.fixture
def fleet() -> SignedFleet:
    return SignedFleet(bit_length=4, packages={V1: STOP, V2: STOP, path_of(1, "faces"): STOP})


@pytest.fixture
def device(fleet: SignedFleet, tmp_path: Path) -> Device:
    return Device(fleet, tmp_path / "tuf")


def code_of(verdict: Verdict) -> Code | None:
    return verdict.result.code if isinstance(verdict.result, Refusal) else None


def found(verdict: Verdict) -> str:
    assert isinstance(verdict.result, VerifiedAssignment), verdict.result
    return verdict.result.targets["digits"].sha256


def withdrawn(verdict: Verdict) -> frozenset[PackageKey]:
    assert verdict.standing is not None, verdict.result
    return verdict.standing.withdrawn


def test_a_package_is_found_through_approved_and_its_bin(
    fleet: SignedFleet, device: Device
) -> None:
    files = fleet.publish() | fleet.bin_file(V1)
    verdict = device.judge(files, fleet.assign(V1, 1))
    assert found(verdict) == key_of(V1).sha256
    assert verdict.standing is not None
    assert verdict.standing.bins == {fleet.bin_of(V1)}
    assert set(verdict.standing.metadata) == {
        "root",
        "timestamp",
        "snapshot",
        "targets",
        "approved",
    }


def test_a_missing_bin_is_named_and_nothing_is_done_until_it_comes(
    fleet: SignedFleet, device: Device
) -> None:
    files, envelope = fleet.publish(), fleet.assign(V1, 1)
    verdict = device.judge(files, envelope, V2)
    assert code_of(verdict) is Code.TUF_MISSING
    assert verdict.standing is not None
    assert verdict.standing.bins == {fleet.bin_of(V1), fleet.bin_of(V2)}
    assert not verdict.standing.withdrawn
    assert not verdict.standing.approved
    assert verdict.doubt is not None
    assert verdict.doubt.code is Code.TUF_MISSING
    assert found(device.judge(files | fleet.bin_file(V1), envelope)) == key_of(V1).sha256


def test_what_no_bin_names_is_not_approved(fleet: SignedFleet, device: Device) -> None:
    unsigned = path_of(99)
    files = fleet.publish() | fleet.bin_file(unsigned)
    assert code_of(device.judge(files, fleet.assign(unsigned, 1))) is Code.NOT_APPROVED


def test_an_older_or_newer_bin_than_the_snapshots_counts_as_missing(
    fleet: SignedFleet, device: Device
) -> None:
    first = fleet.publish()
    old = fleet.bin_file(V1)
    fleet.packages[V1] = OnWithdrawn.KEEP
    second = fleet.publish()
    envelope = fleet.assign(V1, 1)
    assert code_of(device.judge(first | fleet.bin_file(V1), envelope)) is Code.TUF_MISSING
    assert code_of(device.judge(second | old, envelope)) is Code.TUF_MISSING
    verdict = device.judge(second | fleet.bin_file(V1), envelope)
    assert isinstance(verdict.result, VerifiedAssignment)
    assert verdict.result.targets["digits"].custom.on_withdrawn is OnWithdrawn.KEEP


def test_an_old_bin_that_the_servers_keys_vouch_for_is_found_out(
    fleet: SignedFleet, device: Device
) -> None:
    fleet.publish()
    role, old = fleet.bin_of(V1), fleet.bin_file(V1)
    del fleet.packages[V1]
    fleet.publish()
    fleet.versions[role] = 1  # a stolen snapshot key names the bin of before the withdrawal
    fleet.online_version += 1
    targets = fleet.versions["targets"]
    forged = fleet.publish()
    newer = {n: d for n, d in forged.items() if "targets" not in n}
    assert targets < fleet.versions["targets"]
    good = Metadata[Targets].from_bytes(forged[f"{fleet.versions['targets']}.targets.json"])
    index = int(role.rpartition("-")[2], 16)
    good.signed.unrecognized_fields["x-versions"]["packages"][index] = 2
    good.sign(fleet.keys["approver"])
    newer[f"{fleet.versions['targets']}.targets.json"] = good.to_bytes(COMPACT)
    assert code_of(device.judge(newer | old, fleet.assign(V1, 1))) is Code.TUF_ROLLBACK


@pytest.mark.parametrize(
    ("key", "code"), [("director", Code.TUF_SIGNATURE), ("online", Code.TUF_SIGNATURE)]
)
def test_a_bin_that_no_approver_signed_is_refused(
    fleet: SignedFleet, device: Device, key: str, code: Code
) -> None:
    files = fleet.publish()
    (name, data) = next(iter(fleet.bin_file(V1).items()))
    metadata = Metadata[Targets].from_bytes(data)
    metadata.signatures.clear()
    metadata.sign(fleet.keys[key])
    forged = files | {name: metadata.to_bytes(COMPACT)}
    verdict = device.judge(forged, fleet.assign(V1, 1), V2)
    assert code_of(verdict) is code
    # What it hides is not taken for withdrawn, and the true one is accepted after it.
    assert not withdrawn(verdict)
    assert found(device.judge(files | fleet.bin_file(V1), fleet.assign(V1, 1)))


def test_another_key_than_the_directors_assigns_nothing(fleet: SignedFleet, device: Device) -> None:
    files = fleet.publish() | fleet.bin_file(V1)
    for key in ("online", "approver"):
        verdict = device.judge(files, fleet.assign(V1, 1, key=key))
        assert code_of(verdict) is Code.ASSIGN_SIGNATURE


def test_devices_in_service_pass_from_flat_to_bins_with_what_they_accepted(
    tmp_path: Path,
) -> None:
    fleet = SignedFleet(packages={V1: STOP, V2: STOP})
    device = Device(fleet, tmp_path / "tuf")
    device.judge(fleet.publish(), fleet.assign(V1, 7))
    before = device.accepted
    fleet.bit_length = 4
    files, envelope = fleet.publish(), fleet.assign(V1, 7)
    verdict = device.judge(files, b"", V1)
    assert verdict.standing is not None
    assert not verdict.standing.withdrawn
    assert verdict.standing.bins == {fleet.bin_of(V1)}
    assert device.accepted == before
    verdict = device.judge(files | fleet.bin_file(V1), fleet.assign(V1, 8), V1)
    assert found(verdict) == key_of(V1).sha256
    assert not withdrawn(verdict)
    assert code_of(device.judge(files | fleet.bin_file(V1), envelope, V1)) is Code.ASSIGN_REPLAY


@pytest.mark.parametrize("bit_length", [None, 4], ids=["flat", "bins"])
def test_a_withdrawal_is_told_with_or_without_an_assignment_and_after_a_restart(
    bit_length: int | None, tmp_path: Path
) -> None:
    fleet = SignedFleet(bit_length=bit_length, packages={V1: STOP, V2: STOP})

    def files_now() -> dict[str, bytes]:
        files = fleet.publish()
        return files | fleet.bin_file(V1) | fleet.bin_file(V2) if bit_length else files

    device = Device(fleet, tmp_path / "tuf")
    assert not withdrawn(device.judge(files_now(), fleet.assign(V1, 1), V1))
    del fleet.packages[V1]
    files = files_now()
    verdict = device.judge(files, fleet.assign(V1, 1), V1, V2)
    assert code_of(verdict) is Code.NOT_APPROVED
    assert withdrawn(verdict) == {key_of(V1)}
    assert verdict.standing is not None
    assert verdict.standing.approved == {key_of(V2)}
    assert withdrawn(device.judge(files, b"", V1, V2)) == {key_of(V1)}
    device.restart()
    stored = dict(device.verifier.stored_files())
    assert withdrawn(device.judge(stored, b"", V1, V2)) == {key_of(V1)}


def test_other_bytes_under_the_same_path_are_not_the_package_that_was_signed(
    fleet: SignedFleet, device: Device
) -> None:
    files = fleet.publish() | fleet.bin_file(V1)
    other = PackageKey(target=V1, sha256="f" * 64)
    verdict = device.verifier.judge(files, b"", device.accepted, frozenset({other}))
    assert withdrawn(verdict) == {other}


@pytest.mark.parametrize("how", ["expired", "no-timestamp", "no-targets", "unsigned", "restart"])
def test_metadata_that_cannot_be_believed_withdraws_nothing(
    fleet: SignedFleet, device: Device, how: str
) -> None:
    device.judge(fleet.publish() | fleet.bin_file(V1), fleet.assign(V1, 1), V1)
    del fleet.packages[V1]
    files = fleet.publish() | fleet.bin_file(V1)
    if how == "no-timestamp":
        del files["timestamp.json"]
    elif how == "no-targets":
        files = {name: data for name, data in files.items() if "targets" not in name}
    elif how == "unsigned":
        name = f"{fleet.versions['targets']}.targets.json"
        metadata = Metadata[Targets].from_bytes(files[name])
        metadata.signatures.clear()
        files[name] = metadata.to_bytes(COMPACT)
    else:
        device.clock.advance(86_400 * 2)
        if how == "restart":
            device.restart()
            files = dict(device.verifier.stored_files())
    verdict = device.judge(files, b"", V1)
    assert verdict.standing is None
    assert isinstance(verdict.result, Refusal)


# Clock ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("years", [-56, -10], ids=["1970", "ten years behind"])
def test_a_clock_that_is_behind_updates_and_is_held_to_the_date_approvers_signed(
    fleet: SignedFleet, device: Device, years: int
) -> None:
    device.clock = FakeClock(NOW.replace(year=NOW.year + years))
    device.restart()
    files = fleet.publish() | fleet.bin_file(V1)
    assert found(device.judge(files, fleet.assign(V1, 1)))
    assert device.accepted.time_floor_at == NOW
    fleet.clock.advance(86_400 * 30)
    fleet.packages[path_of(3)] = STOP
    device.judge(fleet.publish(), b"")
    assert device.accepted.time_floor_at == NOW + timedelta(days=30)
    # What was good on the day of enrolment is now known to be over, by the date alone.
    device.directory /= "lost"
    device.restart()
    assert code_of(device.judge(files, fleet.assign(V1, 2))) is Code.TUF_EXPIRED


def test_a_clock_ten_years_ahead_refuses_new_installs_and_withdraws_nothing(
    fleet: SignedFleet, device: Device
) -> None:
    files = fleet.publish() | fleet.bin_file(V1)
    device.judge(files, fleet.assign(V1, 1), V1)
    device.clock.advance(86_400 * 3_650)
    del fleet.packages[V1]
    verdict = device.judge(fleet.publish(), fleet.assign(V2, 2), V1)
    assert code_of(verdict) is Code.TUF_EXPIRED
    assert isinstance(verdict.result, Refusal)
    assert "2036-" in verdict.result.detail
    assert verdict.standing is None
    device.clock = FakeClock(NOW)
    device.restart()
    files = fleet.publish() | fleet.bin_file(V2) | fleet.bin_file(V1)
    assert found(device.judge(files, fleet.assign(V2, 2))) == key_of(V2).sha256
    assert device.accepted.time_floor_at == NOW  # the device's own clock raises nothing


def test_no_online_key_raises_the_floor(fleet: SignedFleet, device: Device) -> None:
    fleet.publish()
    files = fleet.publish(days=36_500) | fleet.bin_file(V1)
    fleet.clock = FakeClock(datetime(2099, 1, 1, tzinfo=UTC))
    device.judge(files, fleet.assign(V1, 1))
    assert device.accepted.time_floor_at == NOW


# Figures -------------------------------------------------------------------------------------


def test_repeated_and_neighbouring_judgements_cost_next_to_nothing(
    fleet: SignedFleet, device: Device
) -> None:
    files = fleet.publish() | fleet.bin_file(V1)
    envelope = fleet.assign(V1, 1)
    device.judge(files, envelope, V1)
    other = fleet.bin_file(path_of(1, "faces"))
    started = time.thread_time()
    for counter in range(2, 52):
        device.judge(files, fleet.assign(V1, counter), V1)
        device.judge(files | other, b"", V1)
    # 100 judgements over the same metadata, none of which runs python-tuf again; measured 40 ms.
    assert time.thread_time() - started < 0.4


def test_a_device_in_service_follows_the_server_from_flat_into_bins(tmp_path: Path) -> None:
    world = TrustWorld(tmp_path)
    approve_in_bins(world, V1)
    world.handle(world.refresh(), world.assign(V1, 5))
    before, held = world.accepted, frozenset({server_key(V1)})
    approve_in_bins(world, *PATHS[:6])
    bundle = world.refresh()
    bins = world.repository.bins(bundle)
    assert len(bins) == 4
    verdict = world.verifier.judge(bundle, world.assign(V1, 5), world.accepted, held)
    assert code_of(verdict) is Code.TUF_MISSING
    assert verdict.standing is not None
    assert not verdict.standing.withdrawn
    assert verdict.standing.accepted == before
    (needed,) = verdict.standing.bins
    file = next(b for b in bins if b.role == needed)
    files = bundle | {f"{file.version}.{file.role}.json": world.repository.read_bin(file)}
    world.handle(files, world.assign(V1, 6))
    assert world.verifier.judge(files, b"", world.accepted, held).standing is not None
    approve_in_bins(world, withdraw=(V1,))
    verdict = world.verifier.judge(all_files(world.repository), b"", world.accepted, held)
    assert withdrawn(verdict) == held


def server_key(path: str) -> PackageKey:
    return PackageKey(target=path, sha256=make_target(path).sha256)
