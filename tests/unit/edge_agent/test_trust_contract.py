"""Names and topics of signed metadata, and what approvers may sign beside a package's hash."""

import pytest

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.metadata import decode_bundle, encode_bundle
from edge_agent.contract.package import OnWithdrawn, TargetCustom
from edge_agent.contract.topics import meta_topic

CUSTOM = TargetCustom(
    model="vision", version=1, profile="camera", slot="", schema="a" * 64, chunks="b" * 64
)


def test_each_hash_bin_has_its_own_topic_below_meta() -> None:
    assert meta_topic("packages-1ff") == "ef/v1/meta/packages-1ff"


@pytest.mark.parametrize(
    "role",
    ["packages-", "packages-12345", "packages-XY", "packages-1\n", "targets", "../x", "packages-#"],
)
def test_only_a_bin_has_a_bins_topic(role: str) -> None:
    with pytest.raises(MalformedError, match="hash bin"):
        meta_topic(role)


def test_a_bundle_carries_approved_and_bins_by_name() -> None:
    files = {"3.approved.json": b"{}", "12.packages-0f.json": b"{}", "timestamp.json": b"{}"}

    assert decode_bundle(encode_bundle(files)) == files


@pytest.mark.parametrize("name", ["1.packages-.json", "1.packages-zz.json", "1.other.json"])
def test_a_bundle_with_a_name_that_is_no_metadata_file_is_refused(name: str) -> None:
    with pytest.raises(MalformedError, match="not a metadata file"):
        decode_bundle(encode_bundle({name: b"{}"}))


def test_what_is_signed_by_default_has_the_bytes_it_always_had() -> None:
    assert "on_withdrawn" not in CUSTOM.to_json()
    assert TargetCustom.from_json(CUSTOM.to_json()).on_withdrawn is OnWithdrawn.STOP


def test_keeping_a_withdrawn_package_is_signed() -> None:
    value = CUSTOM.to_json() | {"on_withdrawn": "keep"}

    custom = TargetCustom.from_json(value)

    assert custom.on_withdrawn is OnWithdrawn.KEEP
    assert custom.to_json() == value


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(MalformedError, match="on_withdrawn"):
        TargetCustom.from_json(CUSTOM.to_json() | {"on_withdrawn": "later"})
