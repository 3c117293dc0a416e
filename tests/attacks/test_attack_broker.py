"""Whoever holds the broker, or a retained message on it, delivers to a device what they like."""

import base64
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Timestamp

from edge_agent.contract.assignment import ENVELOPE_BYTES_MAX, PAYLOAD_TYPE
from edge_agent.contract.codes import Code
from edge_agent.contract.messages import AckRange, TelemetryAck
from edge_agent.contract.topics import META_TOPIC, Channel, device_topic
from edge_agent.contract.transfer import ChunkFrame, ChunkRequest, FrameKind, Part
from tests.support.agent import ChunkServer
from tests.support.attack_payloads import COMPACT, bundle_of, edited, zeros_bomb
from tests.support.attack_server import UNSIGNED, V1, V2, V3, package
from tests.support.attacks import DELAYED, IGNORED, Attack, AttackSuite, AttackWorld, hold
from tests.support.trust import newest

attack = AttackSuite("the broker")
Answer = Callable[[ChunkRequest], Iterable[bytes]]

# Assignments ------------------------------------------------------------------------------------


@attack(Code.ASSIGN_REPLAY)
def replay_an_older_assignment(w: AttackWorld) -> None:
    """The newest counter is committed with the slots it moved."""
    old = w.server.order(V1, 5)
    w.update(V2, 6)
    w.device.deliver(w.server.refresh(), old)


@attack(Code.ASSIGN_SIGNATURE)
def edit_the_assignment(w: AttackWorld) -> None:
    """The director signs every byte of it."""

    def edit(value: dict[str, Any]) -> None:
        payload = json.loads(base64.b64decode(value["payload"]))
        payload["slots"]["plant"]["target"] = UNSIGNED
        value["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()

    w.device.deliver(w.server.refresh(), edited(w.server.order(V2, 6), edit))


@attack(Code.ASSIGN_SIGNATURE)
def sign_the_assignment_with_a_key_of_their_own(w: AttackWorld) -> None:
    """The approvers name the director's key inside targets."""
    envelope = w.server.order(V2, 6, signer=CryptoSigner.generate_ed25519())
    w.device.deliver(w.server.refresh(), envelope)


@attack(Code.ASSIGN_SIGNATURE)
def strip_the_signature(w: AttackWorld) -> None:
    """An envelope without the director's signature is nothing."""
    envelope = edited(w.server.order(V2, 6), lambda value: value.update(signatures=[]))
    w.device.deliver(w.server.refresh(), envelope)


@attack(Code.ASSIGN_SIGNATURE)
def spoil_the_signature(w: AttackWorld) -> None:
    """A signature that does not hold counts as none."""

    def edit(value: dict[str, Any]) -> None:
        value["signatures"][0]["sig"] = "00" * 64

    w.device.deliver(w.server.refresh(), edited(w.server.order(V2, 6), edit))


@attack(Code.WRONG_DEVICE)
def redirect_the_assignment_of_another_device(w: AttackWorld) -> None:
    """The device's name is signed."""
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6, device="cam-2"))


@attack(Code.WRONG_FLEET)
def replay_an_assignment_of_another_fleet(w: AttackWorld) -> None:
    """The fleet's name is signed."""
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6, fleet="fleet-2"))


@attack(Code.ASSIGN_TYPE)
def pass_something_else_the_director_signed_for_an_assignment(w: AttackWorld) -> None:
    """The payload's type is signed with it."""
    payload = Envelope.from_dict(json.loads(w.server.order(V2, 6))).payload
    envelope = Envelope(payload, "application/vnd.in-toto+json", {})
    envelope.sign(w.server.key("director"))
    w.device.deliver(w.server.refresh(), json.dumps(envelope.to_dict()).encode())


@attack(Code.ASSIGN_FORMAT)
def send_garbage_as_an_assignment(w: AttackWorld) -> None:
    """An envelope is read field by field, each with its bound."""
    w.device.deliver(w.server.refresh(), b"\xff{")


@attack(Code.ASSIGN_FORMAT)
def send_a_payload_that_is_not_base64(w: AttackWorld) -> None:
    """An envelope is read field by field, each with its bound."""
    envelope = edited(w.server.order(V2, 6), lambda v: v.update(payload="\u00e4"))
    w.device.deliver(w.server.refresh(), envelope)


@attack(Code.ASSIGN_FORMAT)
def repeat_one_signature(w: AttackWorld) -> None:
    """A key that signs twice is refused before anybody counts."""
    envelope = edited(w.server.order(V2, 6), lambda v: v.update(signatures=v["signatures"] * 2))
    w.device.deliver(w.server.refresh(), envelope)


