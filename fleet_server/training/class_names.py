"""Turn the words of a target column into classes: names in a stable order, and an index a row."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fleet_server.ports.training import WordColumn

CLASSES_MAX = 256
CLASS_CHARS_MAX = 128
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.0*)?")
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?")


def find_missing(column: WordColumn) -> NDArray[np.bool_]:
    """Tell which rows have no word, or a blank one."""
    is_blank = np.array([not word.strip() for word in column.words] + [True])
    return np.asarray(is_blank[column.codes])  # code -1 takes the last, which is True


def name_classes(column: WordColumn) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Give class indexes [rows] and names; whole numbers in order of value, else of text.

    Words that are all whole numbers are one class by value, so ``3`` and ``3.0`` are the same;
    with any other word among them (``007`` is one) every word stands for itself.
    """
    used = set(column.codes.tolist()) - {-1}
    names = {code: column.words[code].strip() for code in used}
    if all(_WHOLE.fullmatch(name) for name in names.values()):
        names = {code: str(int(float(name))) for code, name in names.items()}
        classes = tuple(sorted(set(names.values()), key=int))
    else:
        classes = tuple(sorted(set(names.values())))
    index = {name: position for position, name in enumerate(classes)}
    table = np.zeros(len(column.words) + 1, np.int64)
    for code, name in names.items():
        table[code] = index[name]
    return table[column.codes], classes


def judge_classes(target: str, classes: Sequence[str]) -> list[str]:
    """Say what is wrong with the classes of a target; empty when they can be learned."""
    problems = []
    odd = [name for name in classes if _DECIMAL.fullmatch(name) and not _WHOLE.fullmatch(name)]
    if odd and all(_WHOLE.fullmatch(n) or _DECIMAL.fullmatch(n) for n in classes):
        return [
            f"target {target!r} has decimals (such as {odd[0]}); a classification needs whole"
            ' numbers or text. For numbers use task = "regression"'
        ]
    if len(classes) == 1:
        problems.append(
            f"target {target!r} has one class only ({classes[0]!r} in every row); a classification"
            " needs two or more"
        )
    if len(classes) > CLASSES_MAX:
        problems.append(
            f"target {target!r} has {len(classes):,} classes, at most {CLASSES_MAX}; for numbers"
            ' use task = "regression"'
        )
    problems += [
        f"target {target!r}: class {name[:40]!r}… has {len(name)} characters, at most"
        f" {CLASS_CHARS_MAX}"
        for name in classes
        if len(name) > CLASS_CHARS_MAX
    ]
    return problems
