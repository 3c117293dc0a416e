"""Finds what is missing or wrong on this device, one finding each, in the order things break.

Before a device has joined it tells whether this system can be one; with a join string it tries the
server, too. No outside library is imported before it was tried in a child process.
"""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from device_profiles.catalog import load_profile
from device_profiles.errors import ProfileError
from device_profiles.profile import DeviceProfile
from edge_agent.adapters.calibration_file import (
    load_calibration,
    measure_device,
    save_calibration,
)
from edge_agent.adapters.capability_probe import ChildProbe
from edge_agent.adapters.device_checks import (
    check_directory,
    check_libraries,
    check_memory,
    check_platform,
)
from edge_agent.adapters.execution_providers import ProviderWish
from edge_agent.adapters.identity_store import is_enrolled, load_identity
from edge_agent.adapters.server_checks import check_server, server_of_identity, server_of_ticket
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.contract.errors import ContractError
from edge_agent.contract.join import JoinTicket
from edge_agent.core.checkup import Check, Level, judge_capabilities, judge_speed
from edge_agent.core.clock_check import SET_IT
from edge_agent.core.verified import EARLIEST_AT
from edge_agent.errors import AgentError, SettingsError, StorageError
from edge_agent.ports import Clock, Identity
from edge_agent.settings import find_settings
from edge_agent.settings_check import check_settings, read_sections

BUILT_AT = datetime(2026, 1, 1, tzinfo=UTC)
"""No clock that is right says less: this code is not older. One without a battery says 1970."""


def run_checks(
    directory: Path,
    *,
    join_string: str | None = None,
    clock: Clock | None = None,
    is_calibrating: bool = False,
) -> list[Check]:
    """Run every check that makes sense; never raises for what it finds.

    Args:
        directory: The agent's; it need not exist.
        join_string: Its server is looked at, too.
        clock: For tests.
        is_calibrating: Measure the reference graphs and remember the figures.
    """
    clock = clock or SystemClock()
    identity, found = _find_identity(directory)
    checks = [*check_platform(), *check_libraries()]
    is_runnable = not any(check.is_bad for check in checks)
    if is_runnable:
        checks += _check_speed(identity, directory, is_calibrating=is_calibrating)
    checks += [_check_clock(clock, identity, directory, is_runnable=is_runnable)]
    checks += [*check_directory(directory), check_memory(_find_ram_need(identity, directory))]
    checks += [_guarded("settings", lambda: _describe_settings(directory)), found]
    if identity is not None and is_runnable:
        checks.append(_guarded("state", lambda: _describe_state(directory)))
    return [*checks, *_check_server(identity, join_string, clock)]


def describe_check(check: Check) -> str:
    """Write one finding for people."""
    mark = {Level.OK: "ok  ", Level.WARN: "warn", Level.BAD: "FAIL"}[check.level]
    line = f"{mark} {check.name:<10} {check.detail}"
    if check.next_step:
        line += f"\n     {'':<10} next: {check.next_step}"
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in line)


def _check_speed(
    identity: Identity | None, directory: Path, *, is_calibrating: bool
) -> Iterator[Check]:
    """Say what the runtime offers and how fast it is; measure that first if asked."""
    found, fault = load_calibration(directory), ""
    profile = _find_profile(identity, directory)
    if is_calibrating:
        try:
            found = measure_device(profile.intra_op_threads if profile is not None else 1)
            if directory.is_dir():
                save_calibration(directory, found)
        except AgentError as error:
            fault = str(error)
    wish = ProviderWish.of(profile) if profile is not None else ProviderWish()
    known = dict(ChildProbe(directory, wish=wish).probe())
    if found is not None:
        known["calibration"] = found.to_json()
    yield judge_capabilities(known)
    if fault:
        yield Check(name="speed", level=Level.BAD, detail=fault)
    else:
        unkept = is_calibrating and not directory.is_dir()
        ms = found.ms if found is not None else None
        yield judge_speed(ms, missing=str(directory) if unkept else "")


