"""Metadata and envelopes with anything in them, signed rightly or not: judged, never raised at."""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical

from edge_agent.contract.codes import Code
from edge_agent.errors import Refusal
from tests.support.mutations import dump_loosely, mutated_bytes, mutated_json, spoiled_everywhere
from tests.support.trust import TrustWorld, newest

TARGET = "digits/1/camera.tar"
ONLINE = ("timestamp", "snapshot")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TrustWorld:
    world = TrustWorld(tmp_path_factory.mktemp("fuzzed") / "world")
    world.approve(TARGET)
    return world


def judge(world: TrustWorld, files: Mapping[str, bytes], envelope: bytes) -> None:
    """A device that knows nothing, and one that has accepted the true state."""
    fresh = world.make_verifier(f"fresh-{world.device_clock.monotonic()}")
    for verifier in (fresh, world.verifier):
        with suppress(Refusal):
            verifier.evaluate(files, envelope, world.accepted)


def resigned(world: TrustWorld, role: str, data: bytes) -> bytes:
    """Sign what a stolen online key would sign; the bytes as they are where that cannot be."""
    try:
        value = json.loads(data)
        signed = str(encode_canonical(value["signed"])).encode()
        signature = world.key(role).sign(signed)
    except Exception:  # noqa: BLE001 - not to be signed by anybody
        return data
    return dump_loosely(
        {**value, "signatures": [{"keyid": signature.keyid, "sig": signature.signature}]}
    )


@pytest.mark.parametrize("role", ["root", "targets", *ONLINE])
def test_metadata_with_anything_in_it_is_judged(world: TrustWorld, role: str) -> None:
    files, envelope = world.refresh(), world.assign(TARGET, 1)
    name = newest(files, role)
    seeds = [files[name]]

    @settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=25,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(mutated_json(seeds), mutated_bytes(seeds)), st.booleans())
    def run(data: bytes, is_signed: bool) -> None:
        if is_signed and role in ONLINE:
            data = resigned(world, role, data)
        judge(world, {**files, name: data}, envelope)

    run()
    judge(world, files, envelope)


def sealed(world: TrustWorld) -> Iterator[bytes]:
    """Assignments with each value spoiled, signed by the director's own key."""
    director = world.key("director")
    for payload in spoiled_everywhere(
        base64.b64decode(json.loads(world.assign(TARGET, 2))["payload"])
    ):
        kind = b"application/vnd.edgefleet.assignment+json"
        pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        signature = director.sign(pae)
        yield json.dumps(
            {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": kind.decode(),
                "signatures": [
                    {
                        "keyid": signature.keyid,
                        "sig": base64.b64encode(bytes.fromhex(signature.signature)).decode(),
                    }
                ],
            }
        ).encode()


def test_an_assignment_a_stolen_director_key_signed_may_hold_anything(world: TrustWorld) -> None:
    files = world.refresh()
    codes: set[Any] = set()
    for envelope in islice(sealed(world), 0, None, 7):
        try:
            world.verifier.evaluate(files, envelope, world.accepted)
        except Refusal as refusal:
            codes.add(refusal.code)
    assert Code.ASSIGN_SIGNATURE not in codes
    assert Code.ASSIGN_FORMAT in codes


def test_the_folder_of_the_device_holds_only_metadata(world: TrustWorld, tmp_path: Path) -> None:
    files = {**world.refresh(), "../../escape.json": b"{}", "1.targets/../x.json": b"{}"}
    judge(world, files, world.assign(TARGET, 3))
    names = {p.name for p in world.directory.rglob("*escape*")} | set(tmp_path.iterdir())
    assert names == set()
