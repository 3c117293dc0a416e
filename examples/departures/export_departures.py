"""Write a table of bus departures: delays on many routes, each with a law of its own.

The numbers are made up: the example shows a family (one model a route), not a timetable.

Usage: python examples/departures/export_departures.py [departures.csv] [--routes 40] [--rows 300]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HEADER = "route,hour_sin,hour_cos,load,rain_mm,prev_delay,delay_min"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("path", nargs="?", type=Path, default=None)
    parser.add_argument("--routes", type=int, default=40)
    parser.add_argument("--rows", type=int, default=300, help="of each route")
    options = parser.parse_args(arguments)
    path = options.path or Path(__file__).with_name("departures.csv")
    random = np.random.default_rng(11)
    lines = [HEADER]
    for route in range(1, options.routes + 1):
        lines += make_route(route, options.rows, random)
    path.write_text("\n".join(lines) + "\n")
    print(f"{path}: {options.routes} routes of {options.rows} rows")
    return 0


def make_route(route: int, rows: int, random: np.random.Generator) -> list[str]:
    """Give the rows of one route as text."""
    hour = random.uniform(0, 2 * np.pi, rows)
    features = np.stack(
        [
            np.sin(hour),
            np.cos(hour),
            random.beta(2, 3, rows) * 2,
            random.exponential(0.6, rows),
            random.normal(2, 2, rows),
        ],
        axis=1,
    ).round(4)
    law = random.normal([0.5, -0.5, 1.5, 0.8, 0.4], 0.3)
    delay = features @ law + random.normal(1 + route % 5, 0.8, rows)
    return [
        ",".join([f"R{route}", *(f"{value:g}" for value in row), f"{late:.3f}"])
        for row, late in zip(features, delay, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
