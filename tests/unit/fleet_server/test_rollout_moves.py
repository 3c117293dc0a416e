"""Members of a family that are taken out of a rollout, and devices that change their member."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from fleet_server.core.family_plan import FamilyPlan, PlannedMember
from fleet_server.core.member_gate import MemberTest
from fleet_server.core.rollout_gate import Verdict
from fleet_server.core.rollout_limits import (
    FixedThreshold,
    GatePolicy,
    OnHalt,
    RolloutPolicy,
)
from fleet_server.core.rollout_look import plan_round
from fleet_server.core.rollout_machine import RolloutState
from fleet_server.core.rollout_moves import CLOSE, EXCLUDE, tell_label
from fleet_server.core.rollout_outcome import Outcome, Progress, SlotFacts
from fleet_server.core.rollout_replay import replay_decision
from fleet_server.core.rollout_round import RoundPlan, RoundView
from fleet_server.core.rollout_state import (
    Desired,
    Member,
    Rollout,
    StageRecord,
    dump_memory,
    read_memory,
)
from fleet_server.core.rollout_tally import Tally, TallyKey
from fleet_server.core.targeting import Candidate, MemberPackages, Package
from fleet_server.services.assign_devices import Objection
from fleet_server.services.run_rollouts import heed

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MEMBERS = 40
POOLED = PlannedMember(model="line-pooled", version=1)
FAMILY = FamilyPlan(
    labels={"route": "line"},
    members={
        (f"{n}",): PlannedMember(model=f"line-{n}", version=2, champion_before=1)
        for n in range(MEMBERS)
    },
    fallback=POOLED,
)


def make_rollout(**policy: Any) -> Rollout:
    given = RolloutPolicy(family=FAMILY, members=MemberTest(members=MEMBERS))
    return Rollout(
        id=7,
        model="line-{route}",
        version=0,
        slot="line",
        group="all",
        state=RolloutState.RUNNING,
        policy=replace(given, **policy),
        stages=(StageRecord(name="100%"),),
        created_at=NOW,
    )


def look(rollout: Rollout, failed: Mapping[int, int], devices: int = 6) -> RoundPlan:
    """Look at members of some devices each, of which these failed."""
    tally = {}
    for number in range(MEMBERS):
        bad = failed.get(number, 0)
        for outcome, count in ((Outcome.FAILED, bad), (Outcome.CONFIRMED, devices - bad)):
            if count:
                tally[TallyKey(0, outcome, "", 1, f"line-{number}")] = count
    packages = MemberPackages(plan=FAMILY, packages={}, excluded=rollout.excluded_models)
    return plan_round(
        RoundView(rollout=rollout, tally=tally, members=[], packages=packages, now=NOW)
    )


def test_one_bad_member_is_taken_out_and_the_others_are_judged_without_it() -> None:
    found = look(make_rollout(), {3: 6})
    assert [out.model for out in found.rollout.excluded] == ["line-3"]
    first, second = found.decisions
    assert (first.verdict, second.verdict) == (EXCLUDE, Verdict.WAIT)
    assert "line-3: 6 of 6 failed" in first.sentence
    assert "one of 40 members; good ones are taken out in at most 5 % of" in first.sentence
    assert second.inputs["counts"]["failed"] == 0
    assert second.inputs["counts"]["in_flight"] == 0
    replayed = replay_decision(EXCLUDE, first.inputs)
    assert replayed is not None
    assert replayed.is_same
    assert "6 of 6 failed, 0 in flight; evidence +22.4" in replayed.workings[0]
    assert read_memory(dump_memory(found.rollout))["excluded"] == found.rollout.excluded


def test_a_member_is_weighed_with_its_devices_that_have_not_finished() -> None:
    counted = {
        TallyKey(0, Outcome.FAILED, "self-test-mismatch", 1, "line-3"): 3,
        TallyKey(0, Outcome.PROBATION, "", 1, "line-3"): 40,
        TallyKey(0, Outcome.FAILED, "fetch-timeout", 1, "line-3"): 2,
    }
    packages = MemberPackages(plan=FAMILY, packages={})
    view = RoundView(rollout=make_rollout(), tally=counted, members=[], packages=packages, now=NOW)
    assert not plan_round(view).rollout.excluded, "three of the 43 failed, and failures come first"
    (counts,) = Tally(counted, tries_max=3).count_members().values()
    assert (counts.finished, counts.failed, counts.in_flight) == (3, 3, 42)
    alone = replace(view, tally={next(iter(counted)): 3})
    assert [out.model for out in plan_round(alone).rollout.excluded] == ["line-3"]


def test_nothing_is_offered_in_the_look_that_takes_a_member_out() -> None:
    found = look(make_rollout(), {3: 6})
    assert not found.offers
    assert [act.act for act in found.acts] == ["rollout.exclude_member"]
    again = look(found.rollout, {3: 6})
    assert again.rollout.excluded == found.rollout.excluded
    assert not again.decisions, "what is known is no news"


def test_more_than_a_tenth_of_bad_members_stop_the_whole_rollout() -> None:
    four = look(make_rollout(), dict.fromkeys(range(4), 6))
    assert len(four.rollout.excluded) == 4
    assert four.rollout.state is RolloutState.RUNNING
    five = look(make_rollout(), dict.fromkeys(range(5), 6))
    assert five.rollout.state is RolloutState.HALTED
    assert "5 of 40 members fail too often" in five.decisions[-1].sentence


def test_without_a_place_to_go_devices_of_a_bad_member_are_not_waited_for() -> None:
    found = look(make_rollout(on_halt=OnHalt.STAY), {3: 6})
    assert "Its devices stay as they are." in found.decisions[0].sentence
    assert found.decisions[1].inputs["counts"]["left_out"] == 6
    alone = replace(FAMILY, fallback=None)
    found = look(make_rollout(family=alone), {3: 6})
    assert "Its devices return to what they ran before." in found.decisions[0].sentence


def test_members_are_not_taken_out_where_that_is_off() -> None:
    found = look(make_rollout(members=None), {3: 6})
    assert not found.rollout.excluded


def test_a_plain_share_judges_members_by_itself_as_goal() -> None:
    gate = GatePolicy(test=FixedThreshold(failure_share_max=0.1))
    assert not look(make_rollout(gate=gate), {3: 3}).rollout.excluded
    assert look(make_rollout(gate=gate), {3: 6}).rollout.excluded


def test_a_tally_waits_for_devices_that_take_the_fallback() -> None:
    counted = {
        TallyKey(0, Outcome.FAILED, "", 1, "line-3"): 2,
        TallyKey(0, Outcome.WITHDRAWN, "", 1, "line-3"): 1,
        TallyKey(0, Outcome.CONFIRMED, "", 1, "line-4"): 5,
    }
    out = frozenset({"line-3"})
    going = Tally(counted, tries_max=3, excluded=out, has_place=True).count_stage(0)
    assert (going.waiting, going.left_out, going.failed, going.confirmed) == (2, 1, 0, 5)
    left = Tally(counted, tries_max=3, excluded=out).count_stage(0)
    assert (left.waiting, left.left_out) == (0, 3)
    assert set(Tally(counted, tries_max=3, excluded=out).count_members()) == {"line-4"}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"line": "5"}, "goes from line-3/2 to line-5/2 (rollout 7)"),
        ({"line": "99"}, "goes from line-3/2 to line-pooled/1"),
        ({"line": "3"}, ""),
        ({}, "keeps line-3/2/camera.tar (rollout 7): it has no label line"),
    ],
)
def test_what_a_label_means_is_told(labels: dict[str, str], said: str) -> None:
    rollout = replace(make_rollout(), state=RolloutState.COMPLETED)
    told = tell_label(rollout, "line-3/2/camera.tar", labels)
    assert said in told
    assert bool(told) == bool(said)
    paused = tell_label(replace(rollout, state=RolloutState.PAUSED), "line-3/2/camera.tar", labels)
    assert paused.removesuffix(", and the rollout is resumed") == told
    assert paused.endswith("resumed") == ("goes" in said)
    aborted = replace(rollout, state=RolloutState.ABORTED)
    assert tell_label(aborted, "line-3/2/camera.tar", labels) == ""


def completed_view(rollout: Rollout, failed: int, waiting: int = 3) -> RoundView:
    """See a completed rollout: devices of line 5 whose label says 3 by now, some of 3 failed."""
    plan = FAMILY
    packages = {
        (f"line-{n}", 2): {"camera": Package(profile="camera", target=target_of(n), sha256=f"{n}")}
        for n in (3, 5)
    }
    members = [
        Member(
            device=Candidate(number=n, id=f"bus-{n}", profile="camera", labels={"line": "3"}),
            stage=0,
            progress=Progress(outcome=Outcome.CONFIRMED, offered_at=NOW, changed_at=NOW, tries=1),
            slot=SlotFacts(running_sha256="5", confirmed_sha256="5"),
            desired=Desired(target=target_of(5), rollout=rollout.id),
            target=target_of(5),
        )
        for n in range(waiting)
    ]
    tally = {TallyKey(0, Outcome.CONFIRMED, "", 1, "line-5"): 20}
    if failed:
        tally[TallyKey(0, Outcome.FAILED, "self-test-mismatch", 1, "line-3")] = failed
    return RoundView(
        rollout=rollout,
        tally=tally,
        members=members,
        packages=MemberPackages(plan=plan, packages=packages),
        now=NOW,
    )


def target_of(number: int) -> str:
    return f"line-{number}/2/camera.tar"


def test_after_completion_a_member_that_fails_too_often_is_given_to_no_further_device() -> None:
    rollout = replace(make_rollout(), state=RolloutState.COMPLETED)
    good = plan_round(completed_view(rollout, failed=0))
    assert {offer.target for offer in good.offers} == {target_of(3)}
    bad = plan_round(completed_view(rollout, failed=3))
    assert not bad.offers
    assert not bad.rollout.excluded, "who has it keeps it"
    (verdict,) = bad.decisions
    assert verdict.verdict == CLOSE
    assert "line-3: 3 of 3 failed" in verdict.sentence
    assert verdict.sentence.endswith("Its devices keep it, no other device gets it.")
    assert [act.act for act in bad.acts] == ["rollout.close_member"]
    replayed = replay_decision(CLOSE, verdict.inputs)
    assert replayed is not None
    assert replayed.is_same
    kept = replace(rollout, **read_memory(dump_memory(bad.rollout)))
    again = plan_round(completed_view(kept, failed=3))
    assert not again.offers
    assert not again.decisions, "what is known is no news"
    told = tell_label(kept, target_of(5), {"line": "3"})
    assert "keeps line-5/2/camera.tar: line-3 failed too often after rollout 7" in told


def test_devices_that_follow_their_label_after_completion_keep_to_the_number_in_flight() -> None:
    rollout = replace(make_rollout(in_flight_max=2), state=RolloutState.COMPLETED)
    assert len(plan_round(completed_view(rollout, failed=0)).offers) == 2


def test_who_catches_up_after_completion_does_not_get_a_closed_member() -> None:
    rollout = replace(make_rollout(), state=RolloutState.COMPLETED)
    view = completed_view(rollout, failed=3, waiting=1)
    late = Progress(outcome=Outcome.SILENT_BEFORE, changed_at=NOW)
    missed = replace(view.members[0], progress=late, desired=None, target="")
    assert not plan_round(replace(view, members=[missed])).offers
    good = replace(completed_view(rollout, failed=0), members=[missed])
    assert len(plan_round(good).offers) == 1


def test_a_move_that_is_objected_to_leaves_the_row_with_what_the_device_was_given_before() -> None:
    view = completed_view(replace(make_rollout(), state=RolloutState.COMPLETED), failed=0)
    former, change = view.members[0], plan_round(view).changes[0]
    objection = Objection(
        device="bus-0", target=change.target, field="approval", need="a signature", have="none"
    )
    kept = heed(change, former, {"bus-0": objection}, {}, NOW)
    assert (change.target, kept.target) == (target_of(3), target_of(5))
    assert (kept.progress.outcome, kept.progress.offered_at) == (Outcome.REFUSED, NOW)
    first = replace(former, target="", progress=replace(former.progress, offered_at=None))
    refused = heed(change, first, {"bus-0": objection}, {}, NOW)
    assert (refused.progress.outcome, refused.progress.offered_at) == (Outcome.REFUSED, None)
