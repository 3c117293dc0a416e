"""Whoever owns one device's identity, or the CA's key, against broker, gateway and another's agent.

Real mosquitto, real gateway, a real ``edge-agent`` process that must go on answering.
"""

import contextlib
import json
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import load_pem_x509_certificate

from edge_agent.adapters.device_keys import make_request
from edge_agent.adapters.identity_store import load_identity
from edge_agent.contract.messages import Reported, Status
from edge_agent.contract.renewal import CertificateAnswer, RenewRequest
from edge_agent.contract.topics import META_TOPIC, Channel, device_topic
from edge_agent.contract.transfer import ChunkFrame, ChunkRequest, FrameKind, Part
from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.wiring.devices import build_device_desk
from tests.support.agent import ChunkServer
from tests.support.attack_live import VICTIM, LiveFleet
from tests.support.attack_server import package
from tests.support.attacks import AUDIT, Attack, AttackSuite
from tests.support.gateway import Client, Identity, TestAuthority

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("attack-one-device")]
attack = AttackSuite("one device's identity")
of_the_authority = AttackSuite("the CA's key, or no certificate at all")
more_suites = (of_the_authority,)
DROPPED = "dropped"
BY_BROKER = "broker: dropped without a word"
BY_TLS = "broker: its log"
UNCHANGED = "the server's view of the device, unchanged"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    live = LiveFleet(tmp_path_factory.mktemp("live") / "fleet")
    yield live
    live.stop()


# Other devices' topics --------------------------------------------------------------------------


@attack(DROPPED, seen=BY_BROKER)
def listen_to_everything(f: LiveFleet) -> str:
    """The broker delivers to a device its own topics and the shared metadata, whatever it asks."""
    name, client = f.connected()
    for pattern in ("#", "ef/v1/#", "+/+/+/+/down/#", device_topic(VICTIM, Channel.DESIRED)):
        client.subscribe(pattern)
    server = f.lab.server("noise")
    for channel in (Channel.DESIRED, Channel.CHUNK, Channel.CERTIFICATE):
        server.publish(device_topic(VICTIM, channel), b"secret")
    server.publish(device_topic(name, Channel.COMMAND), b"own")
    assert client.wait(lambda: any(m.payload == b"own" for m in client.received))
    own = device_topic(name, Channel.COMMAND).rsplit("/down/", 1)[0]
    shared = META_TOPIC.rsplit("/", 1)[0]
    assert all(m.topic.startswith((own, shared)) for m in client.received)
    return DROPPED


def publish_all(f: LiveFleet, messages: Iterable[tuple[str, bytes, bool]]) -> None:
    """Publish as a new device; mosquitto 2.0 acknowledges what it forbids, then hangs up."""
    name, directory = f.new_device()
    for topic, payload, is_retained in messages:
        client = f.client(directory, name)
        client.connect(f.lab.port)
        client.paho.publish(topic, payload, 1, is_retained)
        client.wait(lambda client=client: bool(client.disconnects), timeout_s=2)  # type: ignore[misc]
        client.close()


@attack(DROPPED, seen=UNCHANGED)
def report_in_the_name_of_another(f: LiveFleet) -> str:
    """The broker takes from a device only what lies below its own name."""
    forged = Reported(boot=1, sequence=10**6, at_ms=0, agent="evil", slots={}).encode()
    offline = Status(is_online=False, boot=1).encode()
    reported, status = (device_topic(VICTIM, c) for c in (Channel.REPORTED, Channel.STATUS))
    publish_all(f, [(reported, forged, False), (reported, forged, True), (status, offline, True)])
    return DROPPED


@attack(DROPPED, seen=UNCHANGED)
def have_the_broker_say_that_another_is_gone(f: LiveFleet) -> str:
    """A last will is a message like any other: only below one's own name."""
    name, directory = f.new_device()
    client = f.client(directory, name)
    will = Status(is_online=False, boot=1).encode()
    client.paho.will_set(device_topic(VICTIM, Channel.STATUS), will, qos=1, retain=True)
    client.connect(f.lab.port)
    client.drop()
    f.pause(0.2)
    return DROPPED


@attack(DROPPED, seen=UNCHANGED)
def assign_packages_to_another(f: LiveFleet) -> str:
    """Only the server's own listener takes messages towards devices."""
    channels = (Channel.DESIRED, Channel.CHUNK, Channel.TELEMETRY_ACK, Channel.CERTIFICATE)
    publish_all(f, [(device_topic(VICTIM, channel), b"evil", True) for channel in channels])
    return DROPPED


