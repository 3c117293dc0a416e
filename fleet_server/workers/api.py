"""The API's process: HTTPS with the fleet's own certificate."""

import argparse
import logging
from pathlib import Path
from threading import Event, Thread

import uvicorn

from fleet_server.adapters.certificate_authority import CertificateAuthority
from fleet_server.api.app import create_app
from fleet_server.bootstrap import open_fleet
from fleet_server.run_state import beat

BEAT_S = 5.0
KEEP_ALIVE_S = 15
CONCURRENCY_MAX = 256
LOG = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="fleet_server.workers.api", description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    fleet = open_fleet(parser.parse_args().workspace)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    files = CertificateAuthority(fleet.workspace.keys_dir, fleet.clock).files
    config = fleet.workspace.config
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(fleet),
            host=config.bind_host,
            port=config.api_port,
            ssl_certfile=files.certificate("api"),
            ssl_keyfile=files.key("api"),
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_S,
            limit_concurrency=CONCURRENCY_MAX,
            server_header=False,
        )
    )
    stop = Event()

    def pulse() -> None:
        while not stop.wait(0.05 if not server.started else BEAT_S):
            if server.started:
                beat(fleet.workspace.server_dir, "api", fleet.clock)

    Thread(target=pulse, name="heartbeat", daemon=True).start()
    try:
        server.run()
    finally:
        stop.set()


if __name__ == "__main__":
    main()