@attack(Code.ASSIGN_FORMAT)
def attach_a_thousand_signatures(w: AttackWorld) -> None:
    """Signatures are counted before any of them is verified."""

    def edit(value: dict[str, Any]) -> None:
        value["signatures"] = [{"keyid": f"{n:x}", "sig": ""} for n in range(200)]

    w.device.deliver(w.server.refresh(), edited(w.server.order(V2, 6), edit))


@attack(Code.ASSIGN_FORMAT)
def nest_an_assignment_a_thousand_deep(w: AttackWorld) -> None:
    """JSON too deep for the parser is malformed, not a crash."""
    w.device.deliver(w.server.refresh(), b"[" * 8_000 + b"]" * 8_000)


@attack(Code.ASSIGN_FORMAT)
def replay_a_signed_payload_of_a_newer_contract(w: AttackWorld) -> None:
    """Signed or not, a version the device does not know is not guessed at."""
    envelope = Envelope(b'{"v":99}', PAYLOAD_TYPE, {})
    envelope.sign(w.server.key("director"))
    w.device.deliver(w.server.refresh(), json.dumps(envelope.to_dict()).encode())


@attack(Code.ASSIGN_SIZE)
def send_a_huge_assignment(w: AttackWorld) -> None:
    """An envelope beyond 16 KiB is not parsed."""
    w.device.deliver(w.server.refresh(), b"x" * (ENVELOPE_BYTES_MAX + 1))


@attack(IGNORED)
def clear_the_assignment(w: AttackWorld) -> None:
    """An empty message assigns nothing; it takes nothing away either."""
    w.device.deliver(w.server.refresh(), b"")


# Metadata ---------------------------------------------------------------------------------------


@attack(Code.TUF_HASH)
def mix_old_targets_with_a_new_snapshot(w: AttackWorld) -> None:
    """The snapshot says version and hash of targets."""
    files = w.server.refresh()
    name = newest(files, "targets")
    older = f"{int(name.split('.')[0]) - 1}.targets.json"
    files[name] = (w.server.tuf_dir / older).read_bytes()
    w.device.deliver(files, w.server.order(V2, 6))


@attack(Code.TUF_HASH)
def mix_an_old_snapshot_with_a_new_timestamp(w: AttackWorld) -> None:
    """The timestamp says version and hash of the snapshot."""
    files = w.server.refresh()
    name = newest(files, "snapshot")
    older = f"{int(name.split('.')[0]) - 1}.snapshot.json"
    files[name] = (w.server.tuf_dir / older).read_bytes()
    w.device.deliver(files, w.server.order(V2, 6))


@attack(Code.TUF_MISSING)
def withhold_targets(w: AttackWorld) -> None:
    """A set that is not whole is never acted on."""
    files = w.server.refresh()
    del files[newest(files, "targets")]
    w.device.deliver(files, w.server.order(V2, 6))


@attack(Code.TUF_MISSING)
def send_no_metadata(w: AttackWorld) -> None:
    """A set that is not whole is never acted on."""
    w.device.deliver({}, w.server.order(V2, 6))


@attack(Code.TUF_FORMAT)
def send_garbage_as_the_timestamp(w: AttackWorld) -> None:
    """What is no metadata is refused as such."""
    w.device.deliver(w.server.refresh() | {"timestamp.json": b"{}"}, w.server.order(V2, 6))


@attack(Code.TUF_FORMAT)
def nest_the_timestamp_a_thousand_deep(w: AttackWorld) -> None:
    """JSON too deep for the parser is malformed, not a crash."""
    deep = b"[" * 8_000 + b"]" * 8_000
    w.device.deliver(w.server.refresh() | {"timestamp.json": deep}, w.server.order(V2, 6))


@attack(Code.TUF_SIZE)
def send_an_endless_timestamp(w: AttackWorld) -> None:
    """Each role has a limit of bytes; the timestamp's is 16 KiB."""
    w.device.deliver(w.server.refresh() | {"timestamp.json": b" " * 20_000}, w.server.order(V2, 6))


@attack(Code.TUF_SIGNATURE)
def forge_the_timestamp(w: AttackWorld) -> None:
    """The root names the key of each role."""
    files = w.server.refresh()
    metadata = Metadata[Timestamp].from_bytes(files["timestamp.json"])
    metadata.signed.version += 9
    metadata.sign(CryptoSigner.generate_ed25519())
    files["timestamp.json"] = metadata.to_bytes(COMPACT)
    w.device.deliver(files, w.server.order(V2, 6))


@attack(Code.TUF_SIGNATURE)
def bring_a_root_of_their_own(w: AttackWorld) -> None:
    """A new root needs the signatures of the root before it; the first was pinned at joining."""
    root = Metadata[Root].from_bytes(w.device.root)
    root.signed.version = 2
    root.signed.add_key(CryptoSigner.generate_ed25519().public_key, "targets")
    root.sign(CryptoSigner.generate_ed25519())
    files = w.server.refresh() | {"2.root.json": root.to_bytes(COMPACT)}
    w.device.deliver(files, w.server.order(V2, 6))


