"""Killed half-way, or a full disk: what has the name of a package is a whole package."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from converters.cli.work_folder import remove_stale
from converters.errors import ConversionError
from converters.output_file import write_whole
from converters.skops_library import import_skops
from tests.support.convert import fit_quietly, load_table

ROOT = Path(__file__).parents[2]
EDGE_CONVERT = [sys.executable, "-c", "from converters.cli import main; main()"]
MOUNT = 'mount -t tmpfs -o size=96k none "$0" && exec "$@"'


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("desk")
    rows, targets = load_table("wine")
    with (home / "wine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"c{n}" for n in range(rows.shape[1])), "answer"])
        writer.writerows([*row, target] for row, target in zip(rows, targets, strict=True))
    import_skops().dump(fit_quietly(LogisticRegression(), rows, targets), home / "small.skops")
    wide = fit_quietly(MLPClassifier((400, 200), max_iter=3), rows, targets)
    import_skops().dump(wide, home / "wide.skops")
    return home


def words(desk: Path, model: str, out: Path) -> list[str]:
    return [
        *EDGE_CONVERT,
        *("run", str(desk / model), "--rows", str(desk / "wine.csv"), "--target", "answer"),
        *("--profile", "camera", "--out", str(out), "--label-flips-max", "1", "--effort", "brief"),
        *("--metric-drop-max", "1"),
    ]


def test_a_build_that_is_killed_leaves_the_package_before_it(desk: Path) -> None:
    out = desk / "out" / "wine.tar"
    write_whole(out, b"the package before")
    temporary = desk / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        words(desk, "wide.skops", out),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stderr is not None
        assert "held out" in child.stderr.readline()
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert out.read_bytes() == b"the package before"
    assert [path.name for path in out.parent.iterdir()] == ["wine.tar"]
    (left,) = temporary.iterdir()
    assert remove_stale(temporary) == [left]
    assert not left.exists()


WRITER = """
import os, sys, time
from pathlib import Path
from converters import output_file

def stuck(handle):
    print("half-way", flush=True)
    time.sleep(60)

output_file.os.fsync = stuck
output_file.write_whole(Path(sys.argv[1]), b"x" * 100_000)
"""


def test_a_writer_that_is_killed_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    out = tmp_path / "model.tar"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(out)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half-way\n"
        child.kill()
    assert not out.exists()
    assert [path.name.startswith(".model.tar.") for path in tmp_path.iterdir()] == [True]
    write_whole(out, b"whole")
    assert out.read_bytes() == b"whole"
    assert oct(out.stat().st_mode)[-3:] in ("644", "664", "640", "600")


def private_mount() -> list[str]:
    """Find a way to mount that touches nothing outside; skip when there is none."""
    for flags in ("-Urm", "-m"):
        command = ["unshare", flags, "sh", "-c", "mount -t tmpfs -o size=64k none /tmp"]
        if shutil.which("unshare") is None:
            continue
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return ["unshare", flags, "sh", "-c", MOUNT]
    pytest.skip("neither a user namespace nor root may mount a small disk here")


CHECK = """
import subprocess, sys
from pathlib import Path
out = Path(sys.argv[1])
out.write_bytes(b"the package before")
done = subprocess.run(sys.argv[2:], capture_output=True, text=True)
print(done.returncode, done.stderr.strip().splitlines()[-1])
print(*[(path.name, path.read_bytes()) for path in out.parent.iterdir()])
"""


def test_a_full_disk_is_a_refusal_and_keeps_what_was_there(desk: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    done = subprocess.run(
        [
            *private_mount(),
            *(str(tmp_path), sys.executable, "-c", CHECK, str(out)),
            *words(desk, "wide.skops", out),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    said, files = done.stdout.splitlines()
    assert said.startswith("1 edge-convert: ")
    assert "was not written: No space left on device" in said
    assert files == "('out.tar', b'the package before')"


def test_a_refused_write_names_size_and_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConversionError, match=r"was not written: .*5 bytes are needed there"):
        write_whole(tmp_path / "file" / "model.tar", b"12345")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
