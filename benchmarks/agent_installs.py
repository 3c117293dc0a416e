"""Environments of their own for the agent and for MLServer, installed once and kept.

They lie in ``build/bench-agent``, one for each list of pinned packages; a changed list is installed
anew. Needs what ``make setup`` needs: a package index, or its copy.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "bench-agent"
INSTALL_S = 240
LIBRARIES_OF_THE_FLOOR = ("onnxruntime", "numpy", "paho-mqtt")
_MEASURE = """
import json, os, re, sys
from importlib import metadata
def norm(name): return re.sub(r"[-_.]+", "-", name).lower()
found = {norm(d.metadata["Name"]): d for d in metadata.distributions()}
def size(d):
    paths = [d.locate_file(file) for file in d.files or []]
    return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))
def needs(d):
    for need in d.requires or []:
        if "extra ==" not in need:
            yield norm(re.split(r"[^A-Za-z0-9._-]", need, maxsplit=1)[0])
def closure(names):
    seen, waiting = set(), [norm(n) for n in names]
    while waiting:
        name = waiting.pop()
        if name in found and name not in seen:
            seen.add(name)
            waiting += needs(found[name])
    return seen
floor = closure(sys.argv[1:])
all_ = {n for n in found if n not in ("pip", "setuptools", "wheel")}
def total(names): return sum(size(found[name]) for name in names)
sizes = {"all": total(all_), "floor": total(floor)}
print(json.dumps(sizes))
"""


class CannotInstallError(Exception):
    """An environment cannot be made here; says why."""


def environment(name: str) -> Path:
    """Return the interpreter of an environment with ``requirements/NAME.txt``, made if need be.

    Raises:
        CannotInstallError: pip cannot install it.
    """
    listed = ROOT / "requirements" / f"{name}.txt"
    digest = hashlib.sha256(listed.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = PLACE / f"{name}-{digest}"
    python, ready = place / "bin" / "python", place / ".ready"
    if ready.exists():
        return python
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        _run([sys.executable, "-m", "venv", "--clear", str(place)])
        _run([*pip, "--require-hashes", "-r", str(listed)])
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise CannotInstallError(said.strip().splitlines()[-1][:300]) from error
    ready.touch()
    return python


def measure_sizes(python: Path) -> tuple[int, int]:
    """Return the bytes of everything installed and of the floor with what it needs."""
    sizes = json.loads(_run([str(python), "-c", _MEASURE, *LIBRARIES_OF_THE_FLOOR]))
    return int(sizes["all"]), int(sizes["floor"])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_S)
    return done.stdout
