"""Find and read profile files: the shipped ones and a directory of the user's own.

A file ``NAME.toml`` holds the profile whose id is ``NAME``. A user's file of the same name takes
the place of a shipped one. The only module here that touches files.
"""

import re
import tomllib
from pathlib import Path

from device_profiles.errors import ProfileFormatError, UnknownProfileError
from device_profiles.profile import DeviceProfile

PROFILE_FILE_BYTES_MAX = 65_536
PROFILES_MAX = 1_000
_HEADER = re.compile(r"\s*\[\s*([^\[\]]{1,200}?)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"'-][^=#]{0,200}?)\s*=")
_SHIPPED = Path(__file__).parent / "data"


def list_profiles(extra_dir: Path | None = None) -> list[str]:
    """Give the ids that can be loaded, sorted.

    Args:
        extra_dir: Directory of the user's own profile files; a missing one is empty.
    """
    return sorted(_find_files(extra_dir))


def load_profile(profile_id: str, extra_dir: Path | None = None) -> DeviceProfile:
    """Read one profile.

    Args:
        profile_id: Name of the file without ``.toml``.
        extra_dir: Directory of the user's own profile files, asked first.

    Raises:
        UnknownProfileError: No such file; names the nearest id.
        ProfileFormatError: The file is not a sound profile.
    """
    files = _find_files(extra_dir)
    if profile_id not in files:
        raise UnknownProfileError(profile_id, sorted(files))
    return load_profile_file(files[profile_id])


def load_profile_file(path: Path) -> DeviceProfile:
    """Read the profile in one file.

    Raises:
        ProfileFormatError: Unreadable, too large, not TOML, or not a sound profile.
    """
    try:
        if path.stat().st_size > PROFILE_FILE_BYTES_MAX:
            raise ProfileFormatError(
                path.name, "", f"larger than {PROFILE_FILE_BYTES_MAX} bytes, not a profile"
            )
        text = path.read_text("utf-8")
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProfileFormatError(path.name, "", f"cannot be read: {error}") from error
    try:
        profile = DeviceProfile.from_table(table, source=path.name)
    except ProfileFormatError as error:
        line = find_line(text, error.field) or find_line(text, f"telemetry.{error.field}")
        raise ProfileFormatError(path.name, error.field, error.problem, line=line) from error
    if profile.id != path.stem:
        raise ProfileFormatError(
            path.name,
            "id",
            f"is {profile.id!r}, but the file name says {path.stem!r}",
            line=find_line(text, "id"),
        )
    return profile


def find_line(text: str, field: str) -> int | None:
    r"""Tell where a dotted key stands in a TOML text, from 1; None when it stands nowhere.

    >>> find_line("id = 'a'\n[telemetry]\nwindow_s = 0\n", "telemetry.window_s")
    3
    """
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _plain(header.group(1)) + "."
            if field == table[:-1]:
                return number
        elif (key := _KEY.match(line)) and field.startswith(table + _plain(key.group(1))):
            rest = field.removeprefix(table + _plain(key.group(1)))
            if rest == "" or rest.startswith("."):
                return number
    return None


def _plain(key: str) -> str:
    return key.replace('"', "").replace("'", "").replace(" ", "")


def _find_files(extra_dir: Path | None) -> dict[str, Path]:
    files = {path.stem: path for path in _SHIPPED.glob("*.toml")}
    if extra_dir is not None and extra_dir.is_dir():
        own = sorted(extra_dir.glob("*.toml"))
        if len(own) > PROFILES_MAX:
            raise ProfileFormatError(
                extra_dir.name, "", f"{len(own)} profile files, the limit is {PROFILES_MAX}"
            )
        files.update({path.stem: path for path in own})
    return files