@attack(DROPPED, seen=UNCHANGED)
def replace_the_metadata_of_all(f: LiveFleet) -> str:
    """The shared metadata is the server's to write."""
    _, client = f.connected()
    client.subscribe("ef/v1/meta/#")
    assert client.wait(lambda: bool(client.received))
    f.settle()
    before = {m.payload for m in client.received}
    publish_all(f, [(META_TOPIC, b"evil", True), ("ef/v1/meta/packages-00", b"evil", True)])
    f.settle()
    assert {m.payload for m in client.received} == before
    return DROPPED


@attack("its own name", seen=UNCHANGED)
def take_the_session_of_another(f: LiveFleet) -> str:
    """The certificate's name is the client id, whatever the client says."""
    _, directory = f.new_device()
    client = f.client(directory, VICTIM)
    client.connect(f.lab.port)
    client.publish(device_topic(VICTIM, Channel.STATUS), Status(is_online=False, boot=9).encode())
    return "its own name"


# The gateway ------------------------------------------------------------------------------------


def requested(client: Client, name: str, *payloads: bytes) -> list[ChunkFrame]:
    """Ask for chunks, last with an honest request that is refused; return every answer."""
    topic = device_topic(name, Channel.CHUNK)
    client.subscribe(topic)
    sha256 = ChunkServer(package("plant/1/onprem-server.tar")).sha256
    last = ChunkRequest(request=99, sha256=sha256, part=Part.HASHES, first=0, bitmap=1)
    for payload in (*payloads, last.encode()):
        client.publish(device_topic(name, Channel.CHUNK_REQUEST), payload)
    assert client.wait(lambda: any(m.topic == topic for m in client.received))
    return [ChunkFrame.decode(m.payload) for m in client.received if m.topic == topic]


@attack("REFUSED", seen="the answer, and the gateway's count")
def fetch_a_package_that_was_not_assigned(f: LiveFleet) -> str:
    """A device gets what its assignment names; the rest is refused as if it did not exist."""
    name, client = f.connected()
    (frame,) = requested(client, name)
    assert frame.body == b""
    return FrameKind(frame.kind).name


@attack("no answer", seen="the gateway's count of malformed messages")
def fetch_a_file_of_the_server_as_a_package(f: LiveFleet) -> str:
    """A package is named by 64 hex digits, nothing else."""
    name, client = f.connected()
    value = {"v": 1, "request": 1, "part": "chunks", "first": 0, "bitmap": 1}
    escapes = ("../../keys/ca.key", "/etc/passwd", "a" * 63, "A" * 64, "../" * 21 + "x")
    bodies = [json.dumps({**value, "sha256": escape}).encode() for escape in escapes]
    (frame,) = requested(client, name, *bodies)
    assert frame.request == 99
    return "no answer"


@attack("set aside", seen=UNCHANGED)
def send_the_gateway_what_no_decoder_expects(f: LiveFleet) -> str:
    """Every message is bounded and read field by field; one that makes no sense is counted."""
    name, client = f.connected()
    junk = (
        b"",
        b"[" * 60_000,
        b"\xff" * 60_000,
        b'{"v":1}',
        b"EFT1" + b"\0" * 50,
        b"NaN",
        b"1e999",
    )
    for channel in (
        Channel.STATUS,
        Channel.REPORTED,
        Channel.TELEMETRY,
        Channel.CHUNK_REQUEST,
        Channel.RENEW,
        Channel.ACK,
    ):
        for payload in junk:
            client.publish(device_topic(name, channel), payload)
    good = Reported(boot=5, sequence=1, at_ms=0, agent="1", slots={}).encode()
    client.publish(device_topic(name, Channel.REPORTED), good)
    f.wait(lambda: f.lab.device_row(name).boot == f"{5:016x}")
    return "set aside"


@attack("disconnected", seen=BY_TLS)
def send_a_message_beyond_the_brokers_limit(f: LiveFleet) -> str:
    """The broker ends a session that sends more than any message of the contract."""
    name, client = f.connected()
    client.paho.publish(device_topic(name, Channel.REPORTED), b"x" * 300_000, 1)
    assert client.wait(lambda: bool(client.disconnects))
    return "disconnected"


@attack("at most six an hour", seen=f"{AUDIT}: report.refused")
def fill_the_audit_log_with_reports_of_refusals(f: LiveFleet) -> str:
    """A device's refusals are told six times an hour; what was left out is counted."""
    name, client = f.connected()
    for number in range(1, 40):
        code = ("tuf-signature", "assign-replay", "wrong-device")[number % 3]
        report = Reported(
            boot=7,
            sequence=number,
            at_ms=0,
            agent="1",
            slots={},
            refusal={"code": code, "detail": "x"},
        )
        client.publish(device_topic(name, Channel.REPORTED), report.encode())
        if number % 3 == 0:
            f.pause(0.02)
    f.wait(lambda: f.acts(name).count("report.refused") > 0)
    f.settle()
    assert f.acts(name).count("report.refused") <= 6
    return "at most six an hour"


