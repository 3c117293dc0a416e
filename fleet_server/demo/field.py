"""The demo's data: what training sees, what the field sees, and specs that name them.

The rows are scikit-learn's real digits. Training files hold the first TRAIN_ROWS of a fixed
shuffle; the rest are the field: no training ever saw them.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

TRAIN_ROWS = 1_200
PIXEL_MAX = 16.0
BRIGHTNESS = 4.0
SEED = 0
Pixels = NDArray[np.float64]
Change = Callable[[Pixels], Pixels]

SPEC = """\
# A camera reads single digits. Every key is explained in docs/spec.md.
[model]
name = "digits"
task = "classification"
problem = "Read the digit in an 8x8 crop; a wrong digit misroutes a parcel."
owner = "vision@example.org"

[data]
source = "file:{table}"
target = "digit"
[data.features]
pixels = {{ type = "float32", shape = [8, 8], range = [0, 16] }}

[split]
test = 0.30
seed = 7

[train]
estimator = "sklearn.neural_network.MLPClassifier"
params = {{ hidden_layer_sizes = [256, 128], max_iter = 200 }}
steps = [{{ use = "sklearn.preprocessing.StandardScaler" }}]

[metrics]
primary = "accuracy"
accuracy = {{ floor = 0.94 }}

[profiles]
camera = {{ label_flips_max = 0.02, metric_drop_max = 0.01 }}
iot-gateway = {{ label_flips_max = 0.02, metric_drop_max = 0.01 }}
onprem-server = {{}}
"""


@dataclass(frozen=True, slots=True)
class Digits:
    """Images and truths, split into what may be trained on and the field."""

    train_pixels: Pixels
    train_digits: NDArray[np.int64]
    field_pixels: Pixels
    field_digits: NDArray[np.int64]


def load_digits() -> Digits:
    """Return the bundled digits in the demo's order."""
    from sklearn import datasets

    pixels, digits = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(pixels))
    pixels, digits = pixels[order], digits[order].astype(np.int64)
    return Digits(
        pixels[:TRAIN_ROWS], digits[:TRAIN_ROWS], pixels[TRAIN_ROWS:], digits[TRAIN_ROWS:]
    )


def brighten(pixels: Pixels) -> Pixels:
    """Add the light of a brighter lamp, clipped to what the sensor can tell."""
    return np.clip(pixels + BRIGHTNESS, 0.0, PIXEL_MAX)


def invert(pixels: Pixels) -> Pixels:
    """Swap ink and paper."""
    return PIXEL_MAX - pixels


def write_table(path: Path, pixels: Pixels, digits: NDArray[np.int64]) -> None:
    """Write columns ``pixels_0`` to ``pixels_63`` and ``digit`` as CSV."""
    columns: dict[str, Any] = {
        f"pixels_{n}": pixels[:, n].astype(np.float32) for n in range(pixels.shape[1])
    }
    pa.csv.write_csv(pa.table({**columns, "digit": digits}), path)


def write_spec(folder: Path, name: str, pixels: Pixels, digits: NDArray[np.int64]) -> Path:
    """Write a table and the spec that trains on it; return the spec's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / f"{name}.csv", pixels, digits)
    text = SPEC.format(table=f"{name}.csv")
    tomllib.loads(text)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path
