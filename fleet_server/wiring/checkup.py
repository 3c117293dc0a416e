"""Look at a workspace for ``edgefleet doctor``; the judging is ``core/checkup.py``."""

import contextlib
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

from cryptography import x509
from sqlalchemy import text

from fleet_server.adapters.authority_files import CertificateFiles
from fleet_server.adapters.broker_process import check_port_is_free, find_mosquitto
from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.sample_book import DatabaseSampleBook
from fleet_server.bootstrap import Fleet
from fleet_server.core.checkup import (
    Finding,
    Grade,
    judge_disk,
    judge_expiry,
    judge_journal,
    judge_key_mode,
    judge_waiting_samples,
    judge_worker,
)
from fleet_server.errors import FleetError
from fleet_server.run_state import is_running, read_heartbeat
from fleet_server.wiring.broker import check_external_broker
from fleet_server.wiring.checkup_devices import check_devices
from fleet_server.wiring.checkup_keys import check_metadata, check_operator_keys, check_pending

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
    yield check_operator_keys(fleet)
    files = CertificateFiles(workspace.keys_dir)
    yield judge_expiry(
        "revocation list", _crl_expiry(files.crl), now_at, "run `edgefleet up`, which renews it"
    )
    for name in ("broker", "api", "server"):
        path = files.certificate(name)
        yield judge_expiry(
            f"{name} certificate", _certificate_expiry(path), now_at, "restart `edgefleet up`"
        )
    yield from check_metadata(fleet, now_at)
    yield from check_pending(fleet, now_at)
    for name in WORKERS:
        seen = read_heartbeat(workspace.server_dir, name).get("at")
        seen_at = datetime.fromisoformat(seen) if isinstance(seen, str) else None
        yield judge_worker(name, seen_at, now_at, is_up=is_up)
    yield from _check_database(fleet, now_at)
    yield from check_devices(fleet, now_at)


def _check_database(fleet: Fleet, now_at: datetime) -> Iterator[Finding]:
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
    yield judge_waiting_samples(*DatabaseSampleBook(fleet.engine).weigh_waiting(), now_at)
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
