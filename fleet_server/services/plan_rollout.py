"""Plan a rollout: exactly who gets what in which stage, and what cannot be honoured.

A plan is a value; storing it makes a draft, which changes nothing on any device until it is
started. An unapproved version is refused here already.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from fleet_server.core.family_plan import FamilyPlan
from fleet_server.core.member_gate import ALPHA_DEFAULT, MemberTest
from fleet_server.core.rollout_limits import RolloutPolicy
from fleet_server.core.rollout_words import say_devices, say_share
from fleet_server.core.stage_plan import (
    PlannedStage,
    StageError,
    StageSpec,
    parse_stages,
    plan_stages,
)
from fleet_server.core.targeting import (
    Candidate,
    LeftOut,
    MemberPackages,
    Package,
    Packages,
    Targets,
    Unfit,
    find_package,
    find_targets,
)
from fleet_server.errors import MisuseError, NotFoundError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.devices import DeviceRecord, Wish
from fleet_server.ports.rollouts import Book, Books, NewRollout, ProfileSource
from fleet_server.services.approve_model import APPROVED
from fleet_server.services.assign_devices import Assigner
from fleet_server.services.browse_family import BrowseFamily
from fleet_server.services.define_group import find_group, is_in, read_query
from fleet_server.services.rollout_members import (
    count_members,
    is_approved,
    load_packages,
    plan_family,
)
from fleet_server.training.spec_family import name_slot, names_family

SLOT_CHARS_MAX = 64
REGRESSION = "regression"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What is asked for.

    Attributes:
        model: Model name, or the pattern of a family.
        version: Version number; 0 of a family.
        slot: Slot name; empty for the model's name, or what a family's members are signed for.
        stages: As written, such as ``5%,25%,100%``.
        labels: Of a family: device label by partition column, where the names differ.
        is_only_better: Of a family: leave members alone that are not shown to be better.
        member_alpha: Of a family: share of rollouts in which any good member may be taken out by
            its own figures; 0: members are not judged one by one.
    """

    model: str
    version: int
    group: str
    stages: str
    policy: RolloutPolicy
    slot: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    is_only_better: bool = False
    member_alpha: float = ALPHA_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """Who gets what, in order, and what cannot be honoured.

    Attributes:
        request: What was asked for, its slot filled in.
        stages: Who is in which stage.
        packages: What each profile gets; empty for a family, whose targets are by device.
        targets: What each device gets, by device id.
        left_out: Devices of the group that get nothing, with the reason.
        notes: Sentences on what could not be done as asked.
        now_running: What the slot's devices run now, by target, and how many.
    """

    request: PlanRequest
    stages: tuple[PlannedStage, ...]
    packages: Mapping[str, Package]
    targets: Mapping[str, str]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    now_running: Mapping[str, int]

    @property
    def devices(self) -> int:
        """Devices that get the version."""
        return sum(len(stage.devices) for stage in self.stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlanner:
    """Plans the rollouts of one fleet."""

    books: Books
    make_assigner: Callable[[], Assigner]
    profiles: ProfileSource
    clock: Clock
    actor: str
    families: BrowseFamily

    def plan(self, request: PlanRequest) -> RolloutPlan:
        """Work out a plan; nothing is stored.

        Raises:
            NotFoundError: No such version or group; names those there are.
            RefusedError: The version is not approved, or nobody can be given it.
            MisuseError: The stages cannot be read or do not fit the devices; or labels of a
                regression are to be compared.
        """
        request = self._settle(request)
        if len(request.slot) > SLOT_CHARS_MAX:
            raise MisuseError(f"slot {request.slot[:80]!r} is longer than {SLOT_CHARS_MAX}")
        try:
            specs = parse_stages(request.stages)
        except StageError as error:
            raise MisuseError(f"--stages: {error}; for example: 5%,25%,100%") from error
        with self.books.reading() as book:
            packages = find_packages(book, request.model, request.version, request.policy.family)
            _check_labels(book, request)
            targets = self._find_targets(book, request, packages)
            groups = _find_tests(book, specs)
            now_running = Counter(
                record.running_target
                for slots in book.devices.slots([d.number for d in targets.fit]).values()
                for record in slots
                if record.slot == request.slot and record.running_target
            )
        if not targets.fit:
            raise RefusedError(say_nobody(request, targets.left_out))
        release = name_release(request)
        try:
            planned = plan_stages(targets.fit, specs, release=release, groups=groups)
        except StageError as error:
            raise MisuseError(f"--stages {request.stages}: {error}") from error
        offline = sum(not device.is_online for device in targets.fit)
        notes = list(planned.notes)
        if offline:
            notes.append(
                f"{say_devices(offline)} offline now: held up for by nobody, served when back"
            )
        if (family := request.policy.family) is not None:
            own, back = count_members(family, [device.labels for device in targets.fit])
            notes.append(f"{say_devices(own)} get a member of their own, {back:,} the fallback")
            request = _check_members(request, targets.fit)
            notes.append(_say_check(request))
        given = {device.id: find_package(packages, device) for device in targets.fit}
        return RolloutPlan(
            request=request,
            stages=planned.stages,
            packages={} if isinstance(packages, MemberPackages) else packages,
            targets={device: found.target for device, found in given.items() if found},
            left_out=targets.left_out,
            notes=tuple(notes),
            now_running=dict(now_running.most_common()),
        )

    def store(self, plan: RolloutPlan) -> int:
        """Store a plan as a draft; return the rollout's number."""
        request, now = plan.request, self.clock.now()
        with self.books.writing() as book:
            number = book.rollouts.add(
                NewRollout(
                    model=request.model,
                    version=request.version,
                    slot=request.slot,
                    group=request.group,
                    policy=request.policy,
                    stages=tuple(stage.name for stage in plan.stages),
                    members=tuple(
                        tuple(device.number for device in stage.devices) for stage in plan.stages
                    ),
                ),
                at=now,
            )
            reasons = Counter(str(left.reason) for left in plan.left_out)
            book.audit.append(
                at=now,
                actor=self.actor,
                act="rollout.plan",
                subject=f"rollout/{number}",
                detail={
                    "release": name_release(request),
                    "group": request.group,
                    "stages": {stage.name: len(stage.devices) for stage in plan.stages},
                    "left_out": dict(reasons),
                    "policy": request.policy.to_json(),
                },
            )
        return number

    def _settle(self, request: PlanRequest) -> PlanRequest:
        """Fill in the slot, and for a family which version of which member goes to whom."""
        if not names_family(request.model):
            if request.labels or request.is_only_better:
                raise MisuseError(f"{request.model} is no family; leave --by and --only-better")
            if not request.version:
                raise MisuseError(f"say which version of {request.model}")
            return replace(request, slot=request.slot or request.model)
        if request.version:
            raise MisuseError(f"{request.model} is a family; leave the version")
        view = self.families.view(request.model)
        family = plan_family(view, request.labels, is_only_better=request.is_only_better)
        slot = request.slot or name_slot(request.model)
        return replace(request, slot=slot, policy=replace(request.policy, family=family))

    def _find_targets(self, book: Book, request: PlanRequest, packages: Packages) -> Targets:
        """Split the group, with everything that assigning would object to."""
        view = find_group(book, request.group)
        if not view.devices:
            raise RefusedError(
                f"group {request.group} has no devices: its query is {view.group.query!r};"
                f" see `edgefleet device ls` and `edgefleet group set {request.group} QUERY`"
            )
        query = read_query(view.group.query)
        targets = find_targets(view.devices, query, packages, self.profiles.load_all())
        records = book.devices.find_many([device.id for device in targets.fit])
        assigner = self.make_assigner()
        fit: list[Candidate] = []
        left_out = list(targets.left_out)
        for device in targets.fit:
            package = find_package(packages, device)
            if package is None:  # not among those that fit
                continue
            wish = Wish(device=device.id, slot=request.slot, target=package.target)
            found = _object(assigner, wish, records.get(device.id), device)
            if found is None:
                fit.append(device)
            else:
                left_out.append(found)
        return Targets(fit=tuple(fit), left_out=tuple(left_out))


def _check_members(request: PlanRequest, devices: Sequence[Candidate]) -> PlanRequest:
    """Settle how single members are judged: their limit depends on how many have devices.

    Raises:
        MisuseError: The share of false alarms is none.
    """
    policy, family = request.policy, request.policy.family
    if family is None or request.member_alpha == 0:
        return request
    chosen = {member.model for d in devices if (member := family.choose(d.labels))}
    try:
        test = MemberTest(alpha=request.member_alpha, members=max(1, len(chosen)))
    except ValueError as error:
        raise MisuseError(f"--member-false-alarms: {error}") from error
    return replace(request, policy=replace(policy, members=test))


def _say_check(request: PlanRequest) -> str:
    test = request.policy.members
    if test is None:
        return "single members are not judged: a bad one is seen in the sum of all only"
    return (
        f"{test.members:,} members are judged one by one, too: one that fails too often is"
        f" taken out, a good one in at most {say_share(test.alpha)} of rollouts"
    )


def _check_labels(book: Book, request: PlanRequest) -> None:
    """Refuse to judge the labels of a model that gives none."""
    test, family = request.policy.disagreement, request.policy.family
    model = request.model if family is None else family.all_members[0].model
    if test is None or test.difference_min or book.fleet.find_task(model) != REGRESSION:
        return
    raise MisuseError(
        f"{request.model} is a regression and has no labels to differ; say from where on numbers"
        " do, in parts of 1 + their size: --disagree-by 0.01"
    )


def name_release(request: PlanRequest) -> str:
    """Name what is rolled out, for the audit log and the order of devices."""
    if request.version:
        return f"{request.model}/{request.version}"
    members = () if request.policy.family is None else request.policy.family.all_members
    listed = "\n".join(f"{member.model}/{member.version}" for member in members)
    return f"{request.model}/{hashlib.sha256(listed.encode()).hexdigest()[:12]}"


def find_packages(
    book: Book, model: str, version: int, family: FamilyPlan | None = None
) -> Packages:
    """Return the packages of an approved version by profile, or those of a family's members.

    Raises:
        NotFoundError: No such version.
        RefusedError: It is not approved, or has no packages; no member of the family is approved.
    """
    if family is not None:
        if not is_approved(book, model, version, family):
            raise RefusedError(
                f"no member of {model} is approved any more; `edgefleet model approve '{model}'`"
            )
        return load_packages(book, model, version, family)
    state = book.fleet.find_version_state(model, version)
    if state is None:
        raise NotFoundError(
            f"no version {version} of model {model!r}; `edgefleet model ls` names those there are"
        )
    if state != APPROVED:
        raise RefusedError(
            f"{model} {version} is {state}, not approved; look at `edgefleet model show {model}"
            f" {version}`, then `edgefleet model approve {model} {version}`"
        )
    packages = book.fleet.list_packages(model, version)
    if not packages:
        raise RefusedError(f"{model} {version} has no packages; train it for a device profile")
    return packages


def say_nobody(request: PlanRequest, left_out: Sequence[LeftOut]) -> str:
    """Say why nobody of a group can be given a version."""
    parts = [f"{count} {reason}" for reason, count in Counter(x.reason for x in left_out).items()]
    first = left_out[0]
    return (
        f"nobody in group {request.group} can be given {request.model} {request.version or ''}:"
        f" {', '.join(parts)}; for example {first.device.id}: {first.detail}"
    )


def _object(
    assigner: Assigner, wish: Wish, record: DeviceRecord | None, device: Candidate
) -> LeftOut | None:
    objection = assigner.find_objection(wish, record)
    if objection is None:
        return None
    if objection.field in ("approval", "slot"):
        raise RefusedError(str(objection))
    return LeftOut(
        device=device,
        reason=Unfit.MISFIT,
        detail=f"{objection.field}: needs {objection.need}, has {objection.have}",
    )


def _find_tests(book: Book, specs: Sequence[StageSpec]) -> dict[str, Callable[[Candidate], bool]]:
    """Read the groups that stages name."""
    tests: dict[str, Callable[[Candidate], bool]] = {}
    for spec in specs:
        if spec.group:
            query = read_query(find_group(book, spec.group).group.query)
            tests[spec.group] = partial(is_in, query)
    return tests
