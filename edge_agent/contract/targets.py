"""Names of packages in the approvers' metadata, and how many slots a device has at most."""

from edge_agent.contract.errors import MalformedError

SLOTS_MAX = 32
_PATH_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


def check_target_path(path: str) -> str:
    """Return ``MODEL/VERSION/PROFILE.tar`` unchanged; raises MalformedError otherwise.

    >>> check_target_path("digits/3/camera.tar")
    'digits/3/camera.tar'
    """
    parts = path.split("/")
    plain = all(p and set(p) <= _PATH_CHARACTERS and not p.startswith(".") for p in parts)
    if len(parts) != 3 or not plain or not parts[1].isdigit() or not parts[2].endswith(".tar"):
        raise MalformedError(f"target {path[:120]!r} is not MODEL/VERSION/PROFILE.tar")
    return path
