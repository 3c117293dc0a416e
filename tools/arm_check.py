"""Run the agent as a Raspberry Pi would: aarch64, one processor model after another, no board.

A real server trains, signs and rolls out; the agent runs under QEMU with Debian's aarch64 Python
and the pinned wheels (``arm_userland.sh`` makes the folder): join, install, self-test, infer,
telemetry, an update and its rollback. Then the runtime under a running agent is replaced by one
known to die on the processor, as an upgrade of packages would: that must end as a refused
self-test, not as a dead agent, and started again no rollout can be planned for the device.

Says nothing about speed, memory limits, heat or the card of a real board (docs/support_matrix.md).
"""

import argparse
import http.client
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from fleet_server.adapters.window_store import SqliteWindowStore
from fleet_server.cli.in_process import read_in_process
from fleet_server.demo.processes import (
    Background,
    FleetProcesses,
    StepFailedError,
)
from fleet_server.free_ports import find_free_ports

REPOSITORY = Path(__file__).resolve().parent.parent
BOARDS = {
    "cortex-a53": "raspberry-pi-3",
    "cortex-a72": "raspberry-pi-4",
    "cortex-a76": "raspberry-pi-5",
}
DIES_ON = ("cortex-a53", "cortex-a72")
AGENT = ("-m", "edge_agent")
MODEL = "diabetes"
ROW = [59.0, 2.0, 32.1, 101.0, 157.0, 93.2, 38.0, 4.0, 4.86, 87.0]
PATIENCE_S = 240.0


@dataclass(frozen=True, slots=True)
class Device:
    """One emulated board and its agent."""

    cpu: str
    device_id: str
    interpreter: Path
    directory: Path
    port: int


