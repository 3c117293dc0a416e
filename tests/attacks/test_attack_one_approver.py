"""Whoever holds one approver's key, or hands an approver a package to sign."""

import io
import json
import tarfile
import zipfile
from typing import Any

import numpy as np
from onnx import TensorProto, helper, load_from_string
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Targets

from edge_agent.contract.codes import Code
from edge_agent.contract.package import GOLDEN, MEMBERS, MODEL, SCHEMA, unpack_members
from edge_agent.contract.schema import Feature
from tests.support.attack_moves import add_unsigned, edit_root, need_two_approvers, run_approved
from tests.support.attack_server import UNSIGNED, V2, package
from tests.support.attacks import Attack, AttackSuite, AttackWorld, hold
from tests.support.serving import build_classifier, classifier_graph

attack = AttackSuite("one approver's key, or their ear")

# One key of several -----------------------------------------------------------------------------


@attack(Code.TUF_SIGNATURE, ruins_server=True)
def approve_alone_where_two_are_needed(w: AttackWorld) -> None:
    """The root says how many approvers must sign."""
    need_two_approvers(w.server)
    add_unsigned(w.server, w.server.key("approver"))
    w.device.deliver(w.server.refresh(), w.server.order(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE, ruins_server=True)
def pose_as_two_approvers(w: AttackWorld) -> None:
    """Each signature is verified with the key it names; one key counts once."""
    second = need_two_approvers(w.server)
    add_unsigned(w.server, w.server.key("approver"))
    value = json.loads(w.server.repository.current_targets()["targets"])
    value["signatures"].append({**value["signatures"][0], "keyid": second.public_key.keyid})
    w.server.publish_raw(json.dumps(value).encode(), value["signed"]["version"])
    w.device.deliver(w.server.refresh(), w.server.order(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE, ruins_server=True)
def sign_twice_with_one_key(w: AttackWorld) -> None:
    """A list of signatures with one key twice is malformed or counts once."""
    need_two_approvers(w.server)
    key = w.server.key("approver")
    add_unsigned(w.server, key, key)
    w.device.deliver(w.server.refresh(), w.server.order(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE, ruins_server=True)
def bring_a_friend_who_is_no_approver(w: AttackWorld) -> None:
    """The root names the approvers' keys; others' signatures do not count."""
    need_two_approvers(w.server)
    add_unsigned(w.server, w.server.key("approver"), CryptoSigner.generate_ed25519())
    w.device.deliver(w.server.refresh(), w.server.order(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE)
def lower_the_threshold_to_one(w: AttackWorld) -> None:
    """How many must sign is in the root, which approvers do not sign."""
    need_two_approvers(w.server)

    def edit(root: Root) -> None:
        root.roles["targets"].threshold = 1

    w.device.deliver(edit_root(w, w.server.key("approver"), edit), w.server.order(V2, 6))


@attack(Code.TUF_SIGNATURE)
def make_a_friend_an_approver(w: AttackWorld) -> None:
    """Who the approvers are is in the root, which approvers do not sign."""
    friend = CryptoSigner.generate_ed25519().public_key
    files = edit_root(w, w.server.key("approver"), lambda root: root.add_key(friend, "targets"))
    w.device.deliver(files, w.server.order(V2, 6))


# Packages an approver was made to sign ----------------------------------------------------------


@attack(Code.TUF_FORMAT)
def sign_a_target_whose_words_contradict_its_path(w: AttackWorld) -> None:
    """Model, version and profile are signed twice, as words and as the path; both must agree."""

    def edit(targets: Targets) -> None:
        targets.targets[V2].unrecognized_fields["custom"]["version"] = 1

    w.server.publish_targets(edit, w.server.key("approver"))
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6))


@attack(Code.BLOB_HASH)
def sign_chunk_hashes_of_another_package(w: AttackWorld) -> None:
    """The whole package is hashed once more before anything opens it."""
    run_approved(w, package(UNSIGNED), sha256="ab" * 32, for_s=120)


@attack(Code.BLOB_SIZE)
def sign_a_package_larger_than_any_may_be(w: AttackWorld) -> None:
    """A package has at most 1 GiB; room is checked before the first chunk."""
    run_approved(w, package(UNSIGNED), length=2**31)


@attack(Code.PACKAGE_FORMAT)
def sign_a_schema_that_is_not_the_packages(w: AttackWorld) -> None:
    """The schema's hash is signed beside the package's, so that the server can trust it too."""
    run_approved(w, package(UNSIGNED), schema="cd" * 32)


def tar_of(names: list[str], *, link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            if link and name == MODEL:
                info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info, io.BytesIO())
    return buffer.getvalue()


@attack(Code.PACKAGE_FORMAT)
def pack_a_file_that_lands_outside_its_folder(w: AttackWorld) -> None:
    """A package has exactly five members, and none is ever extracted to a path."""
    run_approved(w, tar_of([*MEMBERS, "../../identity/identity.json"]))


@attack(Code.PACKAGE_FORMAT)
def pack_a_link_to_a_file_of_the_device(w: AttackWorld) -> None:
    """Members are plain files."""
    run_approved(w, tar_of(list(MEMBERS), link="/etc/passwd"))


def broken(**changes: Any) -> bytes:
    members = unpack_members(package(UNSIGNED))
    schema = {"schema.json": members[SCHEMA]}
    return build_classifier(seed=99, edit=lambda m: {**m, **schema, **changes}).blob


@attack(Code.PACKAGE_FORMAT)
def pack_a_bomb_as_golden_vectors(w: AttackWorld) -> None:
    """What an archive inflates to is added up before anything is inflated."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input.npy", b"\0" * 20_000_000)
    run_approved(w, broken(**{GOLDEN: buffer.getvalue()}))


@attack(Code.PACKAGE_FORMAT)
def pack_something_else_than_arrays_as_golden_vectors(w: AttackWorld) -> None:
    """What is no array is malformed, not a crash."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("input.npy", b"no array")
    run_approved(w, broken(**{GOLDEN: buffer.getvalue()}))


@attack(Code.PACKAGE_FORMAT)
def pack_pickled_objects_as_golden_vectors(w: AttackWorld) -> None:
    """No pickle is ever loaded."""
    buffer = io.BytesIO()
    np.savez(buffer, input=np.array([{"a": print}], dtype=object))
    run_approved(w, broken(**{GOLDEN: buffer.getvalue()}))


@attack(Code.SELFTEST_GOLDEN)
def pack_a_model_that_answers_otherwise_than_it_was_examined(w: AttackWorld) -> None:
    """Every device compares golden answers before the package may answer anybody."""
    other = unpack_members(build_classifier(seed=5).blob)
    run_approved(w, broken(**{GOLDEN: other[GOLDEN]}))


def weights() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ones((4, 3), np.float32)


@attack(Code.PACKAGE_FORMAT)
def pack_a_graph_that_calls_an_unknown_library(w: AttackWorld) -> None:
    """Only the operator sets of ONNX are let through; custom libraries are never registered."""
    call = helper.make_node("Shell", ["scores"], ["shaped"], domain="com.evil")
    model = load_from_string(classifier_graph(weights(), extra=(call,)))
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    run_approved(w, broken(**{MODEL: model.SerializeToString()}))


@attack(Code.PACKAGE_FORMAT)
def pack_a_graph_that_reads_a_file_of_the_device(w: AttackWorld) -> None:
    """A graph carries its own weights or is refused before the runtime sees it."""
    model = load_from_string(classifier_graph(weights()))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "/etc/passwd"), ("offset", "0"), ("length", "48")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    run_approved(w, broken(**{MODEL: model.SerializeToString()}))


@attack(Code.PACKAGE_FORMAT)
def pack_a_graph_of_garbage(w: AttackWorld) -> None:
    """A graph is read field by field before the runtime sees it."""
    run_approved(w, broken(**{MODEL: b"\x08\xff" * 5_000}))


@attack(Code.SELFTEST_LOAD)
def pack_a_model_of_another_shape(w: AttackWorld) -> None:
    """Inputs and outputs of the graph are compared with the signed schema."""
    wide = build_classifier(seed=1, features=tuple(Feature(name=f"f{n}") for n in range(9)))
    run_approved(w, broken(**{MODEL: unpack_members(wide.blob)[MODEL]}))


@attack.cases()
def test_an_attack_by_one_approver_is_refused_and_seen(attack: Attack, world: AttackWorld) -> None:
    hold(world, attack)
