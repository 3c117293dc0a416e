"""Libraries of other sources are imported when a model of theirs is there, not before."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np
from sklearn.linear_model import Ridge
import converters.build, converters.cli, converters.file_requests
from converters.skops_library import import_skops
from converters.sources import make_source
from device_profiles.catalog import load_profile
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task
schema = ModelSchema(model="m", task=Task.REGRESSION, features=(Feature(name="x"),),
                     outputs=(Output(name="value", role=Role.VALUE),))
rows = np.array([[1.0], [2.0], [3.0]], np.float32)
skops = import_skops()
model = skops.loads(skops.dumps(Ridge().fit(rows, [1, 2, 3])), trusted=[])
make_source(model, schema).convert(schema, load_profile("camera"), rows)
print([name for name in ("lightgbm", "xgboost", "onnxmltools", "torch") if name in sys.modules])
"""


@pytest.mark.timeout(120)
def test_a_scikit_learn_model_or_file_loads_no_other_training_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == "[]"
