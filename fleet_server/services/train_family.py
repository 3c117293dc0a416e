"""Train a family: a model of its own for every value of a column, each registered when it is done.

The registry is the memory of a run: a member whose newest version was made from the same rows by
the same recipe is left as it is, so a run that was ended goes on where it was. A member that fails
is listed and stops no other.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from device_profiles.catalog import load_profile
from device_profiles.errors import ProfileError
from edge_agent.contract.schema import Task
from fleet_server.errors import MisuseError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.registry import FamilyRun, ModelRegistry, PackageStore
from fleet_server.ports.training import CodeVersions, EstimatorWriter, TableReader
from fleet_server.services.read_spec import read_spec
from fleet_server.services.register_version import (
    BuiltArtifact,
    RegisterVersion,
    TrainingResult,
)
from fleet_server.training.family import ChampionPackages, Member, Partition, split_members
from fleet_server.training.family_member import FamilyRecipe, MemberOutcome
from fleet_server.training.ingest import check_columns
from fleet_server.training.records import find_libraries
from fleet_server.training.spec import FamilySection, Spec
from fleet_server.training.spec_family import name_fallback


class MemberPool(Protocol):
    """Trains members somewhere, several at once."""

    def train(self, recipe: FamilyRecipe, members: Sequence[Member]) -> Iterator[MemberOutcome]:
        """Train members; outcomes come as they are ready, one for each member."""
        ...


class FamilyListener(Protocol):
    """Hears how far a run is."""

    def begun(self, members: int, kept: int) -> None:
        """So many members there are, and so many of them are up to date."""
        ...

    def done(self, outcome: MemberOutcome) -> None:
        """A member is registered, or has failed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedFamily:
    """A run over a family.

    Attributes:
        pattern: ``model.name`` of the spec.
        registered: Version by member.
        kept: Members that were up to date.
        failed: Reason by member.
        too_small: Rows by member that has fewer than ``rows_min``.
        rows_without: Rows with no value in a partition column.
        ways: How many graphs were made in which way.
        reasons: How many graphs were converted in full, by the reason.
        metrics: Of the registered members, by member.
        fail_share_max: Of the spec.
    """

    pattern: str
    registered: Mapping[str, int]
    kept: tuple[str, ...]
    failed: Mapping[str, str]
    too_small: Mapping[str, int]
    rows_without: int
    ways: Mapping[str, int]
    reasons: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, float]]
    fail_share_max: float

    @property
    def is_acceptable(self) -> bool:
        """Whether no more members failed than the spec allows."""
        members = len(self.registered) + len(self.kept) + len(self.failed)
        return len(self.failed) <= self.fail_share_max * members

    def to_run(self, at: datetime) -> FamilyRun:
        """Give what is kept of the run."""
        return FamilyRun(
            pattern=self.pattern,
            is_acceptable=self.is_acceptable,
            sentence=(
                f"{len(self.registered):,} registered, {len(self.kept):,} up to date,"
                f" {len(self.failed):,} failed, {len(self.too_small):,} with too few rows."
            ),
            registered=len(self.registered),
            kept=len(self.kept),
            failed=self.failed,
            too_small=self.too_small,
            rows_without=self.rows_without,
            reasons=self.reasons,
            at=at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainFamily:
    """The use case.

    Attributes:
        profiles_dir: Folder of the user's own device profiles.
    """

    reader: TableReader
    registry: ModelRegistry
    packages: PackageStore
    estimators: EstimatorWriter
    code_versions: CodeVersions
    clock: Clock
    pool: MemberPool
    listener: FamilyListener
    profiles_dir: Path | None = None

    def train(self, spec_path: Path, *, actor: str) -> TrainedFamily:
        """Train what is not up to date and register it.

        Raises:
            MisuseError: The spec cannot be read or is wrong.
            RefusedError: The data cannot be read or taken apart.
            NotFoundError: The data file is missing.
        """
        spec = read_spec(spec_path, self.profiles_dir)
        if spec.family is None:
            raise MisuseError(f"{spec_path.name} is the spec of one model, not of a family")
        recipe = self._make_recipe(spec, spec_path)
        partition = self._read(spec, spec.family, spec_path.parent)
        kept = [m.name for m in partition.members if self._is_up_to_date(m, recipe)]
        up_to_date = set(kept)
        todo = [
            replace(member, champion=self._find_champion(member.name))
            for member in partition.members
            if member.name not in up_to_date
        ]
        self.listener.begun(len(partition.members), len(kept))
        registered: dict[str, int] = {}
        failed: dict[str, str] = {}
        ways, reasons = Counter[str](), Counter[str]()
        metrics: dict[str, Mapping[str, float]] = {}
        for trained in self._train(recipe, todo):
            outcome = self._register(spec, trained, registered, actor)
            if outcome.failure:
                failed[outcome.member] = outcome.failure
            else:
                metrics[outcome.member] = outcome.metrics
                ways.update(outcome.ways.values())
                reasons.update(reason for reason in outcome.reasons.values() if reason)
            self.listener.done(outcome)
        family = TrainedFamily(
            pattern=spec.model.name,
            registered=registered,
            kept=tuple(kept),
            failed=failed,
            too_small=partition.too_small,
            rows_without=partition.rows_without,
            ways=dict(ways),
            reasons=dict(reasons),
            metrics=metrics,
            fail_share_max=spec.family.fail_share_max,
        )
        self.registry.record_family_run(family.to_run(self.clock.now()), actor=actor)
        return family

    def _train(self, recipe: FamilyRecipe, todo: Sequence[Member]) -> Iterator[MemberOutcome]:
        """Train the fallback before the members, which are compared with it."""
        for member in todo:
            if member.is_fallback:
                yield from self.pool.train(recipe, [member])
        own = [member for member in todo if not member.is_fallback]
        if own:
            pattern = recipe.spec.model.name
            fallback = self._find_newest(name_fallback(pattern)) if recipe.has_fallback else None
            yield from self.pool.train(replace(recipe, fallback=fallback), own)

    def _make_recipe(self, spec: Spec, spec_path: Path) -> FamilyRecipe:
        try:
            profiles = tuple(
                load_profile(limit.profile, self.profiles_dir).to_table() for limit in spec.profiles
            )
        except ProfileError as error:
            raise MisuseError(str(error)) from error
        said = {
            "spec": spec.text,
            "libraries": find_libraries(),
            "profiles": profiles,
        }
        return FamilyRecipe(
            spec=spec,
            key=hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest(),
            profiles=profiles,
            code=self.code_versions.find(spec_path.resolve().parent),
            writer=self.estimators,
            packages=self.packages,
        )

    def _read(self, spec: Spec, family: FamilySection, folder: Path) -> Partition:
        path = folder / spec.data.path
        listed = self.reader.list_columns(path)
        check_columns(spec, listed, source=path.name)
        absent = [column for column in family.partition if column not in listed]
        if absent:
            raise RefusedError(
                f"{path.name}: column {absent[0]!r} (family.partition) is not in the file"
            )
        is_class = spec.model.task is Task.CLASSIFICATION
        target = spec.data.target_columns
        table = self.reader.read(
            path,
            numbers=[*spec.data.number_columns, *([] if is_class else target)],
            words=[*spec.data.word_columns, *(target if is_class else []), *family.partition],
        )
        return split_members(spec, table, source=path.name)

    def _is_up_to_date(self, member: Member, recipe: FamilyRecipe) -> bool:
        model = self.registry.find_model(member.name)
        if model is None or not model.versions:
            return False
        newest = self.registry.find_version(member.name, max(model.versions))
        made = newest.run.get("family", {}) if newest is not None else {}
        return bool(made.get("rows") == member.key and made.get("recipe") == recipe.key)

    def _find_champion(self, name: str) -> ChampionPackages | None:
        model = self.registry.find_model(name)
        return self._find_packages(name, model.champion) if model is not None else None

    def _find_newest(self, name: str) -> ChampionPackages | None:
        model = self.registry.find_model(name)
        return self._find_packages(name, max(model.versions, default=0)) if model else None

    def _find_packages(self, name: str, number: int) -> ChampionPackages | None:
        version = self.registry.find_version(name, number) if number else None
        if version is None:
            return None
        packages = {a.package.profile: a.package.sha256 for a in version.artifacts}
        return ChampionPackages(number=version.number, packages=packages)

    def _register(
        self, spec: Spec, outcome: MemberOutcome, registered: dict[str, int], actor: str
    ) -> MemberOutcome:
        """Register a member that was trained; one that the registry refuses has failed."""
        if outcome.failure:
            return outcome
        service = RegisterVersion(registry=self.registry, packages=self.packages, clock=self.clock)
        source_model = self.packages.put(outcome.source_model)
        result = TrainingResult(
            spec=replace(spec, model=replace(spec.model, name=outcome.member)),
            metrics=outcome.metrics,
            evaluation=outcome.evaluation,
            forced_reason="",
            data_sha256=outcome.data_sha256,
            run={**outcome.run, "source_model": source_model},
            built=tuple(BuiltArtifact.of(p, built) for p, built in outcome.packages.items()),
        )
        try:
            registered[outcome.member] = service.register(result, actor=actor)
        except RefusedError as error:
            return MemberOutcome(member=outcome.member, failure=str(error))
        return outcome
