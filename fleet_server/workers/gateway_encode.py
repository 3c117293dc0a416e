"""The gateway's loop that has encodings made, one at a time: large ones in a child process.

The gateway may be killed at any moment: a half made encoding is a file in the scratch folder, which
the next start empties; who wanted it asks again.
"""

import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Event
from typing import Any

from edge_agent.contract.errors import ContractError
from edge_agent.contract.transfer import PackageOffer
from fleet_server.adapters.object_store import ObjectStore
from fleet_server.adapters.package_encoder import is_worth
from fleet_server.errors import FleetError
from fleet_server.ports.encodings import Pair, StoredEncoding
from fleet_server.services.offer_encodings import IDENTITY, OfferEncodings
from fleet_server.workers.encode_package import encode
from fleet_server.workers.gateway_loops import IDLE_S, Loop

SMALL_BYTES = 1_048_576
"""Package and base together: up to this much takes a tenth of a second and 30 MB here, less than to
start a process; a family has thousands of such packages."""
TIMEOUT_S = 180.0
POLL_S = 0.05
SAID_CHARS_MAX = 4_096
_LOG = logging.getLogger(__name__)


class EncodeLoop(Loop):
    """Takes pairs that are wanted and has them made.

    Args:
        offers: Who wants what.
        objects: Packages.
        scratch: Folder for what is half made; emptied now.
        stop: Ends it, and a child under way.
    """

    def __init__(
        self, offers: OfferEncodings, objects: ObjectStore, scratch: Path, stop: Event
    ) -> None:
        super().__init__("encodings", stop)
        self._offers, self._objects, self._scratch = offers, objects, scratch
        scratch.mkdir(parents=True, exist_ok=True)
        for left_over in scratch.iterdir():
            left_over.unlink()

    def turn(self) -> None:
        """Make one encoding, or wait a little for a wish."""
        pair = self._offers.take_work(IDLE_S)
        if pair is None:
            return
        out = self._scratch / f"{pair.target[:16]}-{pair.base[:16]}"
        try:
            self._offers.finish_work(*self._make(pair, out))
        except (FleetError, ContractError, OSError, ValueError, KeyError) as error:
            self._offers.fail_work(pair, str(error))
        finally:
            out.unlink(missing_ok=True)

    def _make(self, pair: Pair, out: Path) -> tuple[StoredEncoding, bytes]:
        package_bytes = self._objects.size_bytes(pair.target)
        target = self._objects.path(pair.target)
        base = self._objects.path(pair.base) if pair.base else None
        together = package_bytes + (base.stat().st_size if base is not None else 0)
        run = encode if together <= SMALL_BYTES else self._run_child
        said = run(target, base, out)
        data = out.read_bytes() if said else b""
        plain = self._offers.find_plain(pair.target) if pair.base else None
        best = plain.offer.size_bytes if plain is not None else 0
        is_chosen = bool(said) and is_worth(len(data), best or package_bytes)
        encoding = StoredEncoding(
            pair=pair,
            offer=PackageOffer.decode(json.dumps(said["offer"]).encode())
            if is_chosen
            else IDENTITY,
            way=str(said["way"]) if is_chosen else "",
            package_bytes=package_bytes,
            made_s=float(said["made_s"]) if said else 0.0,
        )
        return encoding, data if is_chosen else b""

    def _run_child(self, target: Path, base: Path | None, out: Path) -> dict[str, Any]:
        """Run the child to its end; raises FleetError when it fails, is late or we stop."""
        command = [sys.executable, "-m", "fleet_server.workers.encode_package"]
        command += [str(target), str(base) if base is not None else "-", str(out)]
        with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as wrong:
            child = subprocess.Popen(  # noqa: S603 - our own module on our own files
                command, stdin=subprocess.DEVNULL, stdout=told, stderr=wrong
            )
            status = self._wait(child)
            told.seek(0)
            wrong.seek(0)
            if status != 0:
                words = wrong.read(SAID_CHARS_MAX).decode(errors="replace").strip()
                raise FleetError(f"exit status {status} {words[-200:]}")
            said: dict[str, Any] = json.loads(told.read(SAID_CHARS_MAX))
            return said

    def _wait(self, child: "subprocess.Popen[bytes]") -> int:
        for _ in range(int(TIMEOUT_S / POLL_S)):
            status = child.poll()
            if status is not None:
                return status
            if self._stop.wait(POLL_S):
                break
        child.kill()
        child.wait()
        raise FleetError(f"not made within {TIMEOUT_S:.0f} s, or the gateway stops")