def deliver_raw(w: AttackWorld, payload: bytes) -> None:
    w.device.say_on(META_TOPIC, payload)
    w.device.say(Channel.DESIRED, w.server.order(V2, 6))
    w.device.run(3)


@attack(Code.TUF_FORMAT)
def send_a_decompression_bomb_as_metadata(w: AttackWorld) -> None:
    """Inflating stops at 8 MiB."""
    deliver_raw(w, zeros_bomb(100_000_000))


@attack(Code.TUF_FORMAT)
def send_metadata_that_a_parser_would_swell_up(w: AttackWorld) -> None:
    """Its form is looked at before it is parsed: 8 kB of empty lists would take 240 MB."""
    tracemalloc.start()
    try:
        deliver_raw(w, zlib.compress(b'{"a":[' + b"[]," * 2_700_000 + b"[]]}", 9))
        assert tracemalloc.get_traced_memory()[1] < 64_000_000
    finally:
        tracemalloc.stop()


@attack(Code.TUF_FORMAT)
def name_a_metadata_file_outside_its_folder(w: AttackWorld) -> None:
    """Only names of metadata files are names; files are never written by the name received."""
    deliver_raw(w, bundle_of({"../../state.json": "{}"}))


@attack(Code.TUF_FORMAT)
def send_ten_thousand_metadata_files(w: AttackWorld) -> None:
    """A message holds at most 320 files."""
    deliver_raw(w, bundle_of({f"{n}.root.json": "{}" for n in range(10_000)}))


@attack(Code.TUF_FORMAT)
def send_metadata_that_is_not_compressed_at_all(w: AttackWorld) -> None:
    """What does not inflate is malformed."""
    deliver_raw(w, b"not zlib")


@attack(Code.TUF_FORMAT)
def send_metadata_beyond_the_limit_of_a_message(w: AttackWorld) -> None:
    """A message beyond 256 KiB is not inflated."""
    deliver_raw(w, b"\x78\xda" + b"\0" * 300_000)


# Packages ---------------------------------------------------------------------------------------


def fetch(w: AttackWorld, serve: Answer, *, for_s: float = 60, step_s: float = 1.0) -> None:
    """Assign an approved package honestly, and answer the requests for it."""
    w.device.serve = serve
    w.device.deliver(w.server.refresh(), w.server.order(V3, 6), for_s=1)
    w.device.run(for_s, step_s=step_s)


def honest_frames(w: AttackWorld, request: ChunkRequest) -> list[ChunkFrame]:
    return [ChunkFrame.decode(payload) for payload in w.device.serve_honestly(request)]


def with_chunks(w: AttackWorld, change: Callable[[bytes], bytes]) -> Answer:
    """The right list of hashes, and chunks that are not what it says."""

    def serve(request: ChunkRequest) -> list[bytes]:
        frames = honest_frames(w, request)
        if request.part is Part.HASHES:
            return [frame.encode() for frame in frames]
        return [replace(frame, body=change(frame.body)).encode() for frame in frames]

    return serve


@attack(Code.FETCH_BUDGET)
def swap_the_package_for_another(w: AttackWorld) -> None:
    """The hash of the list of chunk hashes is signed with the package."""
    evil = ChunkServer(package(UNSIGNED))

    def serve(request: ChunkRequest) -> list[bytes]:
        body = evil.hashes if request.part is Part.HASHES else evil.blob
        frames = honest_frames(w, request)
        return [replace(frame, body=body[: len(frame.body)]).encode() for frame in frames]

    fetch(w, serve)


@attack(Code.FETCH_BUDGET)
def swap_the_chunks_under_the_right_list(w: AttackWorld) -> None:
    """Each chunk is hashed as it arrives, and what may be received has a limit."""
    fetch(w, with_chunks(w, lambda body: b"\0" * len(body)))


@attack(Code.FETCH_BUDGET)
def flip_one_bit_of_every_chunk(w: AttackWorld) -> None:
    """Each chunk is hashed as it arrives, and what may be received has a limit."""
    fetch(w, with_chunks(w, lambda body: bytes([body[0] ^ 1]) + body[1:]))


@attack(Code.FETCH_BUDGET)
def lengthen_every_chunk(w: AttackWorld) -> None:
    """A chunk has the signed length, and what may be received has a limit."""
    fetch(w, with_chunks(w, lambda body: body + b"x"))


@attack(Code.FETCH_BUDGET)
def truncate_every_chunk(w: AttackWorld) -> None:
    """A chunk has the signed length, and what may be received has a limit."""
    fetch(w, with_chunks(w, lambda body: body[:-1]))


