"""Turn pictures and what they show into a ``Dataset``; identical pictures count once.

The version of the data is of the bytes of every file and its answer: names, order and folders of
files change nothing, nor does what ``[input]`` makes of them. The side of a picture is decided by
its bytes alone (or by its group), so a picture that is given another label stays where it was. What
is saved twice is found by its unfolded pixels: two files of one picture may have other bytes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet_server.ports.training import ListedPictures, PackedPictures
from fleet_server.training.dataset import Dataset
from fleet_server.training.ingest import DataError, TrueAnswers
from fleet_server.training.picture_set import PictureSet
from fleet_server.training.row_hash import digest_rows, hash_rows, hash_words, order_rows
from fleet_server.training.spec import PictureSection, Spec
from fleet_server.training.spec_pictures import LABEL_COLUMN, PIXELS_NAME

UNREADABLE_KEPT_MAX = 100
"""Named in the record of the training; all are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureData:
    """Pictures that can be trained on.

    Attributes:
        dataset: A row a picture.
        record: What the version keeps of them, JSON values.
        notes: What else is worth saying.
    """

    dataset: Dataset
    record: dict[str, Any]
    notes: tuple[str, ...]


def check_listed(spec: Spec, listed: ListedPictures, *, source: str) -> None:
    """Check that the spec asks a folder for no more than it can say.

    Raises:
        DataError: It is a folder, and the spec names columns or wants numbers.
    """
    if not listed.is_folder:
        return
    asked, problems = spec.data.pictures, []
    table = "give a CSV or Parquet table with a column 'file' in its place"
    if spec.data.target_columns != (LABEL_COLUMN,):
        problems.append(f"data.target: the classes of a folder are its sub-folders; {table}")
    if asked is not None and asked.group:
        problems.append(f"data.group: a folder has no columns; {table}")
    if spec.model.task == "regression":
        problems.append(f"a folder's sub-folders are classes, a regression needs numbers; {table}")
    if problems:
        raise DataError(source, problems)


def make_picture_dataset(
    spec: Spec,
    listed: ListedPictures,
    answers: TrueAnswers,
    packed: PackedPictures,
    *,
    source: str,
) -> PictureData:
    """Leave out what cannot be read and what is there twice, and give the rows an own order.

    Args:
        spec: Of pictures.
        listed: Every picture.
        answers: Of every picture.
        packed: Those that could be read.
        source: For errors.

    Raises:
        DataError: More are unreadable than the spec allows, or one picture has two answers.
    """
    asked = spec.data.pictures
    if asked is None:
        raise ValueError("the spec is of a table")
    _refuse_unreadable(asked, listed, packed, source)
    digests = np.ascontiguousarray(packed.sha256[:, :16]).view("<u8").astype(np.uint64)
    digests = digests.reshape(-1, 2)
    by_bytes = order_rows(digests)  # so that the copy that stays does not hang on names
    _, first, same = np.unique(
        packed.pixels_sha256[by_bytes], axis=0, return_index=True, return_inverse=True
    )
    twins = np.empty(len(digests), np.int64)
    twins[by_bytes] = by_bytes[first[same.ravel()]]
    _refuse_torn(listed, answers.lanes[packed.places], twins, packed, source)
    kept = by_bytes[np.sort(first)]
    repeated = len(packed.places) - len(kept)
    digests, places = digests[kept], packed.places[kept]
    target_lanes = answers.lanes[places]
    lanes = hash_rows(np.zeros((len(kept), 1)), target_lanes, {0: digests})
    names = [listed.names[place] for place in places]
    groups = np.arange(len(kept))
    sides = hash_rows(np.zeros((len(kept), 0)), digests)
    if asked.group:
        words = listed.answers.words[asked.group]
        groups = words.codes[places]
        if np.any(groups < 0):
            raise DataError(
                source,
                [
                    f"column {asked.group!r} (data.group): {int(np.sum(groups < 0)):,} values are"
                    f" missing; first of {names[int(np.argmax(groups < 0))]}"
                ],
            )
        sides = hash_words(groups, words.words)
    columns = json.dumps([["picture", *([asked.group] if asked.group else [])], answers.name])
    dataset = Dataset(
        features=packed.rows[kept],
        targets=answers.targets[places],
        classes=answers.classes,
        lanes=sides,
        sha256=digest_rows([PIXELS_NAME], answers.name, lanes),
        columns_sha256=hashlib.sha256(columns.encode()).hexdigest(),
        declared=spec.data.features,
        labels=answers.labels,
        pictures=PictureSet(names, packed.load, places, groups, packed.figures[kept]),
    )
    return PictureData(
        dataset=dataset,
        record={
            "listed": len(listed.paths),
            "used": len(kept),
            "repeated": repeated,
            "skipped": listed.skipped,
            "bytes": packed.size_bytes,
            "groups": len(np.unique(groups)) if asked.group else 0,
            "unreadable": len(packed.faults),
            "unreadable_names": [
                listed.names[place] for place, _ in packed.faults[:UNREADABLE_KEPT_MAX]
            ],
        },
        notes=tuple(_say_left_out(listed, packed, repeated)),
    )


def _refuse_unreadable(
    asked: PictureSection, listed: ListedPictures, packed: PackedPictures, source: str
) -> None:
    if len(packed.faults) <= asked.unreadable_share_max * len(listed.paths):
        return
    reasons = [reason for _, reason in packed.faults]
    raise DataError(
        f"{source}: {len(reasons):,} of {len(listed.paths):,} pictures cannot be read, and"
        f" data.unreadable_max is {asked.unreadable_share_max:g}",
        reasons,
    )


def _refuse_torn(
    listed: ListedPictures,
    lanes: NDArray[np.uint64],
    twins: NDArray[np.int64],
    packed: PackedPictures,
    source: str,
) -> None:
    """Refuse one picture that stands under two answers."""
    torn = np.flatnonzero((lanes != lanes[twins]).any(axis=1))
    if len(torn):
        raise DataError(
            source,
            [
                f"{listed.names[packed.places[place]]} is the same picture as"
                f" {listed.names[packed.places[twins[place]]]} and has another answer; mend one"
                for place in torn
            ],
        )


def _say_left_out(listed: ListedPictures, packed: PackedPictures, repeated: int) -> Sequence[str]:
    notes = []
    if packed.faults:
        first = listed.names[packed.faults[0][0]]
        notes.append(
            f"{len(packed.faults):,} of {len(listed.paths):,} pictures cannot be read and were left"
            f" out, the first is {first}"
        )
    if repeated:
        notes.append(f"{repeated:,} pictures are copies of others, pixel for pixel, and count once")
    if listed.skipped:
        notes.append(f"{listed.skipped:,} files are no .png, .jpg or .jpeg by their names")
    return notes
