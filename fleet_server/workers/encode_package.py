"""Make one encoding in a process of its own: bounded in memory and processor time, and patient.

``python -m fleet_server.workers.encode_package TARGET BASE OUT``: paths of a package, of its base
or ``-``, and of the file that gets the bytes. Says on standard output what it made, one JSON
object, or ``{}`` when package and base are too large for it. The gateway is its parent and ends it
when it takes too long; whatever happens here, the gateway goes on.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from fleet_server.adapters.package_encoder import encode_delta, encode_plain
from fleet_server.adapters.system_clock import SystemClock
from fleet_server.durable_files import write_durable
from fleet_server.errors import FleetError

MEMORY_BYTES_MAX = 2_147_483_648
"""Address space; 60 MiB encoded from 60 MiB take 0.3 GB."""
CPU_S_MAX = 150
WAY_S_MAX = 60.0
"""Another way is not begun, and one under way is dropped, after this long."""
NICE = 10


def encode(target: Path, base: Path | None, out: Path) -> dict[str, Any]:
    """Encode and write the bytes; return what is to be said of them. Raises FleetError."""
    clock = SystemClock()
    began_s = clock.monotonic()

    def is_late() -> bool:
        return clock.monotonic() - began_s > WAY_S_MAX

    if base is None:
        encoded = encode_plain(target.read_bytes(), is_late=is_late)
    else:
        encoded = encode_delta(target.read_bytes(), base.read_bytes(), is_late=is_late)
    if encoded is None:
        return {}
    write_durable(out, encoded.data)
    return {
        "offer": json.loads(encoded.offer.encode()),
        "way": encoded.way,
        "made_s": clock.monotonic() - began_s,
    }


def main(arguments: list[str]) -> int:
    """Run once; exit status 1 with a word on standard error when it cannot be made."""
    target, base, out = arguments
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    try:
        said = encode(Path(target), None if base == "-" else Path(base), Path(out))
    except (FleetError, OSError, MemoryError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
