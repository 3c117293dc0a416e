"""Examine a model on held-out rows: the source, then what ships for each profile.

One examination holds one set of rows, so every figure and bound of a training rests on the same
questions, the champion's included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from device_profiles.profile import DeviceProfile
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
from fleet_server.training.metrics import METRICS, Answers, confusion_matrix, measure_all
from fleet_server.training.shipped import answer_package
from fleet_server.training.spec import MetricLimit


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
        confusion: Rows by truth and answer; empty for a regression.
        gates: Each limit judged.
        answers: What it answered.
        targets: Of several targets, every metric of each.
    """

    estimates: Mapping[str, Estimate]
    confusion: list[list[int]]
    gates: Sequence[Gate]
    answers: Answers
    targets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form stored with the version; the gates are stored apart."""
        metrics = {
            name: {key: value for key, value in asdict(estimate).items() if key != "rows"}
            for name, estimate in self.estimates.items()
        }
        said = {"metrics": metrics, "confusion": self.confusion}
        return {**said, "targets": self.targets} if self.targets else said


class Examination:
    """Held-out rows, the limits of a spec, and what both say of a model."""

    def __init__(self, limits: Sequence[MetricLimit], schema: ModelSchema, test: Side) -> None:
        self._limits, self._schema, self._test = limits, schema, test
        self._resampler = Resampler(len(test))
        self._metrics = [m for m in METRICS.values() if m.task is schema.task]

    def judge_source(self, answers: Answers) -> tuple[dict[str, float], list[Gate]]:
        """Measure the source model; only the limits it misses come back as gates."""
        metrics = measure_all(self._schema.task, self._test.targets, answers)
        return metrics, judge_source(self._limits, metrics)

    def confusion(self, answers: Answers) -> list[list[int]]:
        """Count rows by truth and answer; empty for a regression."""
        if self._schema.task is not Task.CLASSIFICATION:
            return []
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
            for metric in self._metrics
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
        )

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
        found = self._resampler.compare(METRICS[name], self._test.targets, mine, asked.answers)
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
            difference = self._resampler.compare(METRICS[name], self._test.targets, answers, theirs)
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