class ArmCheck:
    """Plays every step for every processor; each that does not do what it says fails the check."""

    def __init__(self, userland: Path, root: Path) -> None:
        self.userland = userland
        self.fleet = FleetProcesses(root, read_in_process)

    def run(self, processors: list[str]) -> None:
        """Run it; raises StepFailedError."""
        self._start_server()
        self._release(1)
        for cpu in processors:
            self._check_sound(cpu)
        for cpu in processors:
            if cpu in DIES_ON:
                self._check_broken(cpu)

    def _start_server(self) -> None:
        broker, server, api = (str(port) for port in find_free_ports(3))
        ports = ("--broker-port", broker, "--server-port", server, "--api-port", api)
        self.fleet.run("init", str(self.fleet.workspace), "--fleet", "arm", *ports)
        self.fleet.start_server()
        data = self.fleet.root / "data"
        data.mkdir()
        export = REPOSITORY / "examples/digits/export_diabetes.py"
        self.fleet.run(str(export), str(data / "diabetes.csv"), program="python")
        spec = (REPOSITORY / "examples/digits/diabetes.toml").read_text()
        head = spec.partition("[profiles]")[0]
        profiles = "".join(f"{profile} = {{}}\n" for profile in BOARDS.values())
        (data / "diabetes.toml").write_text(f"{head}[profiles]\n{profiles}")

    def _release(self, version: int) -> None:
        self.fleet.run("train", str(self.fleet.root / "data" / "diabetes.toml"))
        self.fleet.run("model", "approve", MODEL, str(version), "--yes")

    def _check_sound(self, cpu: str) -> None:
        said = Said(cpu)
        device, agent = self._join(cpu, cpu.removeprefix("cortex-"))
        said("joined over mutual TLS")
        first = self._roll_out(1, device.device_id)
        self._wait(lambda: self._slot(device)["state"] == "confirmed", "version 1", agent)
        said("version 1 fetched, self-tested in a child process, confirmed")
        answer = ask(device.port)
        said(f"answers {answer['outputs'][0]['data'][0]:.4g} over HTTP")
        before = self._windows()
        ask(device.port)
        self._wait(lambda: self._windows() > before, "a telemetry window", agent)
        said("a telemetry window has reached the server")
        if not self._has_version(2):
            self._release(2)
        second = self._roll_out(2, device.device_id)
        self._wait(lambda: self._runs(device, 2), "version 2", agent)
        ask(device.port)
        self.fleet.run("rollout", "rollback", str(second), "--reason", "checking the way back")
        self._wait(lambda: self._runs(device, 1), "version 1 again", agent)
        ask(device.port)
        said(f"version 2 installed and rolled back (rollouts {first}, {second})")
        if agent.stop(60) != 0:
            raise StepFailedError(f"{device.device_id} did not end in good order")
        self.fleet.run("device", "revoke", device.device_id, "--reason", "checked")

    def _check_broken(self, cpu: str) -> None:
        said = Said(cpu)
        device, agent = self._join(cpu, f"{cpu.removeprefix('cortex-')}-broken")
        self._wait(lambda: self._capability(device, "onnxruntime"), "its capabilities", agent)
        self._write_interpreter(device.interpreter, cpu, broken=True)
        first = self._roll_out(1, device.device_id)
        self._wait(lambda: self._slot(device).get("state") == "failed", "a refusal", agent)
        slot = self._slot(device)
        if not str(slot["code"]).startswith("selftest-") or not agent.is_alive:
            raise StepFailedError(f"{device.device_id}: {slot}, agent alive: {agent.is_alive}")
        said(f"onnxruntime 1.21.0 is refused as {slot['code']}: {slot['detail'][:100]}")
        self._wait(lambda: self._is_over(first), "the end of the rollout", agent)
        agent.stop(60)
        agent.start()
        self._wait(lambda: self._capability(device, "runtime_fault"), "the fault", agent)
        refused = self.fleet.run(
            "rollout", "plan", MODEL, "1", "--group", f"only-{device.device_id}", expect=1
        )
        if "SIGILL" not in refused.stderr:
            raise StepFailedError(f"{device.device_id}: planned for, or not: {refused.stderr}")
        said("started again it says what its runtime does, and no rollout can be planned for it")
        agent.stop(60)
        self.fleet.run("device", "revoke", device.device_id, "--reason", "checked")

    # The device ---------------------------------------------------------------------------------

    def _join(self, cpu: str, name: str) -> tuple[Device, Background]:
        device = Device(
            cpu=cpu,
            device_id=f"pi-{name}",
            interpreter=self.fleet.root / f"python-{name}",
            directory=self.fleet.root / "devices" / name,
            port=find_free_ports(1)[0],
        )
        self._write_interpreter(device.interpreter, cpu, broken=False)
        added = self.fleet.run("device", "add", device.device_id, "--profile", BOARDS[cpu])
        join = next(word for word in added.stdout.split() if word.startswith("ef1:"))
        place = ("--dir", str(device.directory))
        self.fleet.run(*AGENT, "join", join, *place, program=str(device.interpreter))
        return device, self._start(device)

    def _start(self, device: Device) -> Background:
        place = ("--dir", str(device.directory))
        options = ("--http-port", str(device.port), "--window-s", "2")
        program = str(device.interpreter)
        return self.fleet.start(device.device_id, program, *AGENT, "run", *place, *options)

    def _write_interpreter(self, path: Path, cpu: str, *, broken: bool) -> None:
        """Write what the agent takes for its Python; child processes are started with it too."""
        site = [*([self.userland / "broken"] if broken else []), self.userland / "site", REPOSITORY]
        lines = (
            "#!/bin/sh",
            f"exec {self.userland}/qemu/usr/bin/qemu-aarch64 -0 {path} -cpu {cpu}"
            f" -L {self.userland}/debian -E PYTHONHOME=/usr"
            f" -E PYTHONPATH={':'.join(str(place) for place in site)}"
            f' {self.userland}/debian/usr/bin/python3.11 "$@"',
        )
        half = path.with_suffix(".half")
        half.write_text("\n".join(lines) + "\n")
        half.chmod(0o755)
        half.replace(path)

    # The server ---------------------------------------------------------------------------------

    def _roll_out(self, version: int, device_id: str) -> int:
        group = f"only-{device_id}"
        self.fleet.run("group", "set", group, "--where", f"id={device_id}")
        planned = self.fleet.json(
            "rollout", "plan", MODEL, str(version), "--group", group, "--stages", "100%",
            "--probation", "3s", "--probation-rows", "0", "--on-inconclusive", "advance",
        )  # fmt: skip
        self.fleet.run("rollout", "start", str(planned["id"]))
        return int(planned["id"])

    def _slot(self, device: Device) -> dict[str, Any]:
        shown = self.fleet.json("device", "show", device.device_id)
        slot: dict[str, Any] = shown["slots"].get(MODEL, {"state": "empty", "running": ""})
        return slot

    def _capability(self, device: Device, name: str) -> str:
        """Give what the device says of itself, empty before it does."""
        shown = self.fleet.json("device", "show", device.device_id)
        return str((shown["capabilities"] or {}).get(name) or "")

    def _is_over(self, rollout: int) -> bool:
        return self.fleet.json("rollout", "show", str(rollout))["finished_at"] is not None

    def _runs(self, device: Device, version: int) -> bool:
        slot = self._slot(device)
        running = str(slot["running"])
        return slot["state"] == "confirmed" and running.startswith(f"{MODEL}/{version}/")

    def _windows(self) -> int:
        """Count the windows the server has committed."""
        path = self.fleet.workspace / "server" / "telemetry.db"
        store = SqliteWindowStore(path, retention=timedelta(days=7))
        try:
            return int(store.stats().totals.get("inserted", 0))
        finally:
            store.close()

    def _has_version(self, version: int) -> bool:
        listed = self.fleet.json("model", "ls")
        return any(
            v["version"] == version for m in listed if m["model"] == MODEL for v in m["versions"]
        )

    def _wait(self, is_true: Callable[[], object], what: str, agent: Background) -> None:
        self.fleet.wait(is_true, what=what, timeout_s=PATIENCE_S, alive=agent)


class Said:
    """Prints steps with the processor and the seconds since it began."""

    def __init__(self, cpu: str) -> None:
        self._cpu, self._began_s = cpu, time.monotonic()

    def __call__(self, words: str) -> None:
        """Print one step."""
        seconds = time.monotonic() - self._began_s
        sys.stdout.write(f"{self._cpu:<11} {seconds:5.0f} s  {words}\n")
        sys.stdout.flush()


def ask(port: int) -> dict[str, Any]:
    """Ask the agent for one prediction; raises StepFailedError unless it answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, len(ROW)], "data": ROW}
    try:
        connection.request("POST", f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]}))
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise StepFailedError(f"the agent answered {response.status}: {body[:300]!r}")
    answer: dict[str, Any] = json.loads(body)
    return answer


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Check the processors named, all by default; return 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("userland", type=Path, help="folder made by arm_userland.sh")
    parser.add_argument("root", type=Path, help="new folder for the workspace, devices and logs")
    parser.add_argument("--cpu", action="append", choices=sorted(BOARDS), help="default: all")
    arguments = parser.parse_args()
    arguments.root.mkdir(parents=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)  # which ends what was started, too
    check = ArmCheck(arguments.userland.resolve(), arguments.root.resolve())
    try:
        check.run(arguments.cpu or list(BOARDS))
    except StepFailedError as error:
        sys.stderr.write(f"{error}\n(logs: {check.fleet.log_dir})\n")
        return 1
    finally:
        check.fleet.stop_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
