"""Run by the Python that has Olive: quantize one graph and print the seconds it took.

Also the script that gives Olive its calibration rows; it names them by the environment.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Quantize ``argv[2]`` into the folder ``argv[3]`` in the way ``argv[1]``."""
    way, source, folder = sys.argv[1:4]
    began = time.perf_counter()
    from olive.workflows import run  # type: ignore[import-not-found]  # in its own environment

    static = {"type": "OnnxStaticQuantization", "data_config": "rows", "quant_format": "QDQ"}
    passes = {
        "dynamic": {"type": "OnnxDynamicQuantization"},
        "static": {**static, "per_channel": True},
    }
    system = {
        "type": "LocalSystem",
        "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
    }
    data = {
        "name": "rows",
        "user_script": str(Path(__file__).resolve()),
        "load_dataset_config": {"type": "bench_rows"},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"batch_size": 1},
    }
    run(
        {
            "input_model": {"type": "ONNXModel", "model_path": source},
            "systems": {"here": system},
            "data_configs": [data],
            "passes": {"quantize": passes[way]},
            "host": "here",
            "target": "here",
            "cache_dir": str(Path(folder) / "cache"),
            "output_dir": folder,
            "log_severity_level": 3,
        }
    )
    print(json.dumps({"seconds": time.perf_counter() - began}))


class Rows:
    """Calibration rows as Olive takes them."""

    def __init__(self) -> None:
        self._rows = np.load(os.environ["BENCH_ROWS"], allow_pickle=False)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> tuple[dict[str, Any], int]:
        return {os.environ["BENCH_INPUT"]: self._rows[place]}, 0


if __name__ == "__main__":
    main()
else:
    from olive.data.registry import Registry  # type: ignore[import-not-found]  # see above

    @Registry.register_dataset()  # type: ignore[untyped-decorator]
    def bench_rows(**_: Any) -> Rows:
        """Give the rows."""
        return Rows()
