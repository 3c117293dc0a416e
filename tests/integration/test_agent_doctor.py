"""The doctor: before joining, with a join string, on a joined device; each finding's next step."""

import dataclasses
import hashlib
import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.adapters.device_checks import check_directory, check_libraries
from edge_agent.adapters.enrolment import enrol
from edge_agent.adapters.identity_store import save_facts
from edge_agent.adapters.server_checks import Server, check_server
from edge_agent.cli import main
from edge_agent.contract.join import JoinTicket
from edge_agent.core.checkup import (
    X86_V2,
    Check,
    Level,
    Platform,
    judge_disk,
    judge_memory,
    judge_platform,
    judge_skew,
)
from edge_agent.doctor import run_checks
from fleet_server.bootstrap import Fleet
from fleet_server.free_ports import find_free_ports
from fleet_server.services.add_device import DeviceSpec
from fleet_server.wiring.devices import build_device_desk
from tests.support.agent_device import enrolled_device
from tests.support.clock import FakeClock
from tests.support.trust_fleet import enrol_server, make_fleet

GOOD = Platform(
    python=(3, 11),
    implementation="CPython",
    machine="x86_64",
    bits=64,
    libc="glibc",
    libc_version="2.36",
    flags=X86_V2,
)
NOW_AT = datetime(2026, 6, 1, tzinfo=UTC)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["doctor", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def ticket(api_port: int, mqtt_port: int, *, ca_sha256: str = "0" * 64) -> JoinTicket:
    return JoinTicket(
        host="127.0.0.1",
        api_port=api_port,
        mqtt_port=mqtt_port,
        fleet="fleet-1",
        device_id="cam-7",
        ca_sha256=ca_sha256,
        root_sha256="0" * 64,
        secret="do-not-tell-anyone",
    )


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_a_sound_device_that_has_not_joined_is_told_to_join(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "--dir", str(tmp_path / "none"))
    assert (code, err) == (0, "")
    for name in ("python", "machine", "libc", "libraries", "numpy", "runtime", "clock", "disk"):
        assert f"ok   {name} " in out
    assert "warn identity" in out
    assert "next: on the server `edgefleet device add`" in out
    assert not (tmp_path / "none").exists()


def test_a_server_out_of_reach_is_code_three_before_joining(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api, mqtt = find_free_ports(2)
    string = ticket(api, mqtt).encode()
    code, out, err = run(capsys, "--json", "--join", string, "--dir", str(tmp_path / "none"))
    assert code == 3
    rows = {row["check"]: row for row in json.loads(out)}
    assert not rows["api"]["ok"]
    assert str(api) in rows["api"]["detail"]
    assert "edgefleet up" in rows["api"]["next"]
    assert str(mqtt) in rows["broker"]["detail"]
    assert "do-not-tell-anyone" not in out + err
    enrolled_device(tmp_path, mqtt_port=mqtt, api_port=api)
    code, out, _ = run(capsys, "--dir", str(tmp_path))
    assert "ok   identity   cam-7 of fleet fleet-1, profile camera" in out
    assert (code, "FAIL server" in out) == (1, True)  # its certificates are damaged
    assert "next: join again with a new join string" in out


def test_a_mistyped_join_string_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "--join", "ef1:nonsense", "--dir", str(tmp_path))
    assert code == 1
    assert "FAIL server" in out
    assert "next: copy the whole string" in out


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        ({"python": (3, 10)}, "python", Level.BAD, "install python3.13"),
        ({"python": (3, 14)}, "python", Level.BAD, "CPython 3.11 to 3.13"),
        ({"implementation": "PyPy"}, "python", Level.BAD, "CPython"),
        ({"machine": "armv7l", "bits": 32}, "machine", Level.BAD, "no wheel for this machine"),
        ({"machine": "aarch64", "bits": 32}, "machine", Level.BAD, "install a 64-bit system"),
        ({"libc": "", "libc_version": ""}, "libc", Level.BAD, "not Alpine"),
        ({"libc_version": "2.27"}, "libc", Level.BAD, "2.28 or newer"),
        ({"libc_version": "2.28"}, "libc", Level.OK, ""),
        ({"flags": X86_V2 - {"sse4_2"}}, "processor", Level.BAD, "lacks sse4_2"),
        ({"machine": "aarch64", "flags": frozenset({"asimd"})}, "processor", Level.WARN, "asimddp"),
        ({"flags": frozenset()}, "processor", Level.OK, "does not say"),
    ],
)
def test_a_system_without_wheels_is_told_why(
    changes: dict[str, object], name: str, level: Level, words: str
) -> None:
    checks = judge_platform(dataclasses.replace(GOOD, **changes))  # type: ignore[arg-type] # by name
    check = named(checks, name)
    assert check.level is level
    assert words in f"{check.detail} {check.next_step}"
    assert [other for other in checks if other.is_bad and other.name != name] == []