@attack(Code.FETCH_BUDGET)
def pour_in_chunks_nobody_asked_for(w: AttackWorld) -> None:
    """Every byte counts against what may be received for a package, useful or not."""

    def serve(request: ChunkRequest) -> Iterable[bytes]:
        frames = honest_frames(w, request)
        flood = replace(frames[0], kind=FrameKind.CHUNK, index=2**31, body=b"x" * 131_072)
        yield from [flood.encode()] * 20

    fetch(w, serve)


@attack(Code.FETCH_TIMEOUT)
def withhold_the_package(w: AttackWorld) -> None:
    """A transfer that does not move for five minutes is given up, said, and tried again later."""
    fetch(w, lambda _request: (), for_s=330, step_s=5)


@attack(Code.FETCH_TIMEOUT)
def feed_a_package_one_byte_at_a_time(w: AttackWorld) -> None:
    """Only a whole chunk that is durable moves the deadline."""
    asked: list[ChunkRequest] = []

    def serve(request: ChunkRequest) -> Iterable[bytes]:
        if request.part is Part.HASHES:
            yield from w.device.serve_honestly(request)
        else:
            asked.append(request)

    fetch(w, serve, for_s=1)
    for _ in range(320):
        for frame in honest_frames(w, asked[-1])[:1]:
            w.device.say(Channel.CHUNK, replace(frame, body=frame.body[:1]).encode())
        w.device.run(1)


@attack(Code.FETCH_TIMEOUT)
def answer_every_request_with_frames_that_make_no_sense(w: AttackWorld) -> None:
    """A malformed frame is counted and dropped; silence and noise run into the same deadline."""
    noise = (b"", b"EFX1", b"EFX1" + b"\xff" * 32, b"\0" * 200_000, b"EFX2" + b"\0" * 100)
    fetch(w, lambda _request: noise, for_s=330, step_s=5)


@attack(Code.FETCH_TIMEOUT)
def answer_every_request_with_chunks_of_another_package(w: AttackWorld) -> None:
    """A frame names its package; another's moves nothing."""
    other = ChunkServer(package(V1))
    prefix = bytes.fromhex(other.sha256[:32])

    def serve(request: ChunkRequest) -> list[bytes]:
        frames = honest_frames(w, request)
        return [replace(frame, sha256_prefix=prefix).encode() for frame in frames]

    fetch(w, serve, for_s=330, step_s=5)


@attack(Code.FETCH_BUDGET)
def refuse_every_request_for_the_package(w: AttackWorld) -> None:
    """After three refusals the attempt ends and is said."""

    def serve(request: ChunkRequest) -> list[bytes]:
        frame = honest_frames(w, request)[0]
        return [replace(frame, kind=FrameKind.REFUSED, body=b"").encode()]

    fetch(w, serve)


@attack(DELAYED)
def put_the_device_off_again_and_again(w: AttackWorld) -> None:
    """One answer puts off for an hour at most; the report says that the slot is still fetching."""

    def serve(request: ChunkRequest) -> list[bytes]:
        frame = honest_frames(w, request)[0]
        later = replace(frame, kind=FrameKind.RETRY_LATER, body=b"", retry_after_s=65_535)
        return [later.encode()]

    fetch(w, serve, for_s=20_000, step_s=200)


# Everything else --------------------------------------------------------------------------------


@attack(IGNORED)
def speak_on_topics_the_device_does_not_know(w: AttackWorld) -> None:
    """What no part of the agent reads is counted and dropped."""
    for topic in ("ef/v1/meta/other", "$SYS/broker", device_topic("cam-2", Channel.DESIRED), ""):
        w.device.say_on(topic, w.server.order(V2, 6, device="cam-2"))
    w.device.say(Channel.COMMAND, b'{"run":"sh"}')
    w.device.run(3)


@attack(IGNORED)
def acknowledge_telemetry_in_nonsense(w: AttackWorld) -> None:
    """An acknowledgement is bounded and read field by field."""
    for payload in (b"", b"[]", b"\xff" * 70_000, b'{"v":1,"ranges":[[1,2]]}', b"[" * 60_000):
        w.device.say(Channel.TELEMETRY_ACK, payload)
    beyond = TelemetryAck(ranges=(AckRange(2**62, 9, 0, 2**63 - 1),))
    w.device.say(Channel.TELEMETRY_ACK, beyond.encode())
    w.device.run(3)


@attack(IGNORED)
def break_the_connection_a_hundred_times(w: AttackWorld) -> None:
    """The model answers without a connection."""
    for _ in range(100):
        w.device.disconnect()
        w.device.run(1)
        w.device.connect()


@attack.cases()
def test_an_attack_from_the_broker_is_refused_and_seen(attack: Attack, world: AttackWorld) -> None:
    hold(world, attack)
