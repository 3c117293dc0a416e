"""Train a spec: data in, a registered version with a package for each profile out.

Nothing is registered before every package is built and every limit judged; a refusal at any step
leaves the registry as it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.request import BuiltPackage
from device_profiles.catalog import load_profile
from device_profiles.errors import ProfileError
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import Task
from fleet_server.errors import MisuseError, RefusedError
from fleet_server.ports.clock import Clock
from fleet_server.ports.registry import Model, ModelRegistry, PackageStore
from fleet_server.ports.training import (
    CodeVersions,
    EstimatorWriter,
    PictureReader,
    StepListener,
    TableReader,
)
from fleet_server.services.read_pictures import ReadPictures
from fleet_server.services.read_spec import read_spec
from fleet_server.services.register_version import (
    BuiltArtifact,
    RegisterVersion,
    TrainingResult,
)
from fleet_server.training.alike_pictures import find_alike
from fleet_server.training.dataset import Dataset, Side, split_rows
from fleet_server.training.examination import Champion, Examination, ProfileResult
from fleet_server.training.fit import Fitted, answer, fit
from fleet_server.training.fit_network import fit_network
from fleet_server.training.gates import Gate, Verdict
from fleet_server.training.ingest import check_columns, make_dataset, settle_spec
from fleet_server.training.picture_build import build_pictures_for_profile
from fleet_server.training.records import SourceModel, describe_evaluation, describe_run
from fleet_server.training.shipped import build_for_profile
from fleet_server.training.spec import PictureSection, ProfileLimit, Spec, make_schema
from fleet_server.training.worst_pictures import find_worst

REASON_CHARS_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A registered training.

    Attributes:
        number: Its version.
        missed: Limits that were overridden by a reason.
        inconclusive: Limits that more rows would settle.
        notes: What else is worth saying.
    """

    model: str
    number: int
    missed: tuple[Gate, ...]
    inconclusive: tuple[Gate, ...]
    notes: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Report:
    """What a run records on its way.

    Attributes:
        facts: Of pictures, and of what was trained on them, for the record of the run.
        worst: Held-out pictures that the source answers worst, for the evaluation.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    worst: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Step:
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainModel:
    """The use case.

    Attributes:
        profiles_dir: Folder of the user's own device profiles.
    """

    reader: TableReader
    pictures: PictureReader
    registry: ModelRegistry
    packages: PackageStore
    estimators: EstimatorWriter
    code_versions: CodeVersions
    clock: Clock
    listener: StepListener
    profiles_dir: Path | None = None

    def train(self, spec_path: Path, *, actor: str, force_reason: str | None = None) -> Trained:
        """Train, judge, build and register.

        Args:
            spec_path: The spec file.
            actor: Who asks.
            force_reason: Registers in spite of missed limits; recorded when it was needed.

        Raises:
            MisuseError: The spec cannot be read or is wrong, or the reason is empty or too long.
            RefusedError: The data, the estimator, a limit or a profile says no.
            NotFoundError: The data file is missing.
        """
        reason = check_reason(force_reason)
        spec = read_spec(spec_path, self.profiles_dir)
        if spec.family is not None:
            raise MisuseError(f"{spec_path.name} is the spec of a family, not of one model")
        model = self.registry.find_model(spec.model.name)
        _check_task(spec, model)
        report = _Report()
        dataset = self._ingest(spec, spec_path.parent, report)
        spec = settle_spec(spec, dataset)
        self._check_frozen(spec, dataset, model)
        source, missed = self._learn(spec, dataset, report)
        _refuse_missed(spec, missed, reason)
        code = self.code_versions.find(spec_path.resolve().parent)
        run = describe_run(source, dataset, code)
        champion = self._load_champion(model)
        results, built = self._build_all(source, champion, run, report)
        gates = [gate for result in results.values() for gate in result.gates]
        missed = [gate for gate in gates if gate.verdict is Verdict.MISSED]
        _refuse_missed(spec, missed, reason)
        if champion is None and any(limit.regression_max is not None for limit in spec.metrics):
            report.notes.append("no champion yet, so regression_max had nothing to compare with")
        with self._step(report, "register", "packages and version") as step:
            run["source_model"] = self.packages.put(self.estimators.write(source.estimator))
            number = RegisterVersion(
                registry=self.registry, packages=self.packages, clock=self.clock
            ).register(
                TrainingResult(
                    spec=spec,
                    metrics=source.metrics,
                    evaluation={
                        **describe_evaluation(source, results, champion.number if champion else 0),
                        **report.worst,
                    },
                    forced_reason=reason if missed else "",
                    data_sha256=dataset.sha256,
                    run={
                        **run,
                        **report.facts,
                        "seconds": report.seconds,
                        "notes": report.notes,
                    },
                    built=built,
                ),
                actor=actor,
            )
            step.sentence = f"{spec.model.name} {number}"
        return Trained(
            model=spec.model.name,
            number=number,
            missed=tuple(missed),
            inconclusive=tuple(g for g in gates if g.verdict is Verdict.INCONCLUSIVE),
            notes=tuple(report.notes),
        )

    def _ingest(self, spec: Spec, folder: Path, report: _Report) -> Dataset:
        if spec.data.pictures is not None:
            return self._ingest_pictures(spec, spec.data.pictures, folder, report)
        path = folder / spec.data.path
        with self._step(report, "ingest", path.name) as step:
            check_columns(spec, self.reader.list_columns(path), source=path.name)
            is_class = spec.model.task is Task.CLASSIFICATION
            target = spec.data.target_columns
            table = self.reader.read(
                path,
                numbers=[*spec.data.number_columns, *([] if is_class else target)],
                words=[*spec.data.word_columns, *(target if is_class else [])],
            )
            dataset = make_dataset(spec, table, source=path.name)
            rows, width = dataset.features.shape
            classes = f", {len(dataset.classes)} classes" if dataset.classes else ""
            if spec.data.targets:
                kind = "labels" if is_class else "targets"
                classes = f", {len(spec.data.targets)} {kind}"
            step.sentence = (
                f"{rows:,} rows of {width:,} columns{classes}   data {dataset.sha256[:12]}"
            )
        return dataset

    def _ingest_pictures(
        self, spec: Spec, asked: PictureSection, folder: Path, report: _Report
    ) -> Dataset:
        with self._step(report, "ingest", spec.data.path) as step:
            profile = self._load_profile(spec.profiles[0].profile)
            data = ReadPictures(reader=self.pictures, listener=self.listener).read(
                *(spec, asked, folder, profile), step="ingest"
            )
            report.facts["pictures"] = data.record
            report.notes += data.notes
            image, dataset = asked.image, data.dataset
            classes = f", {len(dataset.classes)} classes" if dataset.classes else ""
            if dataset.labels:
                classes = f", {len(dataset.labels)} labels"
            step.sentence = (
                f"{len(dataset.features):,} pictures seen as {image.height} x {image.width}"
                f" {image.colours}{classes}   data {dataset.sha256[:12]}"
            )
        return dataset

    def _check_frozen(self, spec: Spec, dataset: Dataset, model: Model | None) -> None:
        """Refuse a split that would train on rows the version before was tested on."""
        if model is None or not model.versions or not spec.split.is_frozen:
            return
        newest = max(model.versions)
        before = self.registry.find_version(model.name, newest)
        split = before.run.get("split", {}) if before else {}
        if not split.get("is_frozen"):
            return
        old = (split["test"], split["seed"], split["columns_sha256"])
        new = (spec.split.test, spec.split.seed, dataset.columns_sha256)
        if old == new:
            return
        what = (
            f"test {new[0]:g} and seed {new[1]} instead of {old[0]:g} and {old[1]}"
            if old[:2] != new[:2]
            else "other features or another target"
        )
        raise RefusedError(
            f"split.freeze: {model.name} {newest} has frozen its held-out rows, and {what} would"
            " train on some of them. Keep what it has, or say freeze = false"
        )

    def _learn(
        self, spec: Spec, dataset: Dataset, report: _Report
    ) -> tuple[SourceModel, list[Gate]]:
        with self._step(report, "split", f"test {spec.split.test:g}") as step:
            train, test = split_rows(dataset, spec.split)
            if spec.data.pictures is not None:
                alike = find_alike(train, test, spec.data.pictures.image)
                report.facts["pictures"]["alike"] = alike.to_json()
                report.notes += [alike.note] if alike.note else []
            step.sentence = f"{len(train):,} rows to train on, {len(test):,} held out"
        names = [*(s.use for s in spec.train.steps), spec.train.estimator]
        chain = " → ".join(name.rpartition(".")[2] for name in names)
        with self._step(report, "train", chain) as step:
            fitted = self._fit(spec, train, dataset.classes, report)
            report.notes += fitted.notes
            step.sentence = chain
        schema = make_schema(spec, dataset.classes, dataset.labels)
        with self._step(report, "evaluate", "the source model") as step:
            answers = answer(fitted, spec.model.task, test.features)
            exam = Examination(spec.metrics, schema, test)
            metrics, missed = exam.judge_source(answers)
            if test.pictures is not None:
                report.worst["worst_pictures"] = find_worst(
                    test.targets, answers, dataset.classes, test.pictures.names, dataset.labels
                )
            step.sentence = _say_metrics(spec, metrics)
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
        return source, missed

    def _fit(self, spec: Spec, train: Side, classes: tuple[str, ...], report: _Report) -> Fitted:
        settings, asked = spec.train.cnn, spec.data.pictures
        if settings is None or asked is None:
            return fit(spec, train, classes)
        fitted = fit_network(
            *(spec, settings, asked, train, classes),
            tell=lambda detail: self.listener.working("train", detail),
        )
        report.facts["network"] = fitted.estimator.record
        return fitted

    def _load_champion(self, model: Model | None) -> Champion | None:
        if model is None or not model.champion:
            return None
        champion = self.registry.find_version(model.name, model.champion)
        if champion is None:
            return None
        blobs = {
            a.package.profile: self.packages.read(a.package.sha256) for a in champion.artifacts
        }
        return Champion(number=champion.number, packages=blobs)

    def _build_all(
        self,
        source: SourceModel,
        champion: Champion | None,
        run: Mapping[str, Any],
        report: _Report,
    ) -> tuple[dict[str, ProfileResult], tuple[BuiltArtifact, ...]]:
        context = {**run, "model": source.spec.model.name, "metrics": dict(source.metrics)}
        results, built = {}, []
        for limit in source.spec.profiles:
            with self._step(report, f"build {limit.profile}", "convert, quantize, check") as step:
                profile = self._load_profile(limit.profile)
                package = _build(source, profile, limit, context)
                results[limit.profile] = source.exam.judge_package(package.blob, profile, champion)
                built.append(BuiltArtifact.of(limit.profile, package))
                shipped = results[limit.profile].estimates[source.spec.primary]
                step.sentence = (
                    f"{package.evidence['rung']}   {len(package.blob):,} bytes   p95"
                    f" {package.latency_ms_p95:.3g} ms   {source.spec.primary} {shipped.value:.4g}"
                )
        return results, tuple(built)

    def _load_profile(self, profile_id: str) -> DeviceProfile:
        try:
            return load_profile(profile_id, self.profiles_dir)
        except ProfileError as error:
            raise MisuseError(str(error)) from error

    @contextmanager
    def _step(self, report: _Report, name: str, detail: str) -> Iterator[_Step]:
        started, step = self.clock.monotonic(), _Step()
        self.listener.started(name, detail)
        yield step
        report.seconds[name] = round(self.clock.monotonic() - started, 3)
        self.listener.finished(name, report.seconds[name], step.sentence)


def _build(
    source: SourceModel, profile: DeviceProfile, limit: ProfileLimit, context: Mapping[str, Any]
) -> BuiltPackage:
    pictures = source.spec.data.pictures
    if pictures is not None:
        return build_pictures_for_profile(source, pictures.image, profile, limit, context)
    return build_for_profile(
        source.estimator,
        source.schema,
        profile,
        limit,
        source.train,
        source.test,
        primary=source.spec.primary,
        context=context,
    )


def check_reason(force_reason: str | None) -> str:
    """Give the reason of ``--force``, empty without one; raises MisuseError when it is none."""
    if force_reason is None:
        return ""
    reason = force_reason.strip()
    if not reason or len(reason) > REASON_CHARS_MAX:
        raise MisuseError(
            f"--force needs a reason of 1 to {REASON_CHARS_MAX} characters; it is recorded"
        )
    return reason


def _check_task(spec: Spec, model: Model | None) -> None:
    if model is not None and model.task != spec.model.task:
        raise RefusedError(
            f"{model.name} is a {model.task} since its first version, the spec says"
            f" {spec.model.task}; give the new model another name"
        )


def _refuse_missed(spec: Spec, missed: Sequence[Gate], reason: str) -> None:
    if not missed or reason:
        return
    count = f"{len(missed)} limit{'s' if len(missed) != 1 else ''} missed"
    lines = [f"  {gate.sentence}" for gate in missed]
    raise RefusedError(
        "\n".join(
            [
                f"{spec.model.name} is not registered: {count}",
                *lines,
                'Mend the data or the spec, or register it all the same with --force "reason"',
            ]
        )
    )


def _say_metrics(spec: Spec, metrics: Mapping[str, float]) -> str:
    named = dict.fromkeys([spec.primary, *(limit.name for limit in spec.metrics)])
    return "   ".join(f"{name} {metrics[name]:.4g}" for name in named)
