"""What ``profile check`` prints: a row a profile, the devices that do not fit, and why."""

from typing import TYPE_CHECKING, Any

from fleet_server.cli.output import print_table, say
from fleet_server.core.profile_fit import DeviceFit, Latency, LatencySource, ProfileFit

if TYPE_CHECKING:
    from fleet_server.services.check_profiles import VersionCheck


def print_check(found: "VersionCheck", *, rows_max: int | None) -> None:
    """Print the tables; words beside them go to stderr."""
    print_table(
        f"{found.model} {found.version} ({found.state})",
        ("profile", "package", "p95", "devices", "because"),
        [
            (
                fit.profile,
                _say_package(fit),
                say_latency(fit.latency),
                f"{fit.devices - fit.unfit} of {fit.devices}" if fit.devices else "none",
                _say_profile(fit),
            )
            for fit in found.profiles
        ],
    )
    named = [d for d in found.devices if d.misfits or d.problem or d.warning]
    if named:
        shown = named if rows_max is None else named[:rows_max]
        rows = [(device.device, device.profile, _because(device)) for device in shown]
        print_table("", ("device", "profile", "because"), rows)
        if len(shown) < len(named):
            say(f"{len(shown)} of {len(named):,} devices; --all shows every one")
    if found.blind:
        say(f"what devices reported of latency could not be read: {found.blind}")
    sources = {fit.latency.source for fit in found.profiles if fit.latency is not None}
    if LatencySource.ESTIMATE in sources:
        say("~ is an estimate, scaled by reference graphs measured on both machines")
    if LatencySource.ELSEWHERE in sources:
        say(
            "(here) was measured on the machine that built it; for estimates run on a device:"
            " edge-agent doctor --calibrate"
        )


def check_to_json(found: "VersionCheck") -> dict[str, Any]:
    """Give everything, for programs."""
    return {
        "model": found.model,
        "version": found.version,
        "state": found.state,
        "profiles": [
            {
                "profile": fit.profile,
                "target": fit.target or None,
                "fits": bool(fit.target) and not fit.misfits,
                "misfits": [_misfit(misfit) for misfit in fit.misfits],
                "fits_package_of": list(fit.others),
                "latency": latency_to_json(fit.latency),
                "warning": fit.warning or None,
                "devices": fit.devices,
                "devices_unfit": fit.unfit,
            }
            for fit in found.profiles
        ],
        "devices": [
            {
                "device": device.device,
                "profile": device.profile,
                "target": device.target or None,
                "fits": not device.misfits and not device.problem,
                "misfits": [_misfit(misfit) for misfit in device.misfits],
                "problem": device.problem or None,
                "latency": latency_to_json(device.latency),
                "warning": device.warning or None,
            }
            for device in found.devices
        ],
        "blind": found.blind or None,
    }


def latency_to_json(latency: Latency | None) -> dict[str, Any] | None:
    """Give a latency with its range and source; None stays None."""
    if latency is None:
        return None
    return {
        "p95_ms": latency.ms,
        "low_ms": latency.low_ms,
        "high_ms": latency.high_ms,
        "source": str(latency.source),
        **({"requests": latency.requests} if latency.requests else {}),
    }


def say_latency(latency: Latency | None) -> str:
    """Write a latency; an estimate begins with ~.

    >>> say_latency(Latency(ms=12, low_ms=8, high_ms=20, source=LatencySource.ESTIMATE))
    '~12 ms (8 to 20)'
    """
    if latency is None:
        return "-"
    spread = f"({latency.low_ms:.3g} to {latency.high_ms:.3g})"
    match latency.source:
        case LatencySource.ESTIMATE:
            return f"~{latency.ms:.3g} ms {spread}"
        case LatencySource.REPORTED:
            return f"{latency.low_ms:.3g} to {latency.high_ms:.3g} ms reported"
        case LatencySource.ELSEWHERE:
            return f"{latency.ms:.3g} ms (here)"


def _say_package(fit: ProfileFit) -> str:
    if not fit.target:
        return "none"
    return "does not fit" if fit.misfits else "fits"


def _say_profile(fit: ProfileFit) -> str:
    reasons = "; ".join(str(misfit) for misfit in fit.misfits)
    if fit.target:
        return "; ".join(filter(None, (reasons, fit.warning)))
    if fit.others:
        return f"not built for it; the package of {', '.join(fit.others)} would fit"
    return f"not built for it; the nearest fails: {reasons}" if reasons else "not built for it"


def _because(device: DeviceFit) -> str:
    reasons = [str(misfit) for misfit in device.misfits]
    return "; ".join(filter(None, (device.problem, *reasons, device.warning)))


def _misfit(misfit: Any) -> dict[str, str]:
    return {"field": misfit.field, "need": misfit.need, "have": misfit.have}
