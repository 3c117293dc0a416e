"""Train one member of a family and build its packages: what a job of the pool does.

Everything that goes in and out can be pickled, as jobs run in other processes. A fault of one
member becomes its outcome and stops no other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from converters.errors import ConversionError
from converters.families.family_builder import FamilyBuilder
from converters.request import BuiltPackage
from device_profiles.profile import DeviceProfile
from fleet_server.errors import FleetError, RefusedError
from fleet_server.ports.registry import AGAINST_CHAMPION, AGAINST_FALLBACK, PackageStore
from fleet_server.ports.training import CodeVersion, EstimatorWriter
from fleet_server.training.dataset import split_rows
from fleet_server.training.examination import Champion, Examination, ProfileResult
from fleet_server.training.family import ChampionPackages, Member
from fleet_server.training.fit import answer, fit
from fleet_server.training.gates import Gate, Verdict
from fleet_server.training.ingest import make_dataset, settle_spec
from fleet_server.training.member_faults import UNFORESEEN, say_fault
from fleet_server.training.records import SourceModel, describe_evaluation, describe_run
from fleet_server.training.shipped import make_request
from fleet_server.training.spec import Spec, make_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRecipe:
    """What every member of a run is made by.

    Attributes:
        spec: With its family section.
        key: Digest of spec, libraries and device profiles: the same recipe gives the same models.
        profiles: Tables of the device profiles, in the order of the spec.
        code: Of the spec's folder.
        writer: Gives the bytes of a source model.
        packages: Reads the packages of champions and the fallback; None where there are none.
        fallback: Version of the fallback that members are compared with; None where there is none.
    """

    spec: Spec
    key: str
    profiles: tuple[Mapping[str, Any], ...]
    code: CodeVersion
    writer: EstimatorWriter
    packages: PackageStore | None = None
    fallback: ChampionPackages | None = None

    @property
    def has_fallback(self) -> bool:
        """Whether the family has a member for devices without one."""
        return self.spec.family is not None and self.spec.family.has_fallback


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberOutcome:
    """How one member went.

    Attributes:
        member: Its model name.
        failure: Why there is nothing to register; empty when there is.
        packages: By profile id.
        source_model: Bytes of the fitted estimator.
        metrics: Of the source model on held-out rows.
        evaluation: As a version keeps it.
        run: As a version keeps it.
        data_sha256: Version of its rows.
        ways: How each package's graph was made, by profile id.
        reasons: Why it was converted in full, by profile id; empty where it was not.
    """

    member: str
    failure: str = ""
    packages: Mapping[str, BuiltPackage] = field(default_factory=dict)
    source_model: bytes = b""
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    data_sha256: str = ""
    ways: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Bench:
    """Where one member is being made.

    Attributes:
        doing: What is being done, for the words of a fault nobody foresaw.
    """

    doing: str = "reading its rows"


def train_members(recipe: FamilyRecipe, members: Sequence[Member]) -> list[MemberOutcome]:
    """Train and build some members, one after the other; never fails for one of them."""
    return [_outcome(recipe, member) for member in members]


def _outcome(recipe: FamilyRecipe, member: Member) -> MemberOutcome:
    bench = _Bench()
    try:
        return _train(recipe, member, bench)
    except (FleetError, ConversionError) as error:
        return MemberOutcome(member=member.name, failure=str(error))
    except UNFORESEEN as error:
        return MemberOutcome(member=member.name, failure=say_fault(bench.doing, error))


def _train(recipe: FamilyRecipe, member: Member, bench: _Bench) -> MemberOutcome:
    spec = replace(recipe.spec, model=replace(recipe.spec.model, name=member.name))
    dataset = make_dataset(spec, member.table, source=member.name)
    spec = settle_spec(spec, dataset)
    train, test = split_rows(dataset, spec.split)
    bench.doing = "fitting it"
    fitted = fit(spec, train, dataset.classes)
    bench.doing = "asking it the held-out rows"
    schema = make_schema(spec, dataset.classes, dataset.labels)
    answers = answer(fitted, spec.model.task, test.features, name=member.name)
    exam = Examination(spec.metrics, schema, test)
    metrics, missed = exam.judge_source(answers)
    _refuse(missed)
    source = SourceModel(
        spec=spec,
        schema=schema,
        train=train,
        test=test,
        estimator=fitted.estimator,
        exam=exam,
        metrics=metrics,
        confusion=exam.confusion(answers),
    )
    run = describe_run(source, dataset, recipe.code)
    run["family"] = {
        "pattern": recipe.spec.model.name,
        "values": dict(member.values),
        "rows": member.key,
        "recipe": recipe.key,
        "is_fallback": member.is_fallback,
    }
    bench.doing = "reading the packages of its champion"
    champion = _load_champion(recipe, member)
    context = {**run, "model": member.name, "metrics": dict(metrics)}
    packages, results = {}, {}
    ways: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for table, limit in zip(recipe.profiles, spec.profiles, strict=True):
        profile = DeviceProfile.from_table(table, source=limit.profile)
        bench.doing = f"building its package for {profile.id}"
        request = make_request(
            fitted.estimator,
            schema,
            profile,
            limit,
            train,
            test,
            primary=spec.primary,
            context=context,
        )
        own = FamilyBuilder() if member.is_fallback else _builder(recipe.key, profile.id)
        built = own.build(request)
        packages[profile.id], ways[profile.id] = built.package, str(built.way)
        reasons[profile.id] = built.reason
        bench.doing = f"asking its package for {profile.id} the held-out rows"
        results[profile.id] = exam.judge_package(built.package.blob, profile, champion)
    _refuse([gate for result in results.values() for gate in result.gates])
    evaluation = describe_evaluation(source, results, champion.number if champion else 0)
    evaluation |= _compare(recipe, member, exam, results, champion, bench)
    bench.doing = "keeping its source model"
    return MemberOutcome(
        member=member.name,
        packages=packages,
        source_model=recipe.writer.write(fitted.estimator),
        metrics=metrics,
        evaluation=evaluation,
        run={
            **run,
            "ways": ways,
            "full_because": {profile: why for profile, why in reasons.items() if why},
            "notes": list(fitted.notes),
        },
        data_sha256=dataset.sha256,
        ways=ways,
        reasons=reasons,
    )


def _compare(
    recipe: FamilyRecipe,
    member: Member,
    exam: Examination,
    results: Mapping[str, ProfileResult],
    champion: Champion | None,
    bench: _Bench,
) -> dict[str, Any]:
    """Compare what ships for the first profile with what is in service, and with the fallback."""
    spec, found = recipe.spec, dict[str, Any]()
    if not spec.profiles:
        return found
    first = DeviceProfile.from_table(recipe.profiles[0], source=spec.profiles[0].profile)
    mine = results[first.id].answers
    if champion is not None:
        bench.doing = "comparing it with its champion"
        found[AGAINST_CHAMPION] = exam.compare_champion(mine, first, champion, spec.primary)
    fallback = recipe.fallback
    if fallback is not None and not member.is_fallback and recipe.packages is not None:
        bench.doing = "comparing it with the fallback"
        package = fallback.packages.get(first.id)
        packages = {first.id: recipe.packages.read(package)} if package else {}
        other = Champion(number=fallback.number, packages=packages)
        compared = exam.compare_champion(mine, first, other, spec.primary)
        if compared is not None:
            del compared["champion"]
            found[AGAINST_FALLBACK] = {**compared, "fallback": fallback.number}
    return found


def _load_champion(recipe: FamilyRecipe, member: Member) -> Champion | None:
    if member.champion is None or recipe.packages is None:
        return None
    blobs = {
        profile: recipe.packages.read(sha256)
        for profile, sha256 in member.champion.packages.items()
    }
    return Champion(number=member.champion.number, packages=blobs)


@cache
def _builder(recipe: str, profile: str) -> FamilyBuilder:
    """Give this process's builder for a recipe and a profile."""
    del recipe, profile
    return FamilyBuilder()


def _refuse(gates: Sequence[Gate]) -> None:
    missed = [gate.sentence for gate in gates if gate.verdict is Verdict.MISSED]
    if missed:
        raise RefusedError("; ".join(missed))
