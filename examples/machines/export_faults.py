"""Write a made-up table of machines that answers twice: which fault a machine has, and how urgent.

    python examples/machines/export_faults.py faults.csv
    python examples/machines/export_faults.py later.csv --seed 1 --warmer 15

Both labels come from the same causes, so a model that learns them together is one forest, not two;
2 % of either are wrong. ``--warmer`` adds degrees to every row, as a summer would. The ending of
the file decides: .csv or .parquet.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

FAULTS = ("none", "bearing", "belt", "winding")
URGENCIES = ("later", "now")
WRONG_SHARE = 0.02


def faults_table(*, rows: int = 2_000, seed: int = 0, warmer_degrees: float = 0.0) -> pa.Table:
    """Give a row a machine: four numbers to read and the labels ``fault`` and ``urgent``.

    Args:
        rows: How many.
        seed: Of everything drawn.
        warmer_degrees: Added to ``heat`` after the labels are known.
    """
    draw = np.random.default_rng(seed)
    heat = draw.normal(60, 12, rows)
    vibration = draw.gamma(2, 1.5, rows)
    current = draw.normal(12, 3, rows)
    hours = draw.integers(0, 8_000, rows)
    signs = np.stack(
        [
            np.full(rows, 1.0),
            vibration / 3 + hours / 8_000,
            hours / 4_000 - (current - 12) / 6,
            (heat - 60) / 12 + (current - 12) / 3,
        ]
    )
    fault = signs.argmax(axis=0)
    urgent = (fault > 0) & (signs.max(axis=0) + (heat > 70) > 2)
    return pa.table(
        {
            "heat": (heat + warmer_degrees).round(1),
            "vibration": vibration.round(2),
            "current": current.round(2),
            "hours": hours,
            "fault": np.array(FAULTS)[_blur(fault, len(FAULTS), draw)],
            "urgent": np.array(URGENCIES)[_blur(urgent.astype(int), len(URGENCIES), draw)],
        }
    )


def _blur(label: NDArray[np.int64], classes: int, draw: np.random.Generator) -> NDArray[np.int64]:
    is_wrong = draw.random(len(label)) < WRONG_SHARE
    return np.where(is_wrong, draw.integers(0, classes, len(label)), label)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write a table of faults.")
    parser.add_argument("path", type=Path, help="file to write, .csv or .parquet")
    parser.add_argument("--rows", type=int, default=2_000, help="rows (default 2,000)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default 0)")
    parser.add_argument("--warmer", type=float, default=0.0, help="degrees added to heat")
    options = parser.parse_args(arguments)
    table = faults_table(rows=options.rows, seed=options.seed, warmer_degrees=options.warmer)
    if options.path.suffix == ".parquet":
        pa.parquet.write_table(table, options.path, compression="zstd")
    elif options.path.suffix == ".csv":
        pa.csv.write_csv(table, options.path)
    else:
        raise SystemExit(f"{options.path}: name it .csv or .parquet")
    print(f"{options.path}: {table.num_rows} rows", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
