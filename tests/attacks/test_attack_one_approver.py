"""Whoever holds one approver's key, or hands an approver a package to sign."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load_from_string
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Targets

from edge_agent.contract.codes import Code
from edge_agent.contract.package import GOLDEN, MEMBERS, MODEL, SCHEMA, unpack_members
from edge_agent.contract.schema import Feature
from fleet_server.adapters.approver_keys import sign_files
from fleet_server.adapters.key_files import create_key
from fleet_server.errors import RefusedError
from fleet_server.wiring.trust import build_operator, build_pending
from tests.support.attack_moves import add_unsigned, edit_root, need_two_approvers, run_approved
from tests.support.attack_server import UNSIGNED, V2, package
from tests.support.attacks import TOLD, Attack, AttackSuite, AttackWorld, hold
from tests.support.key_room import KeyRoom
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


# What waits for the second signature ------------------------------------------------------------


@contextmanager
def two_approvers(w: AttackWorld) -> Iterator[KeyRoom]:
    """Ann and bea must both sign; ann has proposed ``plant`` 99."""
    with pytest.MonkeyPatch.context() as patch:
        room = KeyRoom(w.device.directory.parent, w.server.clock, patch)
        room.need_two()
        assert room.approver().approve("plant", 99).waiting
        yield room
    room.fleet.engine.dispose()


def refused_cosign(room: KeyRoom, name: str, sentence: str) -> str:
    with room.as_person(name), pytest.raises(RefusedError, match=sentence):
        room.approver(name).cosign("approved", "plant", 99)
    assert UNSIGNED not in room.repository.approved()
    return RefusedError.__name__


@attack(Code.NOT_APPROVED)
def run_what_one_of_two_has_signed(w: AttackWorld) -> None:
    """What waits for a signature is in force nowhere."""
    with two_approvers(w):
        w.device.deliver(w.server.refresh(), w.server.order(UNSIGNED, 6))


@attack("RefusedError", seen=TOLD)
def sign_for_the_second_approver(w: AttackWorld) -> str:
    """A key counts once, under whatever name its folder goes."""
    with two_approvers(w) as room:
        shutil.copytree(room.folder("ann"), room.directory / "cal")
        refused_cosign(room, "ann", "has signed it already")
        return refused_cosign(room, "cal", "has signed it already")


@attack("RefusedError", seen=TOLD)
def sign_with_a_key_that_does_not_count(w: AttackWorld) -> str:
    """The root names the approvers' keys."""
    with two_approvers(w) as room:
        shutil.copytree(room.folder("bea"), room.directory / "cal")
        (room.folder("cal") / "approver.pem").unlink()
        create_key(room.folder("cal") / "approver.pem")
        return refused_cosign(room, "cal", "is no approver of this fleet")


@attack("RefusedError", seen=TOLD)
def slip_another_package_into_what_waits(w: AttackWorld) -> str:
    """Who signs second builds the files once more from what their own machine saw."""
    with two_approvers(w) as room:
        operator, pending = build_operator(room.fleet), build_pending(room.fleet)
        proposal = pending.load()
        assert proposal is not None
        add = room.approver().prepare("plant", 99)
        files = operator.edit(room.repository.current_targets(), add=add, withdraw=[V2])
        signed = sign_files(files, [operator.folder.signer("targets")])
        pending.save(replace(proposal, files=signed))
        return refused_cosign(room, "bea", "does not hold exactly what it says")


@attack("RefusedError", seen=TOLD)
def change_what_is_done_when_it_is_withdrawn(w: AttackWorld) -> str:
    """What devices do with a withdrawn package is signed, and rebuilt by who signs second."""
    with two_approvers(w) as room:
        pending = build_pending(room.fleet)
        proposal = pending.load()
        assert proposal is not None
        pending.save(replace(proposal, detail={"slot": None, "on_withdrawn": "keep"}))
        return refused_cosign(room, "bea", "does not hold exactly what it says")


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
