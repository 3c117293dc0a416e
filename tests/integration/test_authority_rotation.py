"""One certificate authority after another, on a live fleet: supervisor, broker, gateway, agents."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from edge_agent.adapters.identity_renewer import read_facts
from edge_agent.adapters.identity_store import load_identity
from edge_agent.adapters.mqtt_session import tls_context
from edge_agent.contract.authorities import split_bundle
from edge_agent.contract.topics import AUTHORITIES_TOPIC
from edge_agent.ports import Identity
from fleet_server.adapters.authority_files import make_authority
from fleet_server.errors import RefusedError
from fleet_server.run_state import read_heartbeat, read_run_file
from fleet_server.services.hand_over_authority import AuthorityDesk
from fleet_server.wiring.authority import build_authority_desk
from fleet_server.wiring.checkup_devices import check_devices
from fleet_server.wiring.devices import build_device_desk
from fleet_server.workers.supervisor import Supervisor, worker_command
from tests.support.gateway import WorkspaceLab
from tests.support.identity import ShiftedClock, audit_rows, join_fleet, running_agent

LIFE = timedelta(days=90)


class Site(WorkspaceLab):
    """A workspace under its real supervisor; the workers are the gateway and two that sleep."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.boss = Supervisor(
            self.workspace,
            self.broker,
            self.fleet.clock,
            say=lambda _: None,
            watched=self.authority.files.crl,
            restarting=self.authority.files.at_start,
            command_of=_command,
        )
        self.boss.start()
        self._turning = threading.Thread(target=self.boss.run)
        self._turning.start()
        self.wait(self._is_at_work)

    def _is_at_work(self) -> bool:
        pid = read_run_file(self.workspace.run_file).get("children", {}).get("gateway", 0)
        return bool(read_heartbeat(self.workspace.server_dir, "gateway").get("pid") == pid)

    def desk(self) -> AuthorityDesk:
        return build_authority_desk(self.fleet, actor="ann")

    def said(self, name: str) -> dict[str, str]:
        """What a device last reported of its certificate."""
        device = build_device_desk(self.fleet)
        with device.ledgers() as ledger:
            found = ledger.devices.find(name)
        return dict(found.certificate) if found is not None else {}

    def wait(self, is_true: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
        super().wait(is_true, timeout_s=timeout_s)  # a gateway starts anew in between

    def stop(self) -> None:
        self.boss.stop.set()
        self._turning.join()
        self.boss.shut_down()
        super().stop()


def _command(name: str, root: Path) -> list[str]:
    if name == "gateway":
        return worker_command(name, root)
    return [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_agent.core.retry.RECONNECT_CAP_S", 0.5)
        site = Site(tmp_path_factory.mktemp("authority") / "fleet")
        yield site
        site.stop()


def trusted(identity: Identity) -> list[str]:
    return list(split_bundle(identity.ca_path.read_bytes()))


def is_let_in(site: Site, identity: Identity) -> bool:
    """Ask the broker for a session, trusting what the device trusts."""
    name = identity.device_id.encode()
    words = b"\x00\x04MQTT\x04\x02\x00\x0a" + len(name).to_bytes(2, "big") + name
    try:
        with (
            socket.create_connection(("127.0.0.1", site.port), 5) as raw,
            tls_context(identity).wrap_socket(raw, server_hostname="127.0.0.1") as line,
        ):
            line.sendall(bytes((0x10, len(words))) + words)
            return len(line.recv(4)) == 4
    except OSError:
        return False


def test_devices_follow_from_one_authority_to_the_next(site: Site, tmp_path: Path) -> None:
    files = site.authority.files
    first, first_key = site.authority.ca_sha256, files.ca_key.read_bytes()
    join_fleet(site, "cam-1", tmp_path / "1", life=LIFE)
    late = join_fleet(site, "cam-2", tmp_path / "2", life=LIFE)
    with running_agent(tmp_path / "1", ShiftedClock()) as process:
        site.wait(lambda: site.said("cam-1").get("authority") == first)
        assert site.desk().begin() is not None
        second = site.authority.authorities[0]
        assert list(site.authority.authorities) == [second, first]
        assert site.desk().begin() is None, "the same command once more"

        site.wait(lambda: site.said("cam-1").get("authority") == second)
        identity = load_identity(tmp_path / "1")
        assert trusted(identity) == [second, first]
        assert read_facts(identity).authority == second
        with pytest.raises(RefusedError, match=r"1 of 2 devices .*: cam-2; wait until"):
            site.desk().conclude()
        assert list(site.authority.authorities) == [second, first]

        # Meanwhile devices join with the former authority, and follow at once.
        join_fleet(site, "cam-3", tmp_path / "3", life=LIFE)
        with running_agent(tmp_path / "3", ShiftedClock()):
            site.wait(lambda: site.said("cam-3").get("authority") == second)

        assert site.desk().look().waiting == ("cam-2",)
        assert site.desk().conclude(is_forced=True) is not None
        assert site.desk().conclude() is None
        site.wait(lambda: trusted(identity) == [second])
        site.wait(lambda: not is_let_in(site, late))
        site.wait(lambda: process._link.is_connected)
        site.wait(lambda: is_let_in(site, load_identity(tmp_path / "3")))
    assert list(site.authority.authorities) == [second]
    assert files.ca_key.read_bytes() != first_key
    assert not files.next_ca_key.exists()
    for name in ("broker", "api", "server"):
        leaf = x509.load_pem_x509_certificate(files.certificate(name).read_bytes())
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(files.ca.read_bytes()))
    acts = [row.act for row in audit_rows(site, "ca")]
    assert acts == ["keys.rotate", "keys.retire"]
    found = [finding.what for finding in check_devices(site.fleet, site.fleet.clock.now())]
    assert "certificate of a former authority: cam-2 cannot connect" not in found  # never reported

    again = join_fleet(site, "cam-2", tmp_path / "2", life=LIFE, is_again=True)
    assert trusted(again) == [second]
    site.wait(lambda: is_let_in(site, again))
    # Done by the gateway that the new certificates started anew: from here on it listens.
    site.wait(lambda: "device.cut" in [row.act for row in audit_rows(site, "cam-2")])


def insist(site: Site, bundle: bytes, is_seen: Callable[[], bool]) -> None:
    """Publish as the broker's master would, again after the gateway has put its own in place."""
    for attempt in range(12):
        broker = site.server(f"thief-{attempt}")
        broker.publish(AUTHORITIES_TOPIC, bundle, qos=0, retain=True)
        try:
            site.wait(is_seen, timeout_s=5.0)
        except AssertionError:
            continue
        finally:
            broker.close()
        return
    raise AssertionError("the device saw nothing of it")


def test_an_authority_that_nobody_listed_is_refused_and_told(site: Site, tmp_path: Path) -> None:
    identity = join_fleet(site, "cam-9", tmp_path, life=LIFE)
    before = identity.ca_path.read_bytes()
    foreign = make_authority(site.fleet.clock)
    with running_agent(tmp_path, ShiftedClock()) as process:
        process.agent._renewal.authorities._grace_s = 0.0
        site.wait(lambda: bool(site.said("cam-9")))
        insist(
            site,
            before + foreign.pem,
            lambda: foreign.sha256 in site.said("cam-9").get("refused", ""),
        )
        assert identity.ca_path.read_bytes() == before
        insist(site, before, lambda: "refused" not in site.said("cam-9"))
    (row,) = [row for row in audit_rows(site, "cam-9") if row.act == "report.refused"]
    assert "wrong-authority" in row.reason
