"""What trust costs: ``make bench NAME=trust``. One JSON line a figure, its floor from the same run.

* Device, one update with 54,000 live packages: from the messages as they came (metadata, hash bin,
  assignment) to a verified assignment, all judgements of it together; floor: one bare ed25519
  verification and one sha256 of the same bytes. And the bytes of those messages.
* Server, signing snapshot and timestamp anew in that fleet; floor: two bare signatures, and the
  same bytes written and synced.
* Memory of the trust stack in an agent: a fresh interpreter that verifies one update beside one
  that only loads paho with TLS (peak, median of several).
* Enrolments a second, each its own transaction; floor: signing the same requests' certificates.
* Connections a second to the broker with mutual TLS; floor: the same broker program without TLS.

Verification is CPU time, signing is time on the clock with its syncs; both are medians. Rates are
the best of the rounds, as other work on the machine only ever lowers them.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, Root

from benchmarks import trust_connections, trust_enrolments
from benchmarks.trust_device import Messages, judge_update, save_messages
from edge_agent.contract.metadata import encode_bundle
from edge_agent.contract.topics import meta_topic
from fleet_server.adapters.target_layout import COMPACT, bins_of, edit_targets
from tests.support.trust import TrustWorld, make_target

LIVE_TARGETS = 54_000
PROFILES = ("camera", "iot-gateway", "onprem-server")
VERIFY_MS_GOAL, UPDATE_BYTES_GOAL = 25.0, 60_000
SIGN_MS_GOAL, MEMORY_MB_GOAL = 10.0, 16.0
OWN_MODEL = "m00007"
NOT_ON_DEVICES = ("PyKCS11", "asn1crypto", "pkcs11")
"""Of the development environment; securesystemslib loads what it finds of them."""
PAHO_ALONE = (
    f"import sys; sys.modules.update(dict.fromkeys({NOT_ON_DEVICES!r}));"
    "import ssl, paho.mqtt.client; ssl.create_default_context()"
)
REPORT_PEAK = (
    "; print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
)


@dataclass(frozen=True)
class Figure:
    """One line: ``is_most`` says that the goal is an upper bound."""

    name: str
    value: float
    floor: float
    goal: float | None = None
    is_most: bool = True

    def to_json(self) -> dict[str, object]:
        ratio = self.value / self.floor if self.floor else 0.0
        return {
            "name": self.name,
            "value": round(self.value, 3),
            "floor": round(self.floor, 3),
            "ratio": round(ratio, 3),
            "goal": self.goal,
            "ok": self.is_met,
        }

    @property
    def is_met(self) -> bool:
        if self.goal is None:
            return True
        return self.value <= self.goal if self.is_most else self.value >= self.goal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=LIVE_TARGETS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=15)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-trust-"))
    is_met = True
    try:
        for figure in measure(folder, options.targets, options.updates, options.rounds):
            print(json.dumps(figure.to_json()), flush=True)
            is_met = is_met and figure.is_met
    finally:
        shutil.rmtree(folder)
    if not is_met:
        sys.exit(1)


def measure(folder: Path, targets: int, updates: int, rounds: int) -> Iterator[Figure]:
    world = build_fleet(folder / "world", targets)
    messages, times = run_updates(world, updates)
    yield Figure(
        f"verify_update_ms_at_{targets}",
        statistics.median(times),
        floor_of_verifying(messages.size_bytes),
        VERIFY_MS_GOAL,
    )
    yield Figure(
        f"update_bytes_at_{targets}",
        messages.size_bytes,
        len(messages.envelope),
        UPDATE_BYTES_GOAL,
    )
    yield Figure(f"resign_ms_at_{targets}", *measure_signing(world, 21), SIGN_MS_GOAL)
    alone, whole = measure_memory(folder / "memory", world, messages)
    say(f"peak memory: paho alone {alone:.1f} MB, with an update verified {whole:.1f} MB")
    yield Figure("trust_memory_mb_over_paho", whole - alone, alone, MEMORY_MB_GOAL)
    rate, bare = trust_enrolments.measure(folder / "enrol", rounds)
    yield Figure("enrolments_per_s", rate, bare)
    rate, bare, broker_ms = trust_connections.measure(folder / "connect", rounds)
    say(f"mTLS: {broker_ms:.2f} ms of broker CPU a connection")
    yield Figure("mtls_connects_per_s", rate, bare)


def build_fleet(folder: Path, count: int) -> TrustWorld:
    """Sign all packages at once, as if they had been approved one after another."""
    began = time.perf_counter()
    world = TrustWorld(folder)
    paths = [f"m{n:05d}/1/{p}.tar" for n in range(-(-count // len(PROFILES))) for p in PROFILES]
    approve(world, *paths[:count])
    files = world.repository.current_targets()
    say(f"{count:,} packages signed in {time.perf_counter() - began:.1f} s, {len(files)} files")
    return world


def approve(world: TrustWorld, *paths: str) -> None:
    """Edit and sign with the approver's key; no diff is looked at."""
    edited = edit_targets(
        world.repository.current_targets(),
        root=Metadata[Root].from_bytes(world.repository.root()).signed,
        add=[make_target(path, slot=path.split("/")[0]) for path in paths],
        now_at=world.clock.now(),
    )
    approver = world.key("approver")
    for metadata in edited.values():
        metadata.signatures.clear()
        metadata.sign(approver)
    world.repository.store_targets(
        {role: metadata.to_bytes(COMPACT) for role, metadata in edited.items()}
    )


