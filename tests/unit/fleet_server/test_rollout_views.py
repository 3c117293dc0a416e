"""What a rollout looks like on a terminal, and how its options are read."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_server.cli.rollout_options import PolicyOptions, make_policy, parse_seconds, parse_share
from fleet_server.cli.rollout_views import (
    SIGNS,
    WATCH_LINES,
    draw_bar,
    draw_scale,
    list_next,
    render_line,
    render_watch,
)
from fleet_server.cli.rollout_watch import LineScreen, watch_rollout
from fleet_server.core.rollout_limits import (
    FixedThreshold,
    GatePolicy,
    OnHalt,
    RolloutPolicy,
    SequentialTest,
)
from fleet_server.core.rollout_machine import RolloutState
from fleet_server.core.rollout_outcome import Outcome
from fleet_server.core.rollout_state import Rollout, StageRecord
from fleet_server.core.rollout_tally import Tally, TallyKey
from fleet_server.errors import MisuseError, UnreachableError
from fleet_server.ports.rollouts import MemberView
from fleet_server.services.read_rollouts import RolloutView, StageView

NOW = datetime(2026, 1, 1, 14, 9, tzinfo=UTC)
OPTIONS = PolicyOptions(
    soak="10m",
    goal="1%",
    never_above="5%",
    fixed="",
    fixed_after=20,
    on_inconclusive="advance",
    on_halt="stay",
    max_parallel=7,
    is_despite_alarms=True,
    deadline="2h",
    tries=2,
    is_again=True,
    probation="3s",
    probation_rows=60,
    probation_timeout="5m",
    shadow="",
    shadow_rows=200,
    shadow_timeout="1h",
    shadow_share="10%",
    shadow_cpu="5%",
    disagree_goal="",
    disagree_never_above="",
    disagree_by="",
    error_rate_max="5%",
    output_shift_max="0.5",
)


def make_view(
    state: RolloutState = RolloutState.RUNNING,
    stages: int = 3,
    outcomes: dict[Outcome, int] | None = None,
    sentence: str = "Stage 1 of 3 (5%): 13 of 281 failed: 4.6 % (2.7 to 7.8 %).",
    failures: int = 9,
    policy: RolloutPolicy | None = None,
) -> RolloutView:
    outcomes = outcomes or {Outcome.CONFIRMED: 268, Outcome.FAILED: 13, Outcome.PENDING: 9_219}
    tally = Tally({TallyKey(0, o): n for o, n in outcomes.items()}, tries_max=3)
    rollout = Rollout(
        id=7,
        model="digits",
        version=3,
        slot="digits",
        group="cameras-in-hall-two",
        state=state,
        policy=policy or RolloutPolicy(),
        stages=tuple(StageRecord(name=f"{k}%") for k in range(stages)),
        created_at=NOW,
        started_at=NOW - timedelta(minutes=3),
        sentence=sentence,
    )
    member = MemberView(
        device="cam-00107",
        profile="camera",
        stage=0,
        outcome=Outcome.FAILED,
        code="selftest-latency",
        detail="p95 74 ms of at most 60 ms " * 4,
        running_target="digits/2/camera.tar",
        offered_at=NOW,
        changed_at=NOW,
        tries=1,
    )
    return RolloutView(
        rollout=rollout,
        stages=tuple(
            StageView(
                name=f"{k}%",
                counts=tally.count_stage(0),
                outcomes=outcomes,
                verdict="",
                is_passed=False,
            )
            for k in range(stages)
        ),
        failures=(member,) * failures,
        running=268,
        read_at=NOW,
    )


@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("stages", [1, 3, 20])
@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("words", [10, 300])
def test_the_screen_fits(width: int, stages: int, words: int, *, is_plain: bool) -> None:
    view = make_view(stages=stages, sentence="word " * words)
    lines = render_watch(view, width=width, is_plain=is_plain, footer="controller 1 s ago")
    assert len(lines) == WATCH_LINES
    assert max(len(line) for line in lines) <= width
    assert "digits 3" in lines[0]
    assert lines[-2].startswith("next: edgefleet rollout pause 7")
    assert lines[-1] == "controller 1 s ago"
    assert not is_plain or all(line.replace("·", "").replace("…", "").isascii() for line in lines)


@given(
    st.dictionaries(st.sampled_from(Outcome), st.integers(0, 10**6), min_size=1),
    st.integers(12, 60),
)
def test_a_bar_has_its_width_and_shows_everyone_who_is_there(
    outcomes: dict[Outcome, int], width: int
) -> None:
    bar = draw_bar(outcomes, width, is_plain=False)
    assert len(bar) == width
    if any(outcomes.values()):
        for outcome, count in outcomes.items():
            assert not count or SIGNS[outcome][0] in bar


def test_the_scale_moves_from_pass_to_halt() -> None:
    def place(confirmed: int, failed: int) -> int:
        view = make_view(outcomes={Outcome.CONFIRMED: confirmed, Outcome.FAILED: failed})
        return draw_scale(view, 60, is_plain=True).index("o")

    assert place(34, 0) < place(17, 0) < place(1, 1) < place(1, 2)
    assert draw_scale(make_view(outcomes={Outcome.PENDING: 3}), 60, is_plain=True) == ""
    fixed = RolloutPolicy(gate=GatePolicy(test=FixedThreshold(failure_share_max=0.1)))
    assert draw_scale(make_view(policy=fixed), 60, is_plain=True) == ""


@pytest.mark.parametrize(
    ("state", "is_undecided", "command"),
    [
        (RolloutState.DRAFT, False, "start 7"),
        (RolloutState.RUNNING, False, "pause 7"),
        (RolloutState.PAUSED, False, "resume 7"),
        (RolloutState.PAUSED, True, "explain 7"),
        (RolloutState.HALTED, False, "explain 7"),
        (RolloutState.COMPLETED, False, "explain 7"),
    ],
)
def test_the_next_command_fits_the_state(
    state: RolloutState, command: str, *, is_undecided: bool
) -> None:
    view = make_view(state)
    view = replace(view, rollout=replace(view.rollout, is_undecided=is_undecided))
    assert list_next(view)[0].startswith(f"edgefleet rollout {command}")


def test_a_line_says_when_what_and_why() -> None:
    assert render_line(make_view(stages=1)) == (
        "2026-01-01T14:09:00Z running: 9,219 pending, 268 confirmed, 13 failed."
        " Stage 1 of 3 (5%): 13 of 281 failed: 4.6 % (2.7 to 7.8 %)."
    )


@pytest.mark.parametrize(
    ("text", "share"), [("2%", 0.02), ("2.5 %", 0.025), ("0.02", 0.02), (".5", 0.5), ("100%", 1.0)]
)
def test_shares_are_read(text: str, share: float) -> None:
    assert parse_share(text, "--goal") == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("5min", 300),
        ("2h", 7_200),
        ("1d", 86_400),
        ("1.5s", 1.5),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--soak") == seconds


@pytest.mark.parametrize("text", ["", "2", "101%", "-1%", "x", "1e-3", "2 per cent"])
def test_bad_shares_name_the_option(text: str) -> None:
    with pytest.raises(MisuseError, match=r"^--goal .*such as 2%"):
        parse_share(text, "--goal")


@pytest.mark.parametrize("text", ["", "x", "5 weeks", "-1s", "nan", "1e3"])
def test_bad_durations_name_the_option(text: str) -> None:
    with pytest.raises(MisuseError, match=r"^--soak .*such as 90s"):
        parse_seconds(text, "--soak")


def test_options_become_a_policy_that_survives_its_json() -> None:
    policy = make_policy(OPTIONS)
    assert policy.gate.test == SequentialTest(goal=0.01, never_above=0.05)
    assert policy.gate.soak_s == 600
    assert policy.on_halt is OnHalt.STAY
    assert (policy.in_flight_max, policy.tries_max, policy.deadline_s) == (7, 2, 7_200)
    assert policy.is_held_by_alarms is False
    assert policy.is_again
    assert policy.probation.rows_min == 60
    assert RolloutPolicy.from_json(policy.to_json()) == policy
    fixed = make_policy(replace(OPTIONS, fixed="5%"))
    assert fixed.gate.test == FixedThreshold(failure_share_max=0.05)
    assert RolloutPolicy.from_json(fixed.to_json()) == fixed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal": "10%", "never_above": "5%"}, "goal 10 % and never above 5 %"),
        ({"soak": "90d"}, "soak_s must be"),
        ({"tries": 99}, "tries_max must be 1 to 20"),
        ({"fixed": "100%"}, "failure_share_max"),
        ({"probation": "30d"}, "duration_s"),
        ({"shadow": "10 parsecs"}, "--shadow"),
        ({"shadow": "10m", "shadow_cpu": "0%"}, "cpu_share"),
        ({"disagree_never_above": "10%"}, "--shadow"),
        ({"shadow": "10m", "disagree_goal": "1%"}, "--disagree-never-above"),
        ({"shadow": "10m", "disagree_goal": "9%", "disagree_never_above": "9%"}, "goal 9 %"),
        ({"shadow": "10m", "disagree_never_above": "9%", "disagree_by": "0.02"}, "0.01, 0.1"),
        ({"shadow": "10m", "disagree_never_above": "9%", "disagree_by": "x"}, "no number"),
    ],
)
def test_options_out_of_range_are_misuse(change: dict[str, object], message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        make_policy(replace(OPTIONS, **change))  # type: ignore[arg-type]  # one field a case


def follow(views: list[RolloutView | UnreachableError], *, is_up: bool = True) -> int:
    """Watch a scripted rollout with a clock that moves a minute a look."""
    left = iter(views)
    now_s = iter(range(0, 100_000, 60))

    def read() -> RolloutView:
        view = next(left)
        if isinstance(view, UnreachableError):
            raise view
        return view

    return watch_rollout(
        read,
        screen=LineScreen(as_json=False),
        find_beat=lambda: NOW,
        is_up=lambda: is_up,
        monotonic=lambda: float(next(now_s)),
        patience_s=60,
    )


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (RolloutState.COMPLETED, 0),
        (RolloutState.ROLLED_BACK, 1),
        (RolloutState.ABORTED, 1),
    ],
)
def test_watching_ends_with_the_outcome_as_exit_code(
    end: RolloutState, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    running = make_view()
    assert follow([running, running, make_view(end)]) == code
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_halt_that_nobody_rolls_back_ends_the_watching() -> None:
    assert follow([make_view(RolloutState.HALTED, policy=RolloutPolicy(on_halt=OnHalt.STAY))]) == 1


def test_watching_gives_up_when_nobody_runs_the_workspace_or_the_database_stays_away() -> None:
    with pytest.raises(UnreachableError, match=r"edgefleet up is not running.*gave up after 60 s"):
        follow([make_view()] * 3, is_up=False)
    away = UnreachableError("control database: away")
    with pytest.raises(UnreachableError, match="away; gave up"):
        follow([make_view(), away, away, away])
    assert follow([make_view(), away, make_view(RolloutState.COMPLETED)]) == 0
