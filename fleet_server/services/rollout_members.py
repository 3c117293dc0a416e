"""What a rollout gives to devices, be it one version or the members of a family.

A family's rollout names no version of its own: the policy lists which version of which member goes
to which label. What is in service is noted member by member, for those that devices truly run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fleet_server.core.family_plan import FamilyPlan, PlannedMember, plain_value
from fleet_server.core.family_summary import Standing
from fleet_server.core.rollout_state import Rollout
from fleet_server.core.targeting import MemberPackages, Packages
from fleet_server.errors import MisuseError, RefusedError
from fleet_server.ports.registry import FamilyMember
from fleet_server.ports.rollouts import Book
from fleet_server.services.browse_family import FamilyView
from fleet_server.services.release import APPROVED
from fleet_server.training.spec_family import list_columns


def plan_family(
    view: FamilyView, labels: Mapping[str, str], *, is_only_better: bool = False
) -> FamilyPlan:
    """Choose the version of every member that a rollout gives.

    The newest where it is approved, else the one in service, else none: then its devices take the
    fallback.

    Args:
        view: The family.
        labels: Device label by partition column, where it has another name than the column.
        is_only_better: Leave members as they are that are not better than the one in service.

    Raises:
        MisuseError: A column that the family does not have.
        RefusedError: No version of any member is approved.
    """
    columns = list_columns(view.pattern)
    strange = sorted(set(labels) - set(columns))
    if strange:
        raise MisuseError(
            f"{view.pattern} has no column {strange[0]!r}; it has {', '.join(columns)}"
        )
    chosen: dict[tuple[str, ...], PlannedMember] = {}
    fallback = None
    for name, member in view.members.items():
        is_kept = is_only_better and view.standings[name] is not Standing.BETTER
        found = _choose_version(member, is_kept=is_kept)
        if member.is_fallback:
            fallback = found
        elif found is not None:
            chosen[tuple(plain_value(member.values[column]) for column in columns)] = found
    if not chosen and fallback is None:
        raise RefusedError(
            f"no member of {view.pattern} is approved; look at `edgefleet model show"
            f" '{view.pattern}'`, then `edgefleet model approve '{view.pattern}'`"
        )
    said = {column: labels.get(column, column) for column in columns}
    return FamilyPlan(labels=said, members=chosen, fallback=fallback)


def load_packages(
    book: Book,
    model: str,
    version: int,
    family: FamilyPlan | None,
    excluded: frozenset[str] = frozenset(),
) -> Packages:
    """Return what devices are given, by profile or by member.

    Args:
        book: The transaction.
        model: Of the rollout.
        version: Of the rollout; 0 of a family.
        family: Its members; None of a single model.
        excluded: Members that were taken out.
    """
    if family is None:
        return book.fleet.list_packages(model, version)
    members = [member.release for member in family.all_members]
    packages = book.fleet.list_member_packages(members)
    return MemberPackages(plan=family, packages=packages, excluded=excluded)


def is_approved(book: Book, model: str, version: int, family: FamilyPlan | None) -> bool:
    """Tell whether a version, or any member of a family, is approved."""
    if family is None:
        return book.fleet.find_version_state(model, version) == APPROVED
    members = [member.release for member in family.all_members]
    return book.fleet.count_in_state(members, APPROVED) > 0


def crown(book: Book, rollout: Rollout, champion: int) -> dict[str, Any]:
    """Put in service what a completed rollout brought; return what the audit log keeps of it."""
    family = rollout.policy.family
    if family is None:
        book.fleet.move_champion(rollout.model, champion)
        return {"from": rollout.champion_before, "to": champion}
    running = _find_running(book, rollout)
    moved = {}
    for member in family.all_members:
        if member.release in running and member.model not in rollout.excluded_models:
            book.fleet.move_champion(member.model, member.version)
            moved[member.model] = [member.champion_before, member.version]
    return {"members": moved}


def uncrown(book: Book, rollout: Rollout) -> dict[str, Any]:
    """Put back in service what was before, unless another was put there since.

    Returns:
        What the audit log keeps of it; empty when nothing was moved.
    """
    family = rollout.policy.family
    if family is None:
        if book.fleet.find_champion(rollout.model) != rollout.version:
            return {}
        book.fleet.move_champion(rollout.model, rollout.champion_before)
        return {"from": rollout.version, "to": rollout.champion_before}
    moved = {}
    for member in family.all_members:
        if member.champion_before == member.version:
            continue
        if book.fleet.find_champion(member.model) == member.version:
            book.fleet.move_champion(member.model, member.champion_before)
            moved[member.model] = [member.version, member.champion_before]
    return {"members": moved} if moved else {}


def _choose_version(member: FamilyMember, *, is_kept: bool) -> PlannedMember | None:
    in_service = member.champion if member.champion_state == APPROVED else 0
    version = member.number if member.state == APPROVED else in_service
    if is_kept and in_service:
        version = in_service
    if not version:
        return None
    return PlannedMember(model=member.model, version=version, champion_before=member.champion)


def _find_running(book: Book, rollout: Rollout) -> set[tuple[str, int]]:
    return {_release_of(target) for target in book.rollouts.count_targets(rollout)}


def _release_of(target: str) -> tuple[str, int]:
    model, version, _ = target.split("/")
    return model, int(version)


def count_members(plan: FamilyPlan, labels: Sequence[Mapping[str, str]]) -> tuple[int, int]:
    """Count devices that take their own member, and those that take the fallback.

    Args:
        plan: The family's.
        labels: Of each device.
    """
    chosen = [plan.choose(own) for own in labels]
    back = sum(one is not None and one is plan.fallback for one in chosen)
    return sum(one is not None for one in chosen) - back, back
