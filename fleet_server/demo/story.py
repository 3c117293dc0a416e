"""The demo's story: six acts, each of which fails the demo when it does not do what it says."""

import json
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fleet_server.demo.field import (
    BRIGHTNESS,
    Digits,
    brighten,
    invert,
    load_digits,
    write_spec,
    write_table,
)
from fleet_server.demo.processes import (
    Background,
    FleetProcesses,
    Reader,
    StepFailedError,
)
from fleet_server.demo.traffic import Application, brighter
from fleet_server.free_ports import find_free_ports

MODEL = "digits"
PROFILES = ("camera", "iot-gateway", "onprem-server")
AGENTS_PER_PROFILE = 2
SIMULATED = 100
WINDOW_S = 2.0
ASK_INTERVAL_S = 0.05
GOOD_ACCURACY = 0.90
BAD_ACCURACY = 0.60
SETTINGS = {"controller_period_s": 0.5, "drift_period_s": 3.0}
ROLLOUT_S_MAX = 90.0
ALARM_S_MAX = 60.0
IN_FLIGHT = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the summary."""

    step: str
    seen: str
    seconds: float


class Demo:
    """Plays the story once over one folder."""

    def __init__(self, root: Path, console: Console, read: Reader | None = None) -> None:
        self.fleet = FleetProcesses(root, read)
        self.console = console
        self.rows: list[Row] = []
        self.digits: Digits = load_digits()
        self.applications: dict[str, Application] = {}
        self.drift_switch = root / "field-drift"
        self._started_s = time.monotonic()

    # The acts -----------------------------------------------------------------------------------

    def play(self) -> None:
        """Play every act.

        Raises:
            StepFailedError: An act did not do what it says; the sentence tells which.
        """
        self._act("A workspace and its server", self._start_server)
        self._act("Train version 1, build it for three kinds of device", self._train_first)
        self._act("Six agents and a hundred simulated devices join", self._join_devices)
        self._act("Roll version 1 out in three stages", self._roll_out_first)
        self._act("Local applications read digits", self._watch_accuracy)
        self._act("Version 2 looks good offline and is worse in the field", self._stop_second)
        self._act("The cameras' lamp is changed: brightness shifts", self._drift)
        self._act("Version 3, trained on what the cameras see now", self._recover)

    def stop(self) -> None:
        """Stop everything this demo started."""
        for application in self.applications.values():
            application.stop()
        self.fleet.stop_all()

    def summary(self) -> Table:
        """Build the closing table."""
        table = Table(title="What was seen", title_justify="left")
        for column in ("step", "seen", "seconds"):
            table.add_column(column, justify="right" if column == "seconds" else "left")
        for row in self.rows:
            table.add_row(row.step, row.seen, f"{row.seconds:.0f}")
        return table

    def _act(self, title: str, play: Callable[[], str]) -> None:
        number = len(self.rows) + 1
        self.console.print(f"\n[bold]{number}. {title}[/bold]")
        started = time.monotonic()
        with self.console.status("working ..."):
            seen = play()
        seconds = time.monotonic() - started
        self.console.print(f"   {seen} [dim]({seconds:.0f} s)[/dim]")
        self.rows.append(Row(title, seen, seconds))

    def _say(self, text: str) -> None:
        self.console.print(f"   {text}")

    # 1, 2, 3 ------------------------------------------------------------------------------------

    def _start_server(self) -> str:
        broker, server, api = (str(p) for p in find_free_ports(3))
        ports = ("--broker-port", broker, "--server-port", server, "--api-port", api)
        self.fleet.run("init", str(self.fleet.workspace), "--fleet", "demo", *ports)
        config = self.fleet.workspace / "edgefleet.toml"
        lines = [
            line for line in config.read_text().splitlines() if line.split(" ")[0] not in SETTINGS
        ]
        config.write_text("\n".join([*lines, *(f"{k} = {v}" for k, v in SETTINGS.items())]) + "\n")
        words = self.fleet.start_server().last_words().splitlines()
        return next(word for word in words if word.startswith("ready"))

    def _train_first(self) -> str:
        spec = write_spec(
            self.fleet.root / "data", "v1", self.digits.train_pixels, self.digits.train_digits
        )
        return self._train_and_approve(spec, 1)

    def _train_and_approve(self, spec: Path, version: int) -> str:
        self.fleet.run("train", str(spec))
        shown = self.fleet.json("model", "show", MODEL, str(version))
        table = Table(box=None, padding=(0, 2, 0, 3))
        for column in ("profile", "precision", "bytes", "p95", "flips"):
            table.add_column(column)
        for a in shown["artifacts"]:
            table.add_row(
                a["profile"],
                a["precision"],
                f"{a['size_bytes']:,}",
                f"{a['latency_ms_p95']:.3f} ms",
                f"{a['label_flips']:.2%}",
            )
        self.console.print(table)
        for a in shown["artifacts"]:
            self._say(f"[dim]{a['profile']}: {a['precision']}, {shorten(a['decision'])}[/dim]")
        self.fleet.run("model", "approve", MODEL, str(version), "--yes")
        accuracy = shown["metrics"]["accuracy"]
        return (
            f"version {version}: accuracy {accuracy:.3f} on held-out rows, signed by the approver"
        )

    def _join_devices(self) -> str:
        ports = find_free_ports(len(PROFILES) * AGENTS_PER_PROFILE)
        places = [(f"{p}-{n}", p) for p in PROFILES for n in range(1, AGENTS_PER_PROFILE + 1)]

        def join(place: tuple[tuple[str, str], int]) -> None:
            (device_id, profile), port = place
            self.fleet.start_agent(
                device_id,
                profile,
                "--http-port",
                str(port),
                "--window-s",
                str(WINDOW_S),
                labels=("kind=real",),
            )
            self.applications[device_id] = self._application(device_id, port)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(join, zip(places, ports, strict=True)))
        self._start_simulation()
        self.fleet.wait(
            lambda: sum(d["state"] == "online" for d in self._devices()) == len(places) + SIMULATED,
            what="all devices to be online",
            timeout_s=60,
        )
        for group, query in (("cameras", "profile=camera"), ("everything", "all")):
            self.fleet.run("group", "set", group, "--where", query)
        return f"{len(places)} agent processes and {SIMULATED} simulated devices are online"

    def _start_simulation(self) -> Background:
        rows = self.fleet.root / "data" / "field.csv"
        write_table(rows, self.digits.field_pixels, self.digits.field_digits)
        return self.fleet.start(
            "simulation",
            "fleet-sim",
            "load",
            "--devices",
            str(SIMULATED),
            "--workspace",
            str(self.fleet.workspace),
            "--rows",
            str(rows),
            "--profiles",
            ",".join(PROFILES),
            "--window-s",
            str(WINDOW_S),
            "--drift",
            f"brightness:{BRIGHTNESS:+g}",
            "--drift-when",
            str(self.drift_switch),
            "--drift-profile",
            "camera",
        )

    def _application(self, device_id: str, port: int) -> Application:
        images = [
            ([float(v) for v in row], str(digit))
            for row, digit in zip(
                self.digits.field_pixels.tolist(), self.digits.field_digits.tolist(), strict=True
            )
        ]
        turned = len(device_id) * 37 % len(images)
        return Application(
            device_id,
            port,
            MODEL,
            [*images[turned:], *images[:turned]],
            interval_s=ASK_INTERVAL_S,
        )

    # 4, 5 ---------------------------------------------------------------------------------------

    def _roll_out_first(self) -> str:
        for application in self.applications.values():
            application.start()
        rollout = self._roll_out(1, "everything", "5%,25%,100%")
        self._wait_for_state(rollout, "completed")
        return f"completed: {self._count_running(1)} devices run version 1"

    def _roll_out(self, version: int, group: str, stages: str) -> int:
        planned = self.fleet.json(
            "rollout", "plan", MODEL, str(version), "--group", group, "--stages", stages,
            "--probation", "3s", "--probation-rows", "60", "--on-inconclusive", "advance",
            "--max-parallel", str(IN_FLIGHT),
        )  # fmt: skip
        rollout = int(planned["id"])
        self.fleet.run("rollout", "start", str(rollout))
        return rollout

    def _wait_for_state(self, rollout: int, wanted: str) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        said = ""

        def has_ended() -> bool:
            nonlocal shown, said
            shown = self.fleet.json("rollout", "show", str(rollout))
            if shown["sentence"] != said:
                said = shown["sentence"]
                self._say(f"[dim]{shown['state']}: {said}[/dim]")
            return shown["state"] in ("completed", "rolled_back", "aborted", "paused")

        self.fleet.wait(has_ended, what=f"rollout {rollout} to end", timeout_s=ROLLOUT_S_MAX)
        if shown["state"] != wanted:
            raise StepFailedError(
                f"rollout {rollout} ended as {shown['state']}, not {wanted}: {shown['sentence']}"
            )
        return shown

    def _watch_accuracy(self) -> str:
        return f"live accuracy {self._wait_for_accuracy(PROFILES, GOOD_ACCURACY, at_least=True)}"

    def _wait_for_accuracy(
        self, profiles: Sequence[str], limit: float, *, at_least: bool, version: str = ""
    ) -> str:
        watched = [a for a in self.applications.values() if a.device_id.startswith(tuple(profiles))]

        def holds() -> bool:
            seen = [a.answers() for a in watched]
            return all(
                len(s.at_version) >= 60
                and (s.accuracy >= limit) == at_least
                and (not version or s.version == version)
                for s in seen
            )

        words = f"accuracy {'of at least' if at_least else 'below'} {limit:.0%} on {profiles}"
        self.fleet.wait(holds, what=words, timeout_s=45)
        mean = float(np.mean([a.answers().accuracy for a in watched]))
        return f"{mean:.1%} on {', '.join(a.device_id for a in watched)}"

    # 6 ------------------------------------------------------------------------------------------

    def _stop_second(self) -> str:
        self._say("its training export had ink and paper swapped; nobody noticed")
        spec = write_spec(
            self.fleet.root / "data",
            "v2",
            invert(self.digits.train_pixels),
            self.digits.train_digits,
        )
        self._say(self._train_and_approve(spec, 2))
        rollout = self._roll_out(2, "everything", "5%,25%,100%")
        shown = self._wait_for_state(rollout, "rolled_back")
        reached = [s for s in shown["stages"] if set(s["outcomes"]) - {"pending"}]
        if len(reached) != 1:
            raise StepFailedError(f"version 2 reached {len(reached)} stages, not one")
        still = self._count_running(2)
        if still:
            raise StepFailedError(f"{still} devices still run version 2")
        live = self._wait_for_accuracy(PROFILES, GOOD_ACCURACY, at_least=True, version="1")
        return (
            f"halted at its first stage of {reached[0]['devices']} of"
            f" {len(self.applications) + SIMULATED} devices, rolled back on its own;"
            f" live accuracy {live}"
        )

    # 7 ------------------------------------------------------------------------------------------

    def _drift(self) -> str:
        self.drift_switch.touch()
        for device_id, application in self.applications.items():
            if device_id.startswith("camera"):
                application.change(partial(brighter, by=BRIGHTNESS))
        live = self._wait_for_accuracy(("camera",), BAD_ACCURACY, at_least=False)
        self._say(f"live accuracy {live}; no label has reached the server")
        alarm: dict[str, Any] = {}

        def is_open() -> bool:
            for found in self.fleet.json("drift", "alarms"):
                if found["level"] == "group" and found["state"] == "open":
                    alarm.update(found)
            return bool(alarm)

        self.fleet.wait(is_open, what="a drift alarm of a group", timeout_s=ALARM_S_MAX)
        features = alarm["features"]
        if alarm["subject"] != "cameras" or not any(f.startswith("pixels") for f in features):
            raise StepFailedError(f"the alarm names {alarm['subject']} and {features[:5]}")
        return f"alarm: {alarm['sentence']}"

    # 8 ------------------------------------------------------------------------------------------

    def _recover(self) -> str:
        spec = write_spec(
            self.fleet.root / "data",
            "v3",
            brighten(self.digits.train_pixels),
            self.digits.train_digits,
        )
        self._say(self._train_and_approve(spec, 3))
        rollout = self._roll_out(3, "cameras", "20%,100%")
        self._wait_for_state(rollout, "completed")
        live = self._wait_for_accuracy(("camera",), GOOD_ACCURACY, at_least=True, version="3")
        seen = {a.device_id: a.answers() for a in self.applications.values()}
        broken = {name: s.failures for name, s in seen.items() if s.failed}
        if broken:
            raise StepFailedError(f"requests failed: {json.dumps(broken)[:500]}")
        asked = sum(s.asked for s in seen.values())
        self._say(f"{asked:,} requests over HTTP in all, none failed across the swaps")
        return f"live accuracy {live}"

    def _devices(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.fleet.json("device", "ls", "--all")
        return listed

    def _count_running(self, version: int) -> int:
        slots = (d["slots"].get(MODEL, {}) for d in self._devices())
        return sum(s.get("running", "").startswith(f"{MODEL}/{version}/") for s in slots)


def shorten(decision: str) -> str:
    """Keep the first reason of a decision, without the figures that have columns of their own.

    >>> shorten("fp32: int8_dynamic does not help (1.10 x the latency); int8_static neither")
    'int8_dynamic does not help'
    """
    words = re.sub(r"\([^()]*(?:\([^()]*\)[^()]*)*\)", "", decision.partition(": ")[2])
    return re.sub(r"\s+", " ", re.split("[;,]", words)[0]).strip()
