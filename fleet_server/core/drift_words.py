"""Say findings in sentences. Pure; every number comes from the finding."""

from dataclasses import dataclass
from datetime import UTC, datetime

from fleet_server.core.drift_compare import ANSWERS
from fleet_server.core.drift_finding import Change, Finding

_MOVED = {
    Change.UP: "moved up",
    Change.DOWN: "moved down",
    Change.WIDER: "spread out",
    Change.NARROWER: "drew together",
    Change.SHAPE: "changed its shape",
}
_SURER = {Change.UP: "the model is surer", Change.DOWN: "the model is less sure"}


def say_finding(finding: Finding) -> str:
    """Say what changed in one feature, with its effect; no full stop."""
    return f"{_say_change(finding)}, debiased PSI {finding.psi:.2f}"


def _say_change(finding: Finding) -> str:
    shares, name = finding.shares, finding.feature
    is_category = bool(shares.top_class) and not finding.is_answers
    match finding.change:
        case Change.MIX:
            change = (
                f"answer {shares.top_class!r}{_of_label(name)} is now {_say_share(shares.top)} of"
                f" the answers (before {_say_share(shares.top_before)})"
            )
        case Change.MISSING:
            change = (
                f"{name} is missing in {_say_share(shares.missing)} of the rows"
                f" (before {_say_share(shares.missing_before)})"
            )
        case Change.OUTSIDE:
            beyond = "lies outside its training range"
            if is_category:
                beyond = "is a category unseen in training"
            change = (
                f"{name} {beyond} in {_say_share(shares.outside)} of the rows (before"
                f" {_say_share(shares.outside_before)})"
            )
        case _ if is_category:
            change = (
                f"{name} is {shares.top_class!r} in {_say_share(shares.top)} of the rows (before"
                f" {_say_share(shares.top_before)})"
            )
        case Change.WIDER | Change.NARROWER:
            change = f"{name} {_MOVED[finding.change]} (spread z {finding.z_spread:+.1f})"
        case Change.UP | Change.DOWN if finding.is_answers and shares.top_class:
            what = f"{_SURER[finding.change]} of its answers{_of_label(name)}"
            change = f"{what} (z {finding.z_location:+.1f})"
        case Change.UP | Change.DOWN:
            change = (
                f"{name} {_MOVED[finding.change]} (location z {finding.z_location:+.1f}, its"
                f" median is now at quantile {finding.median_rank:.2f} of before)"
            )
        case Change.SHAPE:
            change = f"{name} {_MOVED[finding.change]}"
    return change


def _of_label(name: str) -> str:
    """Say which of several labels the answers are of; empty where a row has one."""
    label = name.removeprefix(ANSWERS).strip()
    return f" of {label!r}" if label else ""


def say_quiet(finding: Finding) -> str:
    """Say that nothing was found."""
    if not finding.rows:
        return f"{finding.feature}: too few rows to tell"
    return f"{finding.feature}: nothing beyond chance in {finding.rows:,} rows"


def say_instant(at_ms: int) -> str:
    """Say an instant of a device's clock.

    >>> say_instant(1_700_000_000_000)
    '14 Nov 22:13:20 UTC'
    """
    return f"{datetime.fromtimestamp(at_ms / 1_000, UTC):%d %b %H:%M:%S} UTC"


def say_p(p_value: float) -> str:
    """Say a p-value as precisely as it deserves.

    >>> say_p(0.034), say_p(2e-9), say_p(0.0)
    ('0.034', '2e-09', '<1e-300')
    """
    if p_value < 1e-300:
        return "<1e-300"
    return f"{p_value:.2g}" if p_value >= 1e-4 else f"{p_value:.0e}"


def _say_share(share: float) -> str:
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{share * 100:.1f}".removesuffix(".0") + " %"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmFacts:
    """What an alarm's sentence says beside its worst feature.

    Attributes:
        level: device, group or fleet.
        subject: Who.
        since_ms: Start of the shift.
        affected: Devices that show the worst feature on their own.
        devices: Devices of the subject.
        moved: Features that crossed the threshold.
        features: Features judged.
        is_rest_moved: Whether the rest of the fleet moved in the worst feature, too; None
            without a rest.
    """

    level: str
    subject: str
    since_ms: int
    affected: int
    devices: int
    moved: int
    features: int
    is_rest_moved: bool | None


def say_alarm(facts: AlarmFacts, worst: Finding) -> str:
    """Say an alarm in one sentence, the feature with the largest effect first."""
    who = {"device": facts.subject, "group": f"group {facts.subject}"}
    where = f", on {facts.affected} of {facts.devices} devices" if facts.level != "device" else ""
    more = f"; {facts.moved} of {facts.features} features moved" if facts.moved > 1 else ""
    rest = {
        None: "",
        True: "; the rest of the fleet moved, too",
        False: "; rest of fleet unchanged",
    }
    return (
        f"{who.get(facts.level, 'the whole fleet')}: {say_finding(worst)}, since"
        f" {say_instant(facts.since_ms)}{where}{more}{rest[facts.is_rest_moved]}"
    )
