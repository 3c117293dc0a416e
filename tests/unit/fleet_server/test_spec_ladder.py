"""What a spec may ask of the ladder of a profile."""

import pytest

from fleet_server.training.spec_parser import parse_spec
from fleet_server.training.spec_problems import SpecError
from tests.support.training import DIGITS_SPEC, PROFILES, edit


def with_keys(keys: str) -> str:
    return edit(DIGITS_SPEC, {"metric_drop_max = 0.005": f"metric_drop_max = 0.005, {keys}"})


def test_a_profile_says_how_hard_to_try_and_what_to_prefer() -> None:
    keys = (
        'effort = "full", smaller = "pruned", prefer = ["size", "latency"],'
        " error_max = 0.2, rows_off_max = 0.05"
    )
    spec = parse_spec(with_keys(keys), source="x.toml", profiles=PROFILES)
    limit = spec.profiles[0]
    assert (limit.effort, limit.smaller, limit.prefer) == ("full", "pruned", ("size", "latency"))
    assert (limit.error_max, limit.rows_off_max) == (0.2, 0.05)


def test_nothing_said_is_a_quick_ladder_of_the_same_model() -> None:
    limit = parse_spec(DIGITS_SPEC, source="x.toml", profiles=PROFILES).profiles[0]
    assert (limit.effort, limit.smaller, limit.prefer) == ("quick", "no", ())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ('effort = "most"', "profiles.camera.effort: 'most' is none of quick, full"),
        ("smaller = true", "profiles.camera.smaller: must be text"),
        ('prefer = ["cost"]', "profiles.camera.prefer: 'cost' is none of accuracy"),
        ('prefer = ["size", "size"]', "profiles.camera.prefer: names a criterion twice"),
        ("error_max = -1", "profiles.camera.error_max"),
        ("rows_off_max = 2", "profiles.camera.rows_off_max"),
    ],
)
def test_another_word_or_number_is_named(keys: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(with_keys(keys), source="x.toml", profiles=PROFILES)
    assert words in str(caught.value).replace('"', "'")
