"""Two models' answers to the same rows, compared and counted."""

import numpy as np

from edge_agent.contract.shadow import DIFFERENCE_EDGES
from edge_agent.statistics.agreement import Answers, Comparison


def answers(labels: list[int], numbers: list[list[float]]) -> Answers:
    return Answers(
        labels=np.array(labels, np.int64) if labels else None,
        numbers=np.array(numbers, np.float32),
    )


def test_classes_in_another_order_are_the_same_classes() -> None:
    comparison = Comparison(("calm", "storm"), ("storm", "calm"), DIFFERENCE_EDGES)
    found = comparison.compare(
        answers([0, 1], [[0.75, 0.25], [0.25, 0.75]]),
        answers([1, 0], [[0.25, 0.75], [0.75, 0.25]]),
    )
    assert found.differs == 0
    assert found.difference == (2, 0, 0, 0, 0, 0, 0, 0)


def test_a_class_only_one_of_them_knows_has_probability_zero_in_the_other() -> None:
    comparison = Comparison(("calm",), ("calm", "fog"), DIFFERENCE_EDGES)
    found = comparison.compare(answers([0], [[1.0]]), answers([1], [[0.25, 0.75]]))
    assert found.differs == 1
    assert found.difference[6] == 1  # 0.75 / (1 + 0)


def test_values_are_binned_by_their_relative_difference() -> None:
    comparison = Comparison((), (), (0.1, 1.0))
    found = comparison.compare(
        answers([], [[9.0], [9.0], [0.0]]), answers([], [[9.5], [10.0], [5.0]])
    )
    assert (found.differs, found.difference) == (0, (1, 1, 1))


def test_what_is_no_number_is_counted_apart_unless_both_gave_it() -> None:
    nan, inf = float("nan"), float("inf")
    comparison = Comparison((), (), (0.1, 1.0))
    found = comparison.compare(
        answers([], [[1.0], [nan], [nan], [inf]]), answers([], [[nan], [nan], [1.0], [inf]])
    )
    assert found.non_finite == 1
    assert found.difference == (2, 0, 1)
