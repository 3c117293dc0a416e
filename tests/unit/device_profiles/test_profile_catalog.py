from pathlib import Path

import pytest

from device_profiles.catalog import list_profiles, load_profile
from device_profiles.errors import ProfileFormatError, UnknownProfileError
from device_profiles.profile import Precision

SHIPPED = [
    "camera",
    "iot-gateway",
    "onprem-server",
    "raspberry-pi-3",
    "raspberry-pi-4",
    "raspberry-pi-5",
]


def own_profile(directory: Path, name: str, *, profile_id: str | None = None) -> None:
    shipped = Path(__file__).parents[3] / "device_profiles" / "data" / "camera.toml"
    text = shipped.read_text().replace('id = "camera"', f'id = "{profile_id or name}"')
    (directory / f"{name}.toml").write_text(text)


def test_the_shipped_profiles_are_listed() -> None:
    assert list_profiles() == SHIPPED


@pytest.mark.parametrize("profile_id", SHIPPED)
def test_a_shipped_profile_loads_and_may_run_every_runtime_it_names(profile_id: str) -> None:
    profile = load_profile(profile_id)
    assert profile.id == profile_id
    assert Precision.FP32 in profile.precisions
    # The oldest onnxruntime of the range (1.22) reads IR 10 and operator set 22.
    assert profile.onnxruntime.startswith(">=1.22")
    assert profile.ir_max <= 10
    assert profile.opset_max <= 22
    assert profile.opset_ml_max <= 3
    assert not profile.allow_spinning


def test_a_file_dropped_into_the_users_directory_is_a_profile(tmp_path: Path) -> None:
    own_profile(tmp_path, "drone")
    assert list_profiles(tmp_path) == sorted([*SHIPPED, "drone"])
    assert load_profile("drone", tmp_path).id == "drone"


def test_a_users_file_takes_the_place_of_a_shipped_one(tmp_path: Path) -> None:
    own_profile(tmp_path, "camera")
    text = (tmp_path / "camera.toml").read_text().replace("cores = 2", "cores = 7")
    (tmp_path / "camera.toml").write_text(text)
    assert load_profile("camera", tmp_path).cores == 7
    assert load_profile("camera").cores == 2


def test_a_missing_directory_holds_nothing(tmp_path: Path) -> None:
    assert list_profiles(tmp_path / "none") == SHIPPED


@pytest.mark.parametrize(
    ("asked", "guess"), [("cmaera", "'camera'"), ("raspberry-pi-6", "'raspberry-pi-")]
)
def test_an_unknown_profile_names_the_nearest(asked: str, guess: str) -> None:
    with pytest.raises(UnknownProfileError, match=f"did you mean {guess}"):
        load_profile(asked)


def test_a_profile_unlike_any_other_names_all() -> None:
    with pytest.raises(UnknownProfileError, match="known: camera, iot-gateway") as caught:
        load_profile("zzz")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("profile_id", ["../data/camera", "/etc/passwd", "camera.toml", ""])
def test_an_id_is_never_a_path(profile_id: str) -> None:
    with pytest.raises(UnknownProfileError):
        load_profile(profile_id)


def test_the_id_must_be_the_files_name(tmp_path: Path) -> None:
    own_profile(tmp_path, "drone", profile_id="plane")
    with pytest.raises(ProfileFormatError, match="file name says 'drone'"):
        load_profile("drone", tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id = ", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"# " + b"x" * 65_536, "larger than 65536"),
        (b'id = "drone"', "lacks"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "drone.toml").write_bytes(content)
    with pytest.raises(ProfileFormatError, match=words) as caught:
        load_profile("drone", tmp_path)
    assert caught.value.source == "drone.toml"
