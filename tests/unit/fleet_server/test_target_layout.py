"""Where approved packages lie in signed files, and which files an approval changes."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from edge_agent.contract.errors import MalformedError
from fleet_server.adapters.target_layout import (
    COMPACT,
    FLAT_TARGETS_MAX,
    edit_targets,
    name_director,
    read_targets,
    resign_all,
    stamp_targets,
    verify_files,
)
from fleet_server.errors import RefusedError
from tests.support.trust import make_target

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DIRECTOR = CryptoSigner.generate_ed25519()


class Approvers:
    """Files in force and the people who sign them; no server."""

    def __init__(self, *, threshold: int = 1, flat_max: int = 3, bin_bits: int = 2) -> None:
        self.signers = [CryptoSigner.generate_ed25519() for _ in range(threshold)]
        self.flat_max, self.bin_bits = flat_max, bin_bits
        targets = Targets()
        name_director(targets, DIRECTOR.public_key)
        stamp_targets(targets, NOW)
        self.root = self.name(self.signers)
        self.files = self.sign({"targets": Metadata(targets)})

    def name(self, signers: list[CryptoSigner]) -> Root:
        root = Root(expires=NOW + 700 * DAY)
        for signer in signers:
            root.add_key(signer.public_key, "targets")
        root.roles["targets"].threshold = len(signers)
        return root

    def sign(self, edited: Mapping[str, Metadata[Targets]]) -> dict[str, bytes]:
        for metadata in edited.values():
            for signer in self.signers:
                metadata.sign(signer, append=True)
        return {role: metadata.to_bytes(COMPACT) for role, metadata in edited.items()}

    def edit(
        self, *add: str, withdraw: tuple[str, ...] = (), at: datetime = NOW
    ) -> dict[str, Metadata[Targets]]:
        edited = edit_targets(
            self.files,
            root=self.root,
            add=[make_target(path) for path in add],
            withdraw=withdraw,
            now_at=at,
            flat_targets_max=self.flat_max,
            bin_bits=self.bin_bits,
        )
        self.files |= self.sign(edited)
        return edited

    def open(self, role: str) -> Targets:
        return Metadata[Targets].from_bytes(self.files[role]).signed

    def paths(self) -> set[str]:
        return set(read_targets(self.files))


def name_paths(count: int, *, first: int = 1) -> list[str]:
    return [f"digits/{n}/camera.tar" for n in range(first, first + count)]


def test_a_thousand_packages_lie_flat_and_one_more_begins_512_bins() -> None:
    approvers = Approvers(flat_max=FLAT_TARGETS_MAX, bin_bits=9)
    paths = name_paths(FLAT_TARGETS_MAX + 1)
    assert set(approvers.edit(*paths[:-1])) == {"targets"}
    assert len(approvers.open("targets").targets) == 1_000
    edited = approvers.edit(paths[-1])
    bins = {f"packages-{n:03x}" for n in range(512)}
    assert set(edited) == {"targets", "approved", *bins}
    assert approvers.open("targets").targets == {}
    assert approvers.paths() == set(paths)
    assert verify_files(approvers.root, approvers.files).version == 3


def test_the_director_stays_when_bins_begin() -> None:
    approvers = Approvers()
    approvers.edit(*name_paths(4))
    targets = approvers.open("targets")
    message = b"assignment"
    targets.verify_delegate(
        "director", message, {DIRECTOR.public_key.keyid: DIRECTOR.sign(message)}
    )


def test_an_approval_changes_targets_and_the_bins_of_its_packages_only() -> None:
    approvers = Approvers()
    approvers.edit(*name_paths(8))
    (path,) = name_paths(1, first=20)
    edited = approvers.edit(path)
    (bin_,) = set(edited) - {"targets"}
    assert path in edited[bin_].signed.targets
    edited = approvers.edit(withdraw=(path,))
    assert set(edited) == {"targets", bin_}
    assert path not in approvers.paths()


def test_nothing_changed_still_moves_targets() -> None:
    """Its date is what devices take their floor from."""
    approvers = Approvers()
    approvers.edit(*name_paths(8))
    edited = approvers.edit(at=NOW + DAY)
    assert set(edited) == {"targets"}
    assert edited["targets"].signed.version == 3
    assert edited["targets"].signed.unrecognized_fields["x-issued"].startswith("2026-03-02")


def test_a_fleet_with_bins_never_goes_back() -> None:
    approvers = Approvers()
    paths = name_paths(8)
    approvers.edit(*paths)
    approvers.edit(withdraw=tuple(paths[1:]))
    assert approvers.open("targets").targets == {}
    assert approvers.paths() == {paths[0]}


def test_no_file_expires_before_targets_does() -> None:
    approvers = Approvers()
    approvers.edit(*name_paths(8))
    for days in (100, 184, 186, 300, 400):
        approvers.edit(*name_paths(1, first=days), at=NOW + days * DAY)
        until_at = approvers.open("targets").expires
        assert all(approvers.open(role).expires >= until_at for role in approvers.files), days
    # Renewed once a half year, not at each approval.
    assert approvers.open("approved").version == 3


def test_targets_names_the_version_of_every_other_file() -> None:
    approvers = Approvers()
    approvers.edit(*name_paths(8))
    approvers.edit(*name_paths(1, first=20))
    bins = [approvers.open(f"packages-{n}").version for n in range(4)]
    assert sorted(bins) == [1, 1, 1, 2]
    versions = approvers.open("targets").unrecognized_fields["x-versions"]
    assert versions == {"approved": 1, "packages": bins}


def test_an_older_bin_beside_newer_targets_is_found_out() -> None:
    approvers = Approvers()
    approvers.edit(*name_paths(8))
    before = dict(approvers.files)
    edited = approvers.edit(withdraw=tuple(name_paths(1)))
    (bin_,) = set(edited) - {"targets"}
    with pytest.raises(RefusedError, match=f"{bin_} is version 1, the approvers signed 2"):
        verify_files(approvers.root, {**approvers.files, bin_: before[bin_]})


def test_a_bin_of_other_people_is_found_out() -> None:
    approvers, others = Approvers(), Approvers()
    for each in (approvers, others):
        each.edit(*name_paths(8))
    mixed = {**approvers.files, "packages-2": others.files["packages-2"]}
    with pytest.raises(RefusedError, match="not signed by this fleet's approvers"):
        verify_files(approvers.root, mixed)


@pytest.mark.parametrize("count", [2, 8])
def test_new_approvers_sign_everything_anew(count: int) -> None:
    approvers = Approvers()
    approvers.edit(*name_paths(count))
    paths, old_root = approvers.paths(), approvers.root
    approvers.signers = [CryptoSigner.generate_ed25519() for _ in range(2)]
    approvers.root = approvers.name(approvers.signers)
    edited = resign_all(approvers.files, approvers.root, NOW)
    assert set(edited) == set(approvers.files)
    approvers.files |= approvers.sign(edited)
    assert approvers.paths() == paths
    assert verify_files(approvers.root, approvers.files).version == 3
    with pytest.raises(RefusedError):
        verify_files(old_root, approvers.files)
    one = {**approvers.files, "packages-1": _keep_one_signature(approvers.files.get("packages-1"))}
    if count == 8:
        with pytest.raises(RefusedError, match="not signed"):
            verify_files(approvers.root, one)


def _keep_one_signature(data: bytes | None) -> bytes:
    if data is None:
        return b""
    metadata = Metadata[Targets].from_bytes(data)
    metadata.signatures.popitem()
    return metadata.to_bytes(COMPACT)


def test_an_approval_under_new_approvers_signs_everything_anew() -> None:
    approvers = Approvers()
    approvers.edit(*name_paths(8))
    approvers.signers = [CryptoSigner.generate_ed25519()]
    approvers.root = approvers.name(approvers.signers)
    assert set(approvers.edit(*name_paths(1, first=20))) == set(approvers.files)
    verify_files(approvers.root, approvers.files)


@pytest.mark.parametrize("count", [2, 8])
def test_a_new_director_takes_the_place_of_the_former(count: int) -> None:
    approvers = Approvers()
    approvers.edit(*name_paths(count))
    new = CryptoSigner.generate_ed25519()
    edited = edit_targets(
        approvers.files,
        root=approvers.root,
        now_at=NOW,
        director=new.public_key,
        flat_targets_max=3,
        bin_bits=2,
    )
    assert set(edited) == {"targets"}
    delegations = edited["targets"].signed.delegations
    assert delegations is not None
    assert delegations.roles is not None
    assert delegations.roles["director"].keyids == [new.public_key.keyid]
    assert DIRECTOR.public_key.keyid not in delegations.keys
    approvers.files |= approvers.sign(edited)
    verify_files(approvers.root, approvers.files)


def test_a_package_where_no_device_looks_is_refused() -> None:
    approvers = Approvers()
    approvers.edit(*name_paths(8))
    files = dict(approvers.files)
    lost = Metadata[Targets].from_bytes(files["packages-0"])
    other = Metadata[Targets].from_bytes(files["packages-1"])
    lost.signed.targets |= other.signed.targets
    with pytest.raises(MalformedError, match="devices look in packages-1"):
        read_targets({**files, "packages-0": lost.to_bytes(COMPACT)})
