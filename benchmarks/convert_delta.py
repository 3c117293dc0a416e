"""What travels to a device after real retraining, beside plain zstd and a plain patch."""

import importlib.util
import warnings

from benchmarks.convert_figures import Figure
from fleet_server.adapters.package_encoder import measure_encodings
from tests.support.retrained import (
    boosted,
    camera_net_with_a_new_head,
    forest,
    net_with_a_new_head,
)

QUARTER = 0.25


def measure_deltas() -> list[Figure]:
    """Encode each pair in every way; the bytes are of the bare ONNX files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = {
            "boosting_and_2_stages": boosted(),
            "forest_and_3_trees": forest(),
            "perceptron_new_head": net_with_a_new_head(),
        }
        if importlib.util.find_spec("torch") is not None:
            import torch

            pairs["camera_new_head"] = camera_net_with_a_new_head(torch)
    figures = []
    for name, (base, target) in pairs.items():
        sizes = measure_encodings(target, base)
        zstd, patch = sizes.zstd or sizes.package, sizes.patch or sizes.package
        more = {"package": sizes.package, "zstd": zstd, "patch": patch, "sent": sizes.chosen}
        figures += [
            Figure(name=f"delta.{name}.of_zstd", value=sizes.chosen / zstd, at_most=QUARTER),
            Figure(
                name=f"delta.{name}.of_best",
                value=sizes.chosen / min(zstd, patch),
                at_most=1.0,
                more=more,
            ),
        ]
    return figures
