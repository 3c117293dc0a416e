import pytest

from device_profiles.versions import is_release_in, parse_range, parse_release


@pytest.mark.parametrize(
    ("release", "wanted", "is_in"),
    [
        ("1.22", ">=1.22,<2", True),
        ("1.22.0", ">=1.22,<2", True),
        ("1.21.9", ">=1.22,<2", False),
        ("2.0", ">=1.22,<2", False),
        ("1.100", ">=1.22,<2", True),
        ("1.31.1", "==1.31.1", True),
        ("1.31", "!=1.31.0", False),
        ("1.31.1", ">1.31,<=1.31.1", True),
        ("2.36", ">=2.28", True),
        ("3.13.0rc1", ">=3.11,<3.14", True),
    ],
)
def test_a_release_lies_in_a_range(release: str, wanted: str, *, is_in: bool) -> None:
    assert is_release_in(release, wanted) is is_in


@pytest.mark.parametrize("text", ["", "new", "v1", "rc1"])
def test_what_is_not_a_release_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a release number"):
        parse_release(text)


@pytest.mark.parametrize("text", ["", "1.22", "~=1.22", ">=1.22 <2", ">=1.22,"])
def test_what_is_not_a_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a version range"):
        parse_range(text)
