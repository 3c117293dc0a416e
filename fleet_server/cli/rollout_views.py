"""How a rollout reads on a terminal: pure functions from values to lines of text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from textwrap import wrap

from fleet_server.core.rollout_limits import FixedThreshold
from fleet_server.core.rollout_machine import RolloutState, say_word
from fleet_server.core.rollout_moves import say_where
from fleet_server.core.rollout_outcome import Outcome, say_outcome
from fleet_server.core.rollout_words import say_devices, say_share, say_span
from fleet_server.core.shadow_gate import say_compared, say_limits
from fleet_server.core.shadow_limits import DisagreementTest
from fleet_server.core.stage_plan import PlannedStage
from fleet_server.ports.rollouts import MemberView
from fleet_server.services.list_devices import tell_age
from fleet_server.services.plan_rollout import RolloutPlan
from fleet_server.services.read_rollouts import RolloutView, StageView

WATCH_LINES = 20
STAGES_SHOWN = 6
SENTENCE_LINES = 4
WIDTH_MIN = 40
MEMBERS_SHOWN = 5
SIGNS = {
    Outcome.CONFIRMED: "█#",
    Outcome.PROBATION: "▓=",
    Outcome.SHADOW: "▒:",
    Outcome.TESTING: "▒+",
    Outcome.FETCHING: "▒+",
    Outcome.OFFERED: "░o",
    Outcome.PENDING: "··",
    Outcome.SILENT_BEFORE: "○,",
    Outcome.SILENT_AFTER: "??",
    Outcome.REFUSED: "--",
    Outcome.FAILED: "\N{MULTIPLICATION SIGN}x",
    Outcome.WITHDRAWN: "«<",
    Outcome.RETURNED: "«<",
}
"""Sign of an outcome, and the same for terminals without UTF-8."""


def draw_bar(outcomes: Mapping[Outcome, int], width: int, *, is_plain: bool) -> str:
    """Draw devices by outcome; who is there gets at least one sign.

    >>> draw_bar({Outcome.CONFIRMED: 998, Outcome.FAILED: 2}, 8, is_plain=True)
    '#######x'
    """
    total = sum(outcomes.values())
    if not total:
        return " " * width
    shown = {outcome: outcomes[outcome] for outcome in SIGNS if outcomes.get(outcome)}
    sizes = {outcome: max(1, round(count * width / total)) for outcome, count in shown.items()}
    while sum(sizes.values()) != width and shown:
        is_over = sum(sizes.values()) > width
        largest = max(sizes, key=lambda outcome: sizes[outcome])
        if is_over and sizes[largest] == 1:
            break
        sizes[largest] += -1 if is_over else 1
    bar = "".join(SIGNS[outcome][is_plain] * size for outcome, size in sizes.items())
    return bar[:width]


def draw_scale(view: RolloutView, width: int, *, is_plain: bool) -> str:
    """Draw the evidence of the open stage between passing and halting."""
    rollout = view.rollout
    test = rollout.policy.gate.test
    counts = view.stages[rollout.stage].counts
    if isinstance(test, FixedThreshold) or counts.finished == 0:
        return ""
    evidence = test.weigh(counts.finished, counts.failed)
    place = (evidence - test.advance_at) / (test.halt_at - test.advance_at)
    line, dot, end = ("-", "o", "|") if is_plain else ("─", "●", "┃")
    room = max(8, min(width, 60) - len("pass  halt") - 2)
    at = min(room - 1, max(0, round(place * (room - 1))))
    return f"pass {end}{line * at}{dot}{line * (room - 1 - at)}{end} halt"


def list_stages(view: RolloutView, width: int, *, is_plain: bool) -> list[str]:
    """Give a line a stage; of many, those around the open one."""
    open_stage = view.rollout.stage
    first = max(0, min(open_stage - 2, len(view.stages) - STAGES_SHOWN))
    shown = list(enumerate(view.stages))[first : first + STAGES_SHOWN]
    name_width = min(12, max(len(stage.name) for stage in view.stages))
    lines = []
    for index, stage in shown:
        tail = _count_words(stage)
        head = f"{_mark(view, index)} {index + 1:>2} {stage.name[:name_width]:<{name_width}} "
        bar_width = max(6, width - len(head) - 34)
        bar = draw_bar(stage.outcomes, bar_width, is_plain=is_plain)
        lines.append(f"{head}{bar} {tail}"[:width].rstrip())
    hidden = len(view.stages) - len(shown)
    return [*lines, f"   … {hidden} more stages"] if hidden else lines


def _mark(view: RolloutView, index: int) -> str:
    if view.stages[index].is_passed:
        return "ok"
    is_open = index == view.rollout.stage and view.rollout.state is not RolloutState.DRAFT
    return "->" if is_open else "  "


def _count_words(stage: StageView) -> str:
    outcomes = stage.outcomes
    parts = [f"{outcomes.get(Outcome.CONFIRMED, 0):,}/{stage.counts.targeted:,}"]
    for outcome, word in (
        (Outcome.SHADOW, "in shadow"),
        (Outcome.FAILED, "failed"),
        (Outcome.SILENT_AFTER, "silent"),
        (Outcome.REFUSED, "refused"),
        (Outcome.SILENT_BEFORE, "offline"),
        (Outcome.RETURNED, "returned"),
    ):
        if outcomes.get(outcome):
            parts.append(f"{outcomes[outcome]:,} {word}")
    return " ".join(parts)


def list_shadows(view: RolloutView, width: int) -> list[str]:
    """Give a line a stage on what was compared in shadow; none of stages without rows."""
    test = view.rollout.policy.disagreement or DisagreementTest()
    return [
        f"in shadow, stage {index}: {say_compared(stage.shadow, test)}"[:width]
        for index, stage in enumerate(view.stages, start=1)
        if stage.shadow.rows
    ]


def list_members(view: RolloutView, width: int) -> list[str]:
    """Give a line a member of a family that failed somewhere, the worst first."""
    if view.rollout.policy.family is None or not view.members:
        return []
    out = sum(member.excluded is not None for member in view.members)
    lines = [
        f"members: {len(view.members):,} of {view.members_finished + out:,} failed somewhere,"
        f" {out:,} taken out"
    ]
    for member in view.members[:MEMBERS_SHOWN]:
        said = f"  {member.model}: {say_span(member.counts.failed, member.counts.finished)}"
        if member.excluded is not None:
            said += f" Taken out. {say_where(view.rollout)}"
        elif member.closed is not None:
            said += " No further device gets it."
        lines.append(said[:width].rstrip())
    return lines


def title_of(view: RolloutView) -> str:
    """Name a rollout with what it does and how it stands."""
    rollout = view.rollout
    state = "undecided, paused" if rollout.is_undecided else say_word(rollout.state)
    age = tell_age(rollout.started_at, rollout.finished_at or view.read_at)
    since = f" · {age}" if age else ""
    return (
        f"Rollout {rollout.id} · {rollout.release} to {rollout.group}, slot {rollout.slot}"
        f" · {state}{since}"
    )


def list_failures(members: Sequence[MemberView], width: int) -> list[str]:
    """Give a line a device that failed; narrow terminals drop the profile."""
    lines = []
    for member in members:
        profile = f"{member.profile:<14} " if width > 100 else ""
        words = f"{member.code} {member.detail}".strip() or say_outcome(member.outcome)
        lines.append(f"  {member.device:<16} {profile}{words}"[:width].rstrip())
    return lines


def list_next(view: RolloutView) -> list[str]:
    """Give the commands that make sense now."""
    rollout = view.rollout
    number, why = rollout.id, "--reason '…'"
    match rollout.state:
        case RolloutState.DRAFT:
            return [f"edgefleet rollout start {number}"]
        case RolloutState.RUNNING:
            return [f"edgefleet rollout pause {number} {why}"]
        case RolloutState.PAUSED if rollout.is_undecided:
            return [
                f"edgefleet rollout explain {number}",
                f"edgefleet rollout resume {number} {why}   (lets the stage pass)",
                f"edgefleet rollout rollback {number} {why}",
            ]
        case RolloutState.PAUSED:
            return [f"edgefleet rollout resume {number} {why}"]
        case RolloutState.HALTED:
            return [
                f"edgefleet rollout explain {number}",
                f"edgefleet rollout rollback {number} {why}",
            ]
        case _:
            return [f"edgefleet rollout explain {number}"]


def render_watch(view: RolloutView, *, width: int, is_plain: bool, footer: str = "") -> list[str]:
    """Give the fixed screen of ``watch``: WATCH_LINES lines, none wider than ``width``."""
    width = max(WIDTH_MIN, width)
    lines = wrap(title_of(view), width, subsequent_indent="  ", max_lines=2, placeholder=" …")
    lines += ["", *list_stages(view, width, is_plain=is_plain), ""]
    scale = draw_scale(view, width, is_plain=is_plain)
    lines += [scale] if scale else []
    lines += wrap(
        view.rollout.sentence,
        width,
        subsequent_indent="  ",
        max_lines=SENTENCE_LINES,
        placeholder=" …",
    )
    failures = list_failures(view.failures, width)
    room = WATCH_LINES - len(lines) - 3
    if failures and room > 1:
        lines += ["", *failures[: room - 1]]
    lines = lines[: WATCH_LINES - 2]
    lines += [""] * (WATCH_LINES - 2 - len(lines))
    return [*lines, f"next: {list_next(view)[0]}"[:width], footer[:width]]


def render_line(view: RolloutView) -> str:
    """Give the one line that ``watch`` prints for each change when nobody looks at a screen."""
    rollout = view.rollout
    counts = Counter[Outcome]()
    for stage in view.stages:
        counts.update(stage.outcomes)
    said = ", ".join(f"{counts[o]:,} {say_outcome(o)}" for o in Outcome if counts[o])
    state = say_word(rollout.state)
    return f"{view.read_at:%Y-%m-%dT%H:%M:%SZ} {state}: {said}. {rollout.sentence}"


def plan_rows(plan: RolloutPlan) -> list[tuple[str, ...]]:
    """Give the table of a plan: stage, devices, total, profiles, the first devices."""
    rows: list[tuple[str, ...]] = []
    total = 0
    for number, stage in enumerate(plan.stages, start=1):
        total += len(stage.devices)
        rows.append(
            (
                f"{number}",
                stage.name,
                f"{len(stage.devices):,}",
                f"{total:,}",
                _profiles(stage),
                _first_devices(stage),
            )
        )
    return rows


def _profiles(stage: PlannedStage) -> str:
    counts = Counter(device.profile for device in stage.devices)
    return ", ".join(f"{profile} {count:,}" for profile, count in counts.most_common())


def _first_devices(stage: PlannedStage) -> str:
    names = [device.id for device in stage.devices[:3]]
    return ", ".join(names) + (" …" if len(stage.devices) > 3 else "")


def plan_sentences(plan: RolloutPlan) -> list[str]:
    """Say the rules of a plan and what cannot be honoured."""
    policy, gate = plan.request.policy, plan.request.policy.gate
    if isinstance(gate.test, FixedThreshold):
        rule = (
            f"halts when more than {say_share(gate.test.failure_share_max)} of at least"
            f" {say_devices(gate.test.finished_min)} fail"
        )
    else:
        rule = (
            f"goal {say_share(gate.test.goal)} failing, never above"
            f" {say_share(gate.test.never_above)}"
        )
    if policy.disagreement is not None:
        rule += f"; in shadow {say_limits(policy.disagreement)}"
    running = ", ".join(f"{target} on {count:,}" for target, count in plan.now_running.items())
    lines = [
        f"gate: {rule}; soak {gate.soak_s:g} s; an undecided stage: {gate.on_inconclusive};"
        f" on halt: {policy.on_halt}",
        f"now running in slot {plan.request.slot}: {running or 'nothing'}",
    ]
    reasons = Counter(left.reason for left in plan.left_out)
    for reason, count in reasons.most_common():
        example = next(left for left in plan.left_out if left.reason == reason)
        lines.append(
            f"not offered: {say_devices(count)}, {reason}"
            f" (for example {example.device.id}: {example.detail})"
        )
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def list_row(view: RolloutView, now: datetime) -> tuple[str, ...]:
    """Give the row of ``rollout ls``."""
    rollout = view.rollout
    bad = view.count(Outcome.FAILED, Outcome.SILENT_AFTER)
    failed = f", {bad:,} failed" if bad else ""
    return (
        f"{rollout.id}",
        rollout.release,
        rollout.group,
        "undecided" if rollout.is_undecided else say_word(rollout.state),
        f"{rollout.stage + 1} of {len(rollout.stages)}",
        f"{view.count(Outcome.CONFIRMED):,} of {view.devices:,}{failed}",
        tell_age(rollout.started_at or rollout.created_at, now),
    )
