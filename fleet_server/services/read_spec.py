"""Read a spec file."""

from pathlib import Path

from device_profiles.catalog import list_profiles
from device_profiles.errors import ProfileError
from fleet_server.errors import MisuseError
from fleet_server.training.spec import Spec
from fleet_server.training.spec_parser import SPEC_BYTES_MAX, parse_spec


def read_spec(path: Path, profiles_dir: Path | None) -> Spec:
    """Read and check a spec.

    Args:
        path: The TOML file.
        profiles_dir: Folder of the user's own device profiles.

    Raises:
        MisuseError: It cannot be read, or is wrong: with every problem and its line.
    """
    try:
        if path.stat().st_size > SPEC_BYTES_MAX:
            raise MisuseError(f"{path} is larger than {SPEC_BYTES_MAX} bytes")
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise MisuseError(f"no spec file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MisuseError(f"cannot read {path}: {error}") from error
    try:
        known = list_profiles(profiles_dir)
    except ProfileError as error:
        raise MisuseError(str(error)) from error
    return parse_spec(text, source=path.name, profiles=known)