def test_a_sound_platform_has_no_findings() -> None:
    assert all(check.level is Level.OK and not check.next_step for check in judge_platform(GOOD))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os.kill(os.getpid(), 4)", "illegal instruction"),
        ("import os; os.kill(os.getpid(), 11)", "died of SIGSEGV"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import signal; signal.pause()", "did not come up in 1 s"),
    ],
)
def test_a_library_that_kills_its_process_is_a_finding(program: str, words: str) -> None:
    (check,) = check_libraries({"runtime": program}, timeout_s=1)
    assert check.is_bad
    assert words in check.detail
    assert check.next_step


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(0, Level.OK), (60, Level.OK), (61, Level.WARN), (-3_600, Level.WARN), (3_601, Level.BAD)],
)
def test_skew_is_judged_both_ways(seconds: int, level: Level) -> None:
    check = judge_skew(NOW_AT + timedelta(seconds=seconds), NOW_AT, "the server")
    assert check.level is level
    assert str(abs(seconds)) in check.detail


def test_room_and_memory_have_limits() -> None:
    assert judge_disk("/x", free_bytes=67_108_863, free_inodes=None).is_bad
    assert not judge_disk("/x", free_bytes=67_108_864, free_inodes=1_000).is_bad
    assert judge_disk("/x", free_bytes=2**40, free_inodes=999).is_bad
    small = judge_memory(total_bytes=2**27, free_bytes=2**20, profile_bytes=2**28)
    assert small.is_bad
    assert "the profile says 256" in small.detail
    tight = judge_memory(total_bytes=2**30, free_bytes=2**20, profile_bytes=2**28)
    assert tight.level is Level.WARN


def test_a_directory_that_cannot_be_looked_at_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = str(tmp_path / ("a" * 300))  # as for another account; root has every right
    code, out, err = run(capsys, "--dir", hidden)
    assert (code, err) == (1, "")
    assert "FAIL directory" in out
    assert "FAIL identity" in out
    for arguments in (["join", "ef1:x"], ["status"], ["run"], ["predict", "rows.csv"]):
        assert main([*arguments, "--dir", hidden]) in (1, 2, 3)
        assert "File name too long" in capsys.readouterr().err


def test_a_clock_before_this_agent_was_made_is_named(tmp_path: Path) -> None:
    clock = FakeClock(datetime(1970, 1, 1, 0, 7, tzinfo=UTC))
    check = named(run_checks(tmp_path / "none", clock=clock), "clock")
    assert check.is_bad
    assert "set the clock" in check.next_step


def test_keys_that_others_may_read_and_directories_nobody_writes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = enrolled_device(tmp_path / "agent")
    assert not any(check.is_bad for check in check_directory(directory))
    (directory / "identity" / "device.key").chmod(0o644)
    rights = named(list(check_directory(directory)), "rights")
    assert rights.is_bad
    assert rights.next_step == f"chmod 600 {directory}/identity/device.key"
    (directory / "doctor.tmp").mkdir()
    (directory / "doctor.tmp.tmp").mkdir()
    assert named(list(check_directory(directory)), "directory").is_bad
    (directory / "agent.toml").write_text("window_s = 5\n[row_samples]\nshare = 0.5\n")
    code, out, _ = run(capsys, "--dir", str(directory))
    assert code != 0
    assert "FAIL directory" in out
    assert "2 set: window_s, [row_samples]" in out


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, int]]:
    fleet = make_fleet(tmp_path_factory.mktemp("site"), FakeClock(datetime.now(UTC)))
    with enrol_server(fleet) as server:
        yield fleet, server.port
    fleet.engine.dispose()


def test_a_join_string_is_tried_before_joining_and_the_server_after(
    site: tuple[Fleet, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, port = site
    added = build_device_desk(fleet).add(DeviceSpec(id="cam-7", profile="camera", labels={}))
    string = dataclasses.replace(added, api_port=port, mqtt_port=port).encode()
    code, out, _ = run(capsys, "--join", string, "--dir", str(tmp_path))
    assert code == 0, out
    assert "ok   server     cam-7 may join fleet" in out
    assert f"ok   api        127.0.0.1:{port} answers" in out
    assert "ok   skew " in out
    assert f"ok   broker     127.0.0.1:{port} answers with TLSv1.3" in out
    assert added.secret not in out
    joined = enrol(string, tmp_path)
    save_facts(dataclasses.replace(joined, mqtt_port=port))
    code, out, _ = run(capsys, "--dir", str(tmp_path))
    assert code == 0, out
    assert "ok   broker" in out
    assert "ok   rights     keys are private" in out
    (nobody,) = find_free_ports(1)
    save_facts(dataclasses.replace(joined, mqtt_port=nobody))
    code, out, _ = run(capsys, "--dir", str(tmp_path))
    assert code == 3
    assert f"FAIL broker     127.0.0.1:{nobody} cannot be reached" in out


def test_another_authority_than_the_strings_and_a_wrong_clock_are_named(
    site: tuple[Fleet, int],
) -> None:
    fleet, port = site
    pem = (fleet.workspace.keys_dir / "ca.pem").read_text()
    sha256 = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    server = Server(host="127.0.0.1", api_port=port, mqtt_port=port, ca_sha256="1" * 64)
    late = FakeClock(datetime.now(UTC) - timedelta(hours=2))
    checks = list(check_server(server, late))
    assert named(checks, "api").is_bad
    assert "not the one the join string pins" in named(checks, "api").detail
    assert named(checks, "broker").level is Level.WARN
    checks = list(check_server(dataclasses.replace(server, ca_sha256=sha256), late))
    assert [named(checks, name).level for name in ("api", "broker")] == [Level.OK, Level.OK]
    assert named(checks, "skew").is_bad
    assert "behind the server's clock" in named(checks, "skew").detail