# Certificates -----------------------------------------------------------------------------------


def renew(client: Client, name: str, request: RenewRequest) -> CertificateAnswer:
    topic = device_topic(name, Channel.CERTIFICATE)
    client.subscribe(topic)
    before = len(client.received)
    client.publish(device_topic(name, Channel.RENEW), request.encode())
    assert client.wait(lambda: any(m.topic == topic for m in client.received[before:]))
    return CertificateAnswer.decode(
        [m for m in client.received[before:] if m.topic == topic][-1].payload
    )


@attack("its own name", seen=f"{AUDIT}: device.renewed")
def renew_in_the_name_of_another(f: LiveFleet) -> str:
    """The name comes from the topic, which the broker ties to the certificate."""
    name, directory = f.new_device()
    identity = load_identity(directory)
    client = f.client(directory, name)
    client.connect(f.lab.port)
    csr = make_request(ec.generate_private_key(ec.SECP256R1()), VICTIM).decode()
    answer = renew(client, name, RenewRequest(csr=csr, serial=serial_of(identity.certificate_path)))
    certificate = load_pem_x509_certificate(answer.certificate.encode())
    assert certificate.subject.rfc4514_string() == f"CN={name}"
    f.attacker = name
    return "its own name"


@attack("unknown-serial", seen=f"{AUDIT}: device.renewal_refused")
def renew_the_certificate_of_another(f: LiveFleet) -> str:
    """The certificate that is renewed must be one of the same device."""
    name, client = f.connected()
    csr = make_request(ec.generate_private_key(ec.SECP256R1()), name).decode()
    serial = serial_of(load_identity(f.home).certificate_path)
    f.attacker = name
    return renew(client, name, RenewRequest(csr=csr, serial=serial)).code


@attack("bad-request", seen=f"{AUDIT}: device.renewal_refused")
def renew_with_a_request_of_garbage(f: LiveFleet) -> str:
    """A certificate request is signed by its own key, of the right kind."""
    name, directory = f.new_device()
    client = f.client(directory, name)
    client.connect(f.lab.port)
    f.attacker = name
    serial = serial_of(load_identity(directory).certificate_path)
    return renew(client, name, RenewRequest(csr="garbage", serial=serial)).code


def serial_of(path: Path) -> str:
    return f"{load_pem_x509_certificate(path.read_bytes()).serial_number:x}"


@attack("cut", seen=f"{AUDIT}: device.cut")
def stay_connected_after_being_revoked(f: LiveFleet) -> str:
    """Revoking writes the list, then ends the session; the broker lets nobody on it in again."""
    name, directory = f.new_device()
    client = f.client(directory, name)
    client.connect(f.lab.port)
    f.wait(lambda: bool(client.connects))
    build_device_desk(f.lab.fleet, actor="ann").revoke(name, "stolen")
    f.wait(lambda: f.lab.device_row(name).cut_wanted_at is None)
    assert client.wait(lambda: bool(client.disconnects))
    assert not f.is_let_in(f.client(directory, name))
    f.attacker = name
    return "cut"


@attack("noticed", seen=f"{AUDIT}: device.cloned")
def run_a_copy_of_an_identity_beside_its_owner(f: LiveFleet) -> str:
    """Two machines with one name take the session from each other; their boots give them away."""
    name, directory = f.new_device()
    now_ms = int(f.lab.fleet.clock.now().timestamp() * 1000)
    copy = directory.with_name(f"{name}-copy")
    shutil.copytree(directory, copy)

    def speak(home: Path, boot: int, sequence: int) -> None:
        client = f.client(home, name)
        client.connect(f.lab.port)
        status = Status(is_online=True, boot=boot).encode()
        client.publish(device_topic(name, Channel.STATUS), status, retain=True)
        report = Reported(
            boot=boot, sequence=sequence, at_ms=now_ms + 600_000 * sequence, agent="1", slots={}
        )
        client.publish(device_topic(name, Channel.REPORTED), report.encode())
        f.wait(lambda: f.lab.device_row(name).cloned_at is not None or is_heard(boot, sequence))
        client.close()

    def is_heard(boot: int, sequence: int) -> bool:
        row = f.lab.device_row(name)
        return f"{boot:016x}" in (row.boot, *json.loads(row.boots or "[0,[]]")[1:]) or sequence > 1

    for sequence in range(1, 5):
        speak(directory, 11, sequence)
        speak(copy, 22, sequence)
    f.wait(lambda: f.lab.device_row(name).cloned_at is not None)
    f.attacker = name
    return "noticed"


# The authority's key, or none -------------------------------------------------------------------


