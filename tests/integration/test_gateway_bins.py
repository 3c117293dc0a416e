"""Hash bins on a real broker, read by mosquitto's own client and verified by python-tuf's."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Snapshot

from edge_agent.contract.metadata import decode_bundle
from edge_agent.contract.topics import AUTHORITIES_TOPIC, META_TOPIC, meta_topic
from fleet_server.adapters.key_files import load_key
from fleet_server.adapters.operator_folder import APPROVER_KEY
from fleet_server.adapters.target_layout import COMPACT, edit_targets
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.wiring.trust import build_repository
from tests.support.gateway import WAIT_S, Client, WorkspaceLab
from tests.support.target_bins import look_up
from tests.support.trust import make_target

PATHS = tuple(f"digits/{n}/camera.tar" for n in range(1, 1_002))
SUBSCRIBE = shutil.which("mosquitto_sub") or ""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceLab]:
    lab = WorkspaceLab(tmp_path_factory.mktemp("bins") / "ws")
    try:
        lab.add_devices(["cam-1", "cam-2"])
        lab.broker.start()
        lab.start_gateway()
        lab.wait_until_ready()
        yield lab
    finally:
        lab.stop()


def approve(lab: WorkspaceLab, *paths: str) -> TufRepository:
    repository = build_repository(lab.fleet)
    edited = edit_targets(
        repository.current_targets(),
        root=Metadata[Root].from_bytes(repository.root()).signed,
        add=[make_target(path) for path in paths],
        now_at=lab.fleet.clock.now(),
    )
    signer = load_key(lab.workspace.operator_dir / APPROVER_KEY)
    for metadata in edited.values():
        metadata.sign(signer)
    repository.store_targets({role: m.to_bytes(COMPACT) for role, m in edited.items()})
    return repository


def read_retained(lab: WorkspaceLab, name: str, topics: Sequence[str], count: int) -> list[bytes]:
    """Read so many retained messages with mosquitto's own client."""
    identity = lab.issue(name)
    program = [SUBSCRIBE, "-h", "127.0.0.1", "-p", str(lab.port), "-i", name, "-q", "1"]
    program += ["--cafile", str(lab.authority.files.ca), "--cert", str(identity.certificate)]
    program += ["--key", str(identity.key), "-C", str(count), "-W", str(int(WAIT_S)), "-F", "%x"]
    for topic in topics:
        program += ["-t", topic]
    found = subprocess.run(program, capture_output=True, check=True, text=True)
    return [bytes.fromhex(line) for line in found.stdout.splitlines()]


def metadata_topics(client: Client) -> list[str]:
    """Topics of what was received, but for the list of authorities."""
    return [m.topic for m in client.received if m.topic != AUTHORITIES_TOPIC]


def wait_until_published(lab: WorkspaceLab, repository: TufRepository) -> None:
    """Wait until the broker holds the newest metadata."""
    newest = repository.bundle()
    client = lab.device("cam-2")
    client.subscribe(META_TOPIC)
    client.wait(lambda: newest in held(client))
    assert held(client)[-1] == newest
    client.close()


def held(client: Client) -> list[dict[str, bytes]]:
    """Metadata that was received; a session that the broker remembered brings other topics too."""
    return [decode_bundle(m.payload) for m in client.received if m.topic == META_TOPIC]


@pytest.fixture(scope="module")
def repository(lab: WorkspaceLab) -> TufRepository:
    """1,001 packages, published."""
    flat = approve(lab, *PATHS[:-1])
    wait_until_published(lab, flat)
    assert flat.bins(flat.bundle()) == []
    repository = approve(lab, PATHS[-1])
    wait_until_published(lab, repository)
    return repository


def test_a_foreign_client_finds_a_package_through_its_one_bin(
    lab: WorkspaceLab, repository: TufRepository, tmp_path: Path
) -> None:
    (bundle,) = read_retained(lab, "cam-1", [META_TOPIC], 1)
    files = decode_bundle(bundle)
    assert any(name.endswith(".approved.json") for name in files)
    assert not any("packages-" in name for name in files)
    path = PATHS[500]
    (bin_,) = {
        b.role
        for b in repository.bins(files)
        if path.encode() in repository.read_bin(b)  # whoever has all of them can look
    }
    (message,) = read_retained(lab, "cam-1", [meta_topic(bin_)], 1)
    now_at = lab.fleet.clock.now()
    files |= decode_bundle(message)
    found = look_up(tmp_path / "client", repository.root(), files, path, now_at)
    assert found is not None
    assert found.hashes["sha256"] == make_target(path).sha256
    assert (len(bundle), len(message)) < (60_000, 60_000)


@pytest.mark.usefixtures("repository")
def test_one_more_package_is_one_more_bin_and_the_metadata_behind_it(lab: WorkspaceLab) -> None:
    client = lab.device("cam-2")
    client.subscribe("ef/v1/meta/#")
    client.wait_for(514)  # with the list of authorities
    assert len(client.received) == 514
    client.received.clear()
    approve(lab, "digits/5000/camera.tar")
    bin_message, meta_message = client.wait_for(2)[:2]
    ((name, data),) = decode_bundle(bin_message.payload).items()
    version, role, _ = name.split(".")
    assert (bin_message.topic, version) == (meta_topic(role), "2")
    assert b"digits/5000/camera.tar" in data
    assert meta_message.topic == META_TOPIC
    files = decode_bundle(meta_message.payload).items()
    (snapshot,) = (data for name, data in files if name.endswith(".snapshot.json"))
    assert Metadata[Snapshot].from_bytes(snapshot).signed.meta[f"{role}.json"].version == 2
    assert len(client.received) == 2
    client.close()


@pytest.mark.usefixtures("repository")
def test_a_restarted_gateway_repeats_no_bins(lab: WorkspaceLab) -> None:
    client = lab.device("cam-2")
    client.subscribe("ef/v1/meta/#")
    client.wait_for(514)
    client.received.clear()
    assert lab.gateway is not None
    lab.gateway.terminate()
    assert lab.gateway.wait(60) == 0
    lab.start_gateway()
    assert client.wait(lambda: bool(client.received), timeout_s=60)
    approve(lab, "digits/6000/camera.tar")
    assert client.wait(lambda: len(metadata_topics(client)) >= 3)
    topics = metadata_topics(client)
    assert topics[0] == topics[-1] == META_TOPIC
    assert len(topics) == 3
    client.close()


@pytest.mark.usefixtures("repository")
def test_a_broker_that_lost_everything_gets_every_bin_again(lab: WorkspaceLab) -> None:
    lab.kill_broker()
    lab.broker.start()
    newest = build_repository(lab.fleet)
    wait_until_published(lab, newest)
    messages = read_retained(lab, "cam-1", ["ef/v1/meta/#"], 514)  # with the list of authorities
    bundles = [message for message in messages if not message.startswith(b"-----BEGIN")]
    assert len(bundles) == 513
    files = {name: data for bundle in bundles for name, data in decode_bundle(bundle).items()}
    bins = newest.bins(newest.bundle())
    assert len(bins) == 512
    assert all(files[f"{b.version}.{b.role}.json"] == newest.read_bin(b) for b in bins)
