"""Ask git which commit a folder is at."""

import shutil
import subprocess
from pathlib import Path

from fleet_server.ports.training import CodeVersion

GIT_S_MAX = 10.0
_NONE = CodeVersion()


class GitCodeVersions:
    """``CodeVersions`` with the git command; without one, or outside a repository, nothing."""

    def find(self, folder: Path) -> CodeVersion:
        """Find the commit of the repository that holds the folder."""
        git = shutil.which("git")
        if git is None:
            return _NONE
        commit = _ask(git, folder, "rev-parse", "--verify", "HEAD")
        if not commit:
            return _NONE
        changes = _ask(git, folder, "status", "--porcelain", "--untracked-files=no")
        return CodeVersion(commit=commit.strip()[:64], is_dirty=changes is None or bool(changes))


def _ask(git: str, folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed command, no shell
            [git, "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_S_MAX,
            check=True,
        )
    except (subprocess.SubprocessError, OSError, UnicodeDecodeError):
        return None
    return answer.stdout
