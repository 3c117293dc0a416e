"""Look at a workspace for ``edgefleet doctor``; the judging is ``core/checkup.py``."""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography import x509
from sqlalchemy import text

from fleet_server.adapters.approver_keys import APPROVER_KEY
from fleet_server.adapters.broker_process import check_port_is_free, find_mosquitto
from fleet_server.adapters.certificate_authority import CertificateFiles
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.tuf_repository import TufRepository
from fleet_server.bootstrap import Fleet
from fleet_server.core.checkup import (
    Finding,
    Grade,
    judge_disk,
    judge_expiry,
    judge_journal,
    judge_key_mode,
    judge_operator_keys,
    judge_worker,
)
from fleet_server.errors import FleetError
from fleet_server.run_state import is_running, read_heartbeat
from fleet_server.wiring.broker import check_external_broker
from fleet_server.wiring.checkup_devices import check_devices

KEYS = ("ca.key", "broker.key", "api.key", "server.key")
ONLINE_KEYS = ("snapshot.pem", "timestamp.pem", "director.pem")
WORKERS = ("gateway", "controller", "api")


def check_workspace(fleet: Fleet) -> Iterator[Finding]:
    """Yield findings in the order in which things break."""
    workspace, now_at = fleet.workspace, fleet.clock.now()
    is_up = is_running(workspace.lock_file)
    config = workspace.config
    if config.is_broker_external:
        yield _attempt(
            f"the external broker answers at {config.mqtt_host}:{config.broker_port}",
            partial(check_external_broker, fleet),
        )
    else:
        yield _attempt("mosquitto is installed", find_mosquitto)
    yield judge_disk(shutil.disk_usage(workspace.root).free)
    if not is_up:
        ours = [("API", config.bind_host, config.api_port)]
        if not config.is_broker_external:
            ours += [
                ("broker", config.bind_host, config.broker_port),
                ("server", "127.0.0.1", config.server_port),
            ]
        for name, host, port in ours:
            free = partial(check_port_is_free, host, port)
            yield _attempt(f"{name} port {port} is free", free)
    for name in (*KEYS, *ONLINE_KEYS):
        yield judge_key_mode(name, _mode(workspace.keys_dir / name))
    approver = workspace.operator_dir / APPROVER_KEY
    yield judge_operator_keys(is_readable_by_server=os.access(approver, os.R_OK))
    files = CertificateFiles(workspace.keys_dir)
    yield judge_expiry(
        "revocation list", _crl_expiry(files.crl), now_at, "run `edgefleet up`, which renews it"
    )
    for name in ("broker", "api", "server"):
        path = files.certificate(name)
        yield judge_expiry(
            f"{name} certificate", _certificate_expiry(path), now_at, "restart `edgefleet up`"
        )
    yield from _check_metadata(fleet, now_at)
    for name in WORKERS:
        seen = read_heartbeat(workspace.server_dir, name).get("at")
        seen_at = datetime.fromisoformat(seen) if isinstance(seen, str) else None
        yield judge_worker(name, seen_at, now_at, is_up=is_up)
    yield from _check_database(fleet)
    yield from check_devices(fleet, now_at)


def _check_metadata(fleet: Fleet, now_at: datetime) -> Iterator[Finding]:
    repository = TufRepository(fleet.workspace.tuf_dir, fleet.workspace.keys_dir, fleet.clock)
    steps = {
        "root": "sign a new root with the root key",
        "targets": "approve a version: it signs targets anew",
    }
    try:
        roles = repository.roles()
    except FleetError as error:
        yield Finding(Grade.BAD, str(error), "restore server/tuf from a backup")
        return
    for name, role in roles.items():
        expires_at = role.expires.replace(tzinfo=UTC)
        online = steps.get(name) is None
        finding = judge_expiry(
            f"{name} metadata", expires_at, now_at, steps.get(name, "run `edgefleet up`")
        )
        if online and finding.grade is Grade.WARNING:
            finding = Finding(Grade.GOOD, finding.what)  # the running server signs these anew
        yield finding


def _check_database(fleet: Fleet) -> Iterator[Finding]:
    try:
        with read_session(fleet.engine) as session:
            state = session.connection().execute(text("PRAGMA quick_check(1)")).scalar()
    except Exception as error:  # noqa: BLE001 - whatever the driver says is the finding
        yield Finding(Grade.BAD, f"control.db: {error}", "restore server/control.db from a backup")
        return
    if state != "ok":
        yield Finding(Grade.BAD, f"control.db: {state}", "restore server/control.db from a backup")
    else:
        yield Finding(Grade.GOOD, "control.db is sound")
    for path in (fleet.workspace.control_db, fleet.workspace.telemetry_db):
        journal = path.with_name(path.name + "-wal")
        if journal.exists():
            yield judge_journal(journal.stat().st_size)


def _attempt(what: str, act: Callable[[], object]) -> Finding:
    try:
        act()
    except FleetError as error:
        return Finding(Grade.BAD, str(error), "see the sentence")
    return Finding(Grade.GOOD, what)


def _mode(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode)
    return None


def _crl_expiry(path: Path) -> datetime | None:
    with contextlib.suppress(OSError, ValueError):
        return x509.load_pem_x509_crl(path.read_bytes()).next_update_utc
    return None


def _certificate_expiry(path: Path) -> datetime | None:
    with contextlib.suppress(OSError, ValueError):
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    return None
