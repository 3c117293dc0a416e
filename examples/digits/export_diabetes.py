"""Write scikit-learn's bundled diabetes data as a table: 442 people, ten measures, one number.

    python examples/digits/export_diabetes.py diabetes.csv

The measures are in their own units (years, kg/m², mg/dl …); ``progression`` is how far the
disease went in a year. The ending of the file decides: .csv or .parquet.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from sklearn.datasets import load_diabetes


def diabetes_table() -> pa.Table:
    """Give the ten measures and ``progression``."""
    data = load_diabetes(scaled=False)
    columns = {name: data.data[:, n] for n, name in enumerate(data.feature_names)}
    return pa.table({**columns, "progression": data.target})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the diabetes data as a table.")
    parser.add_argument("path", type=Path, help="file to write, .csv or .parquet")
    path = parser.parse_args(arguments).path
    table = diabetes_table()
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path, compression="zstd")
    elif path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        raise SystemExit(f"{path}: name it .csv or .parquet")
    print(f"{path}: {table.num_rows} rows", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
