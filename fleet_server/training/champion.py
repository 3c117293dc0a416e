"""Let the champion's package answer a candidate's held-out rows, as it shipped."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_profiles.profile import DeviceProfile
from edge_agent.contract.errors import ContractError
from edge_agent.contract.package import MODEL, SCHEMA, unpack_members
from edge_agent.contract.schema import Dtype, ModelSchema
from fleet_server.training.categories import translate_codes
from fleet_server.training.metrics import Answers
from fleet_server.training.picture_set import PictureSet
from fleet_server.training.shipped import answer_pictures, answer_shipped


@dataclass(frozen=True, slots=True, kw_only=True)
class ChampionAnswers:
    """What the champion answered, or why it cannot be asked.

    Attributes:
        answers: None when not comparable.
        reason: Empty, or a sentence.
    """

    answers: Answers | None
    reason: str = ""


def ask_champion(
    blob: bytes,
    schema: ModelSchema,
    profile: DeviceProfile,
    features: NDArray[np.float32],
    pictures: PictureSet | None = None,
) -> ChampionAnswers:
    """Run the champion's graph on the candidate's rows.

    Args:
        blob: The champion's package.
        schema: The candidate's.
        profile: Both were built for it.
        features: The candidate's held-out rows, float32 [rows, width].
        pictures: What they were made of; None for a candidate that reads a table.
    """
    try:
        members = unpack_members(blob)
        theirs = ModelSchema.decode(members[SCHEMA])
    except ContractError as error:
        return ChampionAnswers(answers=None, reason=f"its package cannot be read: {error}")
    if reason := _find_other_columns(theirs, schema, has_pictures=pictures is not None):
        return ChampionAnswers(answers=None, reason=reason)
    if pictures is not None:
        return _take(answer_pictures(members[MODEL], theirs.task, profile, pictures))
    at = {column: place for place, column in enumerate(schema.columns)}
    rows = features[:, [at[column] for column in theirs.columns]]
    reason = _find_other_texts(theirs, schema) or _translate(rows, theirs, schema)
    if reason:
        return ChampionAnswers(answers=None, reason=reason)
    return _take(answer_shipped(members[MODEL], theirs.task, profile, rows))


def _find_other_columns(theirs: ModelSchema, ours: ModelSchema, *, has_pictures: bool) -> str:
    """Say why the two cannot be asked the same, or answer otherwise; empty when they can."""
    if (theirs.image is not None) != has_pictures:
        kinds = ("a table", "pictures") if has_pictures else ("pictures", "a table")
        return f"it reads {kinds[0]}, the candidate {kinds[1]}"
    missing = [column for column in theirs.columns if column not in ours.columns]
    if missing and not has_pictures:
        return f"it reads column {missing[0]!r}, which the candidate does not"
    named = [[(label.name, label.classes) for label in schema.labels] for schema in (theirs, ours)]
    if named[0] != named[1]:
        return "it answers other labels"
    if (theirs.classes, theirs.targets) != (ours.classes, ours.targets):
        return f"it answers other {'classes' if theirs.classes != ours.classes else 'targets'}"
    return ""


def _take(answers: Answers) -> ChampionAnswers:
    if not answers.is_finite:
        return ChampionAnswers(answers=None, reason="it answers what is not a finite number")
    return ChampionAnswers(answers=answers)


def _find_other_texts(theirs: ModelSchema, ours: ModelSchema) -> str:
    """Say which text the two read of another length, where that would cut one of them."""
    room = {feature.name: feature.chars_max for feature in ours.texts}
    for feature in theirs.texts:
        if room.get(feature.name) != feature.chars_max:
            return (
                f"it reads at most {feature.chars_max} characters of {feature.name!r}, the"
                f" candidate {room.get(feature.name, 0)}"
            )
    return ""


def _translate(rows: NDArray[np.float32], theirs: ModelSchema, ours: ModelSchema) -> str:
    """Turn the candidate's codes into the champion's, in place; says why it cannot."""
    known = {f.name: f for f in ours.features if f.dtype == Dtype.CATEGORY}
    for place, feature in enumerate(f for f in theirs.features for _ in f.columns):
        if feature.dtype != Dtype.CATEGORY:
            continue
        if feature.name not in known:
            return f"{feature.name!r} is a category to it and not to the candidate"
        codes = translate_codes(rows[:, place], feature, known[feature.name])
        if codes is None:
            return f"it refuses values of {feature.name!r} that held-out rows have"
        rows[:, place] = codes
    return ""