def run_updates(world: TrustWorld, updates: int) -> tuple[Messages, list[float]]:
    """Let one device follow approvals of its model; return the last messages and all times, ms.

    The first update is left out: the device has nothing before it.
    """
    times: list[float] = []
    messages = Messages(b"", b"", {})
    for number in range(updates + 1):
        path = f"{OWN_MODEL}/{number + 2}/{PROFILES[0]}.tar"
        approve(world, path)
        world.advance(days=0.01)
        envelope = world.assign(path, number + 1, slot=OWN_MODEL)
        messages = collect_messages(world, path, envelope)
        began = time.process_time()
        verified = judge_update(world.verifier, messages, world.accepted)
        times.append((time.process_time() - began) * 1_000)
        world.accepted = verified.accepted
        assert verified.targets[OWN_MODEL].sha256 == make_target(path).sha256
    say(f"verify: {' '.join(f'{t:.1f}' for t in times)} ms (the first from nothing)")
    return messages, times[1:]


def collect_messages(world: TrustWorld, path: str, envelope: bytes) -> Messages:
    """What the broker holds for a device that is to run ``path``."""
    repository = world.repository
    bundle = repository.bundle()
    layout = bins_of(repository.current_targets())
    role = layout.get_role_for_target(path) if layout else ""
    bins = {
        meta_topic(b.role): encode_bundle({f"{b.version}.{b.role}.json": repository.read_bin(b)})
        for b in repository.bins(bundle)
        if b.role == role
    }
    return Messages(encode_bundle(bundle), envelope, bins)


def floor_of_verifying(size_bytes: int) -> float:
    """CPU milliseconds of one signature checked over, and one hash of, as many bytes."""
    data = os.urandom(size_bytes)
    key = Ed25519PrivateKey.generate()
    signature, public = key.sign(data), key.public_key()

    def once() -> None:
        public.verify(signature, data)
        hashlib.sha256(data).digest()

    return median_ms(once, 201, time.process_time)


def measure_signing(world: TrustWorld, times: int) -> tuple[float, float]:
    """Milliseconds of signing snapshot and timestamp anew, and of the bare work in it."""
    ours = median_ms(world.repository.republish_online, times)
    cpu = median_ms(world.repository.republish_online, times, time.process_time)
    say(f"signing anew: {ours:.1f} ms on the clock, {cpu:.1f} ms of CPU; the rest is waiting")
    bundle = world.repository.bundle()
    written = [data for name, data in bundle.items() if "snapshot" in name or "timestamp" in name]
    key, folder = Ed25519PrivateKey.generate(), world.directory / "floor"
    folder.mkdir()

    def once() -> None:
        for number, data in enumerate(written):
            key.sign(data)
            with (folder / f"{number}.json").open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    return ours, median_ms(once, times)


def measure_memory(folder: Path, world: TrustWorld, messages: Messages) -> tuple[float, float]:
    """Peak memory in MB of paho alone, and of an interpreter that verifies an update as well."""
    save_messages(folder, messages, world.pinned_root, world.device_clock.now())
    verify = (
        f"{PAHO_ALONE}; from benchmarks.trust_device import verify_saved;"
        f" verify_saved({str(folder)!r})"
    )
    alone, whole = [], []
    for _ in range(7):
        alone.append(peak_mb(PAHO_ALONE))
        whole.append(peak_mb(verify))
    return statistics.median(alone), statistics.median(whole)


def peak_mb(code: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT_PEAK], check=True, capture_output=True, text=True
    )
    return int(done.stdout) / 1024


def median_ms(
    act: Callable[[], object], times: int, seconds: Callable[[], float] = time.perf_counter
) -> float:
    spent = []
    for _ in range(times):
        began = seconds()
        act()
        spent.append((seconds() - began) * 1_000)
    return statistics.median(spent)


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