@of_the_authority("no session", seen=BY_TLS)
def connect_without_a_certificate_of_the_fleet(f: LiveFleet) -> str:
    """The broker asks for a certificate of the fleet's CA, and for TLS 1.2 or later."""
    stranger = TestAuthority(f.home.parent / "stranger")
    files = f.lab.authority.files
    identity = stranger.issue(VICTIM)
    assert not f.is_let_in(Client(VICTIM, identity, files.ca, clean=True))
    with socket.create_connection(("127.0.0.1", f.lab.port), timeout=5) as plain:
        plain.sendall(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02xy")
        plain.settimeout(5)
        with contextlib.suppress(ConnectionError):
            assert plain.recv(4) in (b"", b"\x15\x03\x03\x00", b"\x15\x03\x01\x00")
    return "no session"


@of_the_authority("no session", seen=BY_TLS)
def connect_with_the_servers_own_certificate_as_a_device(f: LiveFleet) -> str:
    """A certificate for servers is none for clients."""
    files = f.lab.authority.files
    identity = Identity(files.certificate("broker"), files.key("broker"))
    assert not f.is_let_in(Client(VICTIM, identity, files.ca, clean=True))
    return "no session"


@of_the_authority("no session", seen=BY_TLS)
def connect_as_the_server_without_its_secret(f: LiveFleet) -> str:
    """The server's listener is on this machine only, and asks for a secret beside a certificate."""
    identity = forged(f, "server")
    client = Client("gateway", identity, f.lab.authority.files.ca, clean=True)
    client.paho.username_pw_set("server", "a guess")
    assert not f.is_let_in(client, f.lab.workspace.config.server_port)
    return "no session"


@of_the_authority(DROPPED, seen=UNCHANGED)
def pose_as_the_server_on_the_devices_listener(f: LiveFleet) -> str:
    """There a certificate named server is a device of that name, which speaks for nobody else."""
    identity, ca = forged(f, "server"), f.lab.authority.files.ca
    for topic in (device_topic(VICTIM, Channel.DESIRED), META_TOPIC, "#"):
        client = Client("server", identity, ca, clean=True)
        client.connect(f.lab.port)
        if topic == "#":
            client.subscribe(topic)
            f.settle()
        else:
            client.paho.publish(topic, b"evil", 1, retain=True)
            client.wait(lambda client=client: bool(client.disconnects), timeout_s=2)  # type: ignore[misc]
        client.close()
    assert all(m.topic.startswith("ef/v1/meta/") for m in client.received)
    assert all(m.payload != b"evil" for m in client.received)
    return DROPPED


@of_the_authority("not counted", seen=UNCHANGED)
def connect_as_a_device_that_was_never_added(f: LiveFleet) -> str:
    """Who is no row of the database is assigned nothing and counted nowhere."""
    client = Client("ghost", forged(f, "ghost"), f.lab.authority.files.ca, clean=True)
    client.connect(f.lab.port)
    report = Reported(boot=5, sequence=1, at_ms=0, agent="1", slots={}).encode()
    client.publish(device_topic("ghost", Channel.REPORTED), report)
    f.settle()
    with pytest.raises(Exception, match="No row"):
        f.lab.device_row("ghost")
    client.close()
    return "not counted"


def forged(f: LiveFleet, name: str) -> Identity:
    """A certificate of the fleet's CA for any name, as whoever has its key makes one."""
    folder = f.home.parent / f"forged-{name}"
    folder.mkdir(exist_ok=True)
    authority = CertificateAuthority(f.lab.workspace.keys_dir, f.lab.fleet.clock)
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fleet_server.adapters.certificate_authority.check_device_id", str)
        issued = authority.issue_device(make_request(key, name), name)
    identity = Identity(folder / "device.pem", folder / "device.key")
    identity.certificate.write_bytes(issued.pem)
    identity.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return identity


def hold_live(live: LiveFleet, attack: Attack) -> None:
    """Try an attack: refused, seen, and the victim's agent answers as before."""
    answer, known = live.ask(), live.victim()
    live.attacker = ""
    act: Any = attack.act
    assert act(live) == attack.code
    live.settle()
    assert live.ask() == answer
    assert live.victim() == known
    if attack.seen.startswith(AUDIT):
        name = live.attacker or f"thief-{live.count}"
        assert attack.seen.removeprefix(f"{AUDIT}: ") in live.acts(name)


@attack.cases()
def test_an_attack_by_one_device_is_refused_and_seen(attack: Attack, live: LiveFleet) -> None:
    hold_live(live, attack)


@of_the_authority.cases()
def test_an_attack_with_the_authority_is_refused_and_seen(attack: Attack, live: LiveFleet) -> None:
    hold_live(live, attack)
