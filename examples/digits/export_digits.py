"""Write scikit-learn's bundled handwritten digits as a table: 1,797 images of 8x8 pixels, 0 to 16.

    python examples/digits/export_digits.py digits.csv
    python examples/digits/export_digits.py brighter.parquet --brightness 4
    python examples/digits/export_digits.py part.csv --seed 1 --start 0 --rows 1200

Rows are shuffled by ``--seed`` first, so ``--start`` and ``--rows`` cut parts that never overlap.
``--brightness`` adds light as a brighter lamp would, clipped at 16; ``--invert`` swaps ink and
paper. The ending of the file decides: .csv or .parquet.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXEL_MAX = 16.0


def digits_table(
    *,
    seed: int = 0,
    start: int = 0,
    rows: int | None = None,
    brightness: float = 0.0,
    is_inverted: bool = False,
) -> pa.Table:
    """Give the images as columns ``pixels_0`` to ``pixels_63`` and ``digit``.

    Args:
        seed: Order of the rows before any are cut.
        start: First row taken.
        rows: Rows taken; None for all that follow.
        brightness: Added to each pixel.
        is_inverted: Swap ink and paper.
    """
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    order = order[start : None if rows is None else start + rows]
    pixels: NDArray[Any] = PIXEL_MAX - images[order] if is_inverted else images[order]
    pixels = np.clip(pixels + brightness, 0.0, PIXEL_MAX).astype(np.float32)
    columns: dict[str, NDArray[Any]] = {f"pixels_{n}": pixels[:, n] for n in range(pixels.shape[1])}
    return pa.table({**columns, "digit": labels[order].astype(np.int64)})


def write_table(table: pa.Table, path: Path) -> None:
    """Write CSV or Parquet, as the ending says."""
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path, compression="zstd")
    elif path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        raise SystemExit(f"{path}: name it .csv or .parquet")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the digits as a table.")
    parser.add_argument("path", type=Path, help="file to write, .csv or .parquet")
    parser.add_argument("--seed", type=int, default=0, help="order of the rows (default 0)")
    parser.add_argument("--start", type=int, default=0, help="first row taken (default 0)")
    parser.add_argument("--rows", type=int, help="rows taken (default all that follow)")
    parser.add_argument("--brightness", type=float, default=0.0, help="added to each pixel")
    parser.add_argument("--invert", action="store_true", help="swap ink and paper")
    options = parser.parse_args(arguments)
    table = digits_table(
        seed=options.seed,
        start=options.start,
        rows=options.rows,
        brightness=options.brightness,
        is_inverted=options.invert,
    )
    write_table(table, options.path)
    print(f"{options.path}: {table.num_rows} rows", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
