"""The API's process: HTTPS with the fleet's own certificate.

Without TLS on 127.0.0.1 alone, under ``edgefleet up --insecure-loopback``.
"""

import argparse
import logging
from pathlib import Path
from threading import Event, Thread

from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.api.app import create_app
from fleet_server.api.serving import allow_files, make_server
from fleet_server.bootstrap import open_fleet
from fleet_server.run_state import beat
from fleet_server.services.verify_audit import HeadFollower
from fleet_server.wiring.audit import build_head_follower
from fleet_server.wiring.workspace import check_insecure
from fleet_server.workers.supervisor import INSECURE_FLAG

BEAT_S = 5.0
LOG = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="fleet_server.workers.api", description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument(INSECURE_FLAG, action="store_true")
    options = parser.parse_args()
    fleet = open_fleet(options.workspace)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    files = CertificateAuthority(fleet.workspace.keys_dir, fleet.clock).files
    config = fleet.workspace.config
    is_secure = not options.insecure_loopback
    if not is_secure:
        check_insecure(config)
    allow_files()
    server = make_server(
        create_app(fleet),
        host=config.bind_host,
        port=config.api_port,
        certificate=Path(files.certificate("api")) if is_secure else None,
        key=Path(files.key("api")) if is_secure else None,
    )
    follower = build_head_follower(fleet)
    stop = Event()

    def pulse() -> None:
        while not stop.wait(0.05 if not server.started else BEAT_S):
            if server.started:
                said = follow_audit(follower)
                beat(fleet.workspace.server_dir, "api", fleet.clock, {"audit": said})

    Thread(target=pulse, name="heartbeat", daemon=True).start()
    try:
        server.run()
    finally:
        stop.set()


def follow_audit(follower: HeadFollower) -> str:
    """Let the audit log's head be remembered; return what is wrong, or ``whole``."""
    try:
        follower.follow()
    except Exception:  # a door: a busy database is asked again at the next beat
        LOG.exception("the audit log could not be looked at")
        return "unknown"
    if follower.alarm:
        LOG.error("%s", follower.alarm)
    return follower.alarm or "whole"


if __name__ == "__main__":
    main()
