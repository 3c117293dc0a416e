"""Examine a model on held-out rows: the source, then what ships for each profile.

One examination holds one set of rows, so every figure and bound of a training rests on the same
questions, the champion's included.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from numpy.typing import NDArray

from device_profiles.profile import DeviceProfile
from edge_agent.contract.outputs import slice_labels
from edge_agent.contract.schema import ModelSchema, Task
from fleet_server.training.champion import ChampionAnswers, ask_champion
from fleet_server.training.dataset import Side
from fleet_server.training.gates import (
    Gate,
    judge_champion,
    judge_shipped,
    judge_source,
    skip_champion,
)
from fleet_server.training.intervals import Estimate, Resampler
from fleet_server.training.metrics import (
    Answers,
    confusion_matrix,
    list_metrics,
    measure_all,
)
from fleet_server.training.shipped import answer_package
from fleet_server.training.spec import MetricLimit

Confusion = list[list[int]] | dict[str, list[list[int]]]
"""Rows by truth and answer; of several labels for each by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The version in service, as it shipped.

    Attributes:
        number: Its version.
        packages: Blob by profile id.
    """

    number: int
    packages: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileResult:
    """How one shipped graph did.

    Attributes:
        estimates: Every metric of the task with its bounds.
        confusion: Rows by truth and answer, of several labels for each; empty for a regression.
        gates: Each limit judged.
        answers: What it answered.
        targets: Of several targets, every metric of each.
        labels: Of several labels, every metric of each.
    """

    estimates: Mapping[str, Estimate]
    confusion: Confusion
    gates: Sequence[Gate]
    answers: Answers
    targets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form stored with the version; the gates are stored apart."""
        metrics = {
            name: {key: value for key, value in asdict(estimate).items() if key != "rows"}
            for name, estimate in self.estimates.items()
        }
        each = {"targets": self.targets, "labels": self.labels}
        said = {name: own for name, own in each.items() if own}
        return {"metrics": metrics, "confusion": self.confusion, **said}


class Examination:
    """Held-out rows, the limits of a spec, and what both say of a model."""

    def __init__(self, limits: Sequence[MetricLimit], schema: ModelSchema, test: Side) -> None:
        self._limits, self._schema, self._test = limits, schema, test
        self._resampler = Resampler(len(test))
        self._metrics = list_metrics(schema.task, schema.labels)

    def judge_source(self, answers: Answers) -> tuple[dict[str, float], list[Gate]]:
        """Measure the source model; only the limits it misses come back as gates."""
        schema = self._schema
        metrics = measure_all(schema.task, self._test.targets, answers, schema.labels)
        return metrics, judge_source(self._limits, metrics)

    def confusion(self, answers: Answers) -> Confusion:
        """Count rows by truth and answer; empty for a regression."""
        if self._schema.task is not Task.CLASSIFICATION:
            return []
        if self._schema.labels:
            return {
                name: confusion_matrix(truth, one, classes)
                for name, truth, one, classes in self._each_label(answers)
            }
        return confusion_matrix(self._test.targets, answers, len(self._schema.classes))

    def judge_package(
        self, blob: bytes, profile: DeviceProfile, champion: Champion | None
    ) -> ProfileResult:
        """Let a package answer and judge every limit, the champion's margin included.

        Raises:
            RefusedError: The runtime refuses its graph.
        """
        answers = self._answer(blob, profile)
        truth = self._test.targets
        estimates = {
            metric.name: self._resampler.estimate(metric, truth, answers)
            for metric in self._metrics.values()
        }
        gates = judge_shipped(self._limits, profile.id, estimates)
        if champion is not None:
            gates += self._compare(answers, profile, champion)
        return ProfileResult(
            estimates=estimates,
            confusion=self.confusion(answers),
            gates=tuple(gates),
            answers=answers,
            targets=self._measure_targets(answers),
            labels={
                name: measure_all(self._schema.task, own, one)
                for name, own, one, _ in self._each_label(answers)
            },
        )

    def _each_label(self, answers: Answers) -> Iterator[tuple[str, NDArray[Any], Answers, int]]:
        """Give name, truth, answers and number of classes of each of several labels."""
        labels, truth = self._schema.labels, self._test.targets
        for place, columns in enumerate(slice_labels(labels)):
            classes = columns.stop - columns.start
            own = answers.take_label(place, columns)
            yield labels[place].name, truth[:, place], own, classes

    def _measure_targets(self, answers: Answers) -> dict[str, Mapping[str, float]]:
        """Give every metric of each of several targets."""
        truth = self._test.targets
        return {
            name: measure_all(
                self._schema.task, truth[:, place], Answers.of_values(answers.values[:, place])
            )
            for place, name in enumerate(self._schema.targets)
        }

    def compare_champion(
        self, mine: Answers, profile: DeviceProfile, champion: Champion, name: str
    ) -> dict[str, Any] | None:
        """Tell how much better a package is than the champion's in one metric; judges nothing.

        Args:
            mine: What the candidate's package answered.
            profile: Both were built for it.
            champion: The version in service.
            name: Of the metric.

        Returns:
            ``value`` (above 0 where the candidate is better), its one-sided 95 % bounds ``low`` and
            ``high``, and what was compared; None where the champion cannot be asked.
        """
        if profile.id not in champion.packages:
            return None
        asked = self._ask(champion, profile)
        if asked.answers is None:
            return None
        found = self._resampler.compare(
            self._metrics[name], self._test.targets, mine, asked.answers
        )
        return {
            "champion": champion.number,
            "metric": name,
            "profile": profile.id,
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "rows": found.rows,
        }

    def _answer(self, blob: bytes, profile: DeviceProfile) -> Answers:
        test = self._test
        return answer_package(blob, self._schema.task, profile, test.features, test.pictures)

    def _ask(self, champion: Champion, profile: DeviceProfile) -> ChampionAnswers:
        blob, test = champion.packages[profile.id], self._test
        return ask_champion(blob, self._schema, profile, test.features, test.pictures)

    def _compare(self, answers: Answers, profile: DeviceProfile, champion: Champion) -> list[Gate]:
        margins = {
            limit.name: limit.regression_max
            for limit in self._limits
            if limit.regression_max is not None
        }
        if not margins:
            return []
        theirs, reason = None, f"it was not built for {profile.id}"
        if profile.id in champion.packages:
            asked = self._ask(champion, profile)
            theirs, reason = asked.answers, asked.reason
        gates = []
        for name, margin in margins.items():
            if theirs is None:
                gates.append(
                    skip_champion(
                        metric=name,
                        subject=profile.id,
                        champion=champion.number,
                        margin=margin,
                        reason=reason,
                    )
                )
                continue
            difference = self._resampler.compare(
                self._metrics[name], self._test.targets, answers, theirs
            )
            gates.append(
                judge_champion(
                    metric=name,
                    subject=profile.id,
                    champion=champion.number,
                    margin=margin,
                    difference=difference,
                )
            )
        return gates
