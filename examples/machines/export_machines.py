"""Write a made-up table of machines: numbers, categories, a boolean, gaps, and whether one failed.

    python examples/machines/export_machines.py machines.csv
    python examples/machines/export_machines.py later.parquet --seed 1 --new-vendor

Vendors age differently, a missing pressure means a broken sensor, and 1 % of the answers are wrong.
``--new-vendor`` adds rows of a vendor that the first table does not have. The ending of the file
decides: .csv or .parquet.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

VENDORS = ("acme", "brill", "corto", "delta")
SITES = ("north", "south", "east")
NEW_VENDOR = "newcomer"


def machines_table(*, rows: int = 2_000, seed: int = 0, has_new_vendor: bool = False) -> pa.Table:
    """Give a row a machine: six columns to read and ``state``, the answer.

    Args:
        rows: How many.
        seed: Of everything drawn.
        has_new_vendor: Give a tenth of the rows to ``NEW_VENDOR``.
    """
    draw = np.random.default_rng(seed)
    heat = draw.normal(60, 12, rows).round(1)
    pressure = draw.gamma(4, 1.2, rows).round(2)
    hours = draw.integers(0, 8_000, rows)
    vendor = draw.choice(VENDORS, rows, p=[0.4, 0.3, 0.2, 0.1])
    site = draw.choice(SITES, rows)
    is_open = draw.random(rows) < 0.2
    wear = hours / 4_000 * np.where(vendor == "corto", 1.8, np.where(vendor == "brill", 0.6, 1.0))
    risk = (heat - 70) / 8 + wear + (pressure - 5) / 3 * is_open + (site == "east") * 0.8 - 1.0
    is_broken = draw.random(rows) < 0.06
    risk += is_broken * 2.5
    has_failed = (risk > 0) ^ (draw.random(rows) < 0.01)
    if has_new_vendor:
        vendor = np.where(draw.random(rows) < 0.1, NEW_VENDOR, vendor)
    no_site = draw.random(rows) < 0.03
    return pa.table(
        {
            "heat": heat,
            "pressure": pa.array(pressure, mask=is_broken),
            "hours": hours,
            "vendor": vendor,
            "site": pa.array(site, mask=no_site),
            "is_open": is_open,
            "state": np.where(has_failed, "failed", "fine"),
        }
    )


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
    parser = argparse.ArgumentParser(description="Write a table of machines.")
    parser.add_argument("path", type=Path, help="file to write, .csv or .parquet")
    parser.add_argument("--rows", type=int, default=2_000, help="rows (default 2,000)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default 0)")
    parser.add_argument("--new-vendor", action="store_true", help="add a vendor not seen before")
    options = parser.parse_args(arguments)
    table = machines_table(rows=options.rows, seed=options.seed, has_new_vendor=options.new_vendor)
    write_table(table, options.path)
    print(f"{options.path}: {table.num_rows} rows", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
