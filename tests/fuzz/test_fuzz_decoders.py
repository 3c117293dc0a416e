"""No bytes make a decoder raise anything but its declared errors, hang or eat memory."""

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.decoders import DECODERS
from tests.support.mutations import mutated_bytes, mutated_json, spoiled_everywhere

SLOW = {"tables": 15, "skops": 5, "golden": 40, "package": 60, "csr": 60, "granted-certificate": 60}
JSON_EXAMPLES = 40
SECONDS_MAX = 3.0
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
"""The library of certificates warns of some that it will refuse one day."""
quick = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def examples(name: str) -> settings:
    return settings(quick, max_examples=SLOW.get(name, 80))


def check(name: str, data: bytes) -> None:
    decoder = DECODERS[name]
    began = time.process_time()
    with suppress(*decoder.errors):
        value = decoder.decode(data)
        if decoder.is_json and decoder.is_stored:
            check_storable(value)
    assert time.process_time() - began < SECONDS_MAX


def check_storable(value: Any) -> None:
    """What was read can be written: to a database, to JSON, to a log."""
    if is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, str):
        assert value.encode().decode() == value
    elif isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, int):
        assert -(2**63) <= value < 2**64
    elif isinstance(value, list | tuple):
        for inner in value:
            check_storable(inner)


@pytest.mark.parametrize("name", DECODERS)
def test_the_seeds_are_read(name: str) -> None:
    decoder = DECODERS[name]
    seeds = decoder.seeds()
    read = 0
    for seed in seeds:
        with suppress(*decoder.errors):
            decoder.decode(seed)
            read += 1
    assert read >= 1


@pytest.mark.parametrize("name", ["csr-der", "certificate-der"])
def test_certificates_with_any_byte_changed_are_read_or_refused(name: str) -> None:
    seed = DECODERS[name].seeds()[0]
    for at in range(len(seed)):
        for mask in (0x01, 0x40, 0xFF):
            check(name, seed[:at] + bytes((seed[at] ^ mask,)) + seed[at + 1 :])


@pytest.mark.parametrize("name", DECODERS)
def test_seeds_with_edits_are_read_or_refused(name: str) -> None:
    @examples(name)
    @given(mutated_bytes(DECODERS[name].seeds()))
    def run(data: bytes) -> None:
        check(name, data)

    run()


@pytest.mark.parametrize("name", sorted(set(DECODERS) - {"skops", "tables"}))
def test_random_bytes_are_read_or_refused(name: str) -> None:
    @settings(quick, max_examples=40)
    @given(st.binary(max_size=400))
    def run(data: bytes) -> None:
        check(name, data)

    run()


@pytest.mark.parametrize("name", [name for name, one in DECODERS.items() if one.is_json])
def test_each_value_of_a_message_may_be_anything(name: str) -> None:
    for seed in DECODERS[name].seeds():
        for data in spoiled_everywhere(seed):
            check(name, data)


@pytest.mark.parametrize("name", [name for name, one in DECODERS.items() if one.is_json])
def test_messages_with_other_values_are_read_or_refused(name: str) -> None:
    @settings(quick, max_examples=JSON_EXAMPLES)
    @given(mutated_json(DECODERS[name].seeds()))
    def run(data: bytes) -> None:
        check(name, data)

    run()


ROUND_TRIPS = ["status", "reported", "telack", "chunk-request", "assignment", "renew", "schema"]


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_what_was_read_is_written_and_read_again_the_same(name: str) -> None:
    @settings(quick, max_examples=50)
    @given(mutated_json(DECODERS[name].seeds()))
    def run(data: bytes) -> None:
        decoder = DECODERS[name]
        try:
            value = decoder.decode(data)
        except decoder.errors:
            return
        encode = value.encode  # type: ignore[attr-defined]  # all of ROUND_TRIPS have it
        assert decoder.decode(encode()) == value

    run()


@pytest.mark.parametrize("name", [name for name, one in DECODERS.items() if one.is_json])
@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_deep_messages_are_refused(name: str, depth: int) -> None:
    seed = json.loads(DECODERS[name].seeds()[0])
    deep = b"[" * depth + b"]" * depth
    body = json.dumps({**seed, "extra": 0}).encode().replace(b'"extra": 0', b'"extra": ' + deep)
    check(name, body)