def _find_identity(directory: Path) -> tuple[Identity | None, Check]:
    name = "identity"
    try:
        if not is_enrolled(directory):
            detail = f"{directory} holds none: this device has not joined a fleet"
            step = "on the server `edgefleet device add`, then here `edge-agent join STRING`"
            return None, Check(name=name, level=Level.WARN, detail=detail, next_step=step)
        identity = load_identity(directory)
    except StorageError as error:
        step = "run it as the agent's account: sudo -u edge-agent edge-agent doctor --dir DIR"
        return None, Check(name=name, level=Level.BAD, detail=error.detail, next_step=step)
    except AgentError as error:
        return None, Check(name=name, level=Level.BAD, detail=str(error))
    named = f"{identity.device_id} of fleet {identity.fleet}, profile {identity.profile}"
    return identity, Check(name=name, level=Level.OK, detail=named)


def _check_clock(
    clock: Clock, identity: Identity | None, directory: Path, *, is_runnable: bool
) -> Check:
    now_at = clock.now()
    if now_at < BUILT_AT:
        detail = f"the clock says {now_at:%Y-%m-%d %H:%M} UTC, before this agent was made"
        return Check(name="clock", level=Level.BAD, detail=detail, next_step=SET_IT)
    if identity is not None and is_runnable:
        from edge_agent.local_clock import look_at_clock
        from edge_agent.local_state import load_state

        floor_at = EARLIEST_AT
        with contextlib.suppress(AgentError):  # the check of the state says so
            floor_at = load_state(directory).accepted.time_floor_at
        fault = look_at_clock(clock, identity, floor_at).fault
        if fault:
            return Check(name="clock", level=Level.BAD, detail=fault)
    return Check(name="clock", level=Level.OK, detail=f"{now_at:%Y-%m-%d %H:%M:%S} UTC")


def _find_ram_need(identity: Identity | None, directory: Path) -> int | None:
    profile = _find_profile(identity, directory)
    return profile.rss_bytes_max if profile is not None else None


def _find_profile(identity: Identity | None, directory: Path) -> DeviceProfile | None:
    if identity is None:
        return None
    with contextlib.suppress(AgentError, ProfileError):  # other checks say so
        own = find_settings(directory).settings.profiles_dir
        return load_profile(identity.profile, Path(own) if own else directory / "profiles")
    return None


def _describe_settings(directory: Path) -> str:
    found = check_settings(directory)
    changed = [name for name, source in found.sources.items() if source != "default"]
    changed += [f"[{name}]" for name in read_sections(directory)]
    return f"{len(changed)} set: {', '.join(changed)}" if changed else "all as by default"


def _describe_state(directory: Path) -> str:
    from edge_agent.local_state import load_state

    state = load_state(directory)
    return f"{len(state.slots)} slots, assignment {state.accepted.counter or 'none yet'}"


def _check_server(
    identity: Identity | None, join_string: str | None, clock: Clock
) -> Iterator[Check]:
    name = "server"
    try:
        if join_string is not None:
            ticket = JoinTicket.decode(join_string)
            detail = f"{ticket.device_id} may join fleet {ticket.fleet} with this string"
            yield Check(name=name, level=Level.OK, detail=detail)
            yield from check_server(server_of_ticket(ticket), clock)
        elif identity is not None:
            yield from check_server(server_of_identity(identity), clock)
    except ContractError as error:
        step = "copy the whole string that begins with ef1:"
        yield Check(name=name, level=Level.BAD, detail=str(error), next_step=step)
    except OSError as error:
        step = "join again with a new join string"
        yield Check(name=name, level=Level.BAD, detail=str(error), next_step=step)


def _guarded(name: str, describe: Callable[[], str]) -> Check:
    try:
        return Check(name=name, level=Level.OK, detail=describe())
    except (AgentError, SettingsError) as error:
        return Check(name=name, level=Level.BAD, detail=str(error))
