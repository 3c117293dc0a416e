"""Specs, tables and fakes for tests of training."""

from collections.abc import Mapping

PROFILES = ("camera", "iot-gateway", "onprem-server")

DIGITS_SPEC = """\
# A camera reads single digits.
[model]
name = "digits"
task = "classification"
problem = "Read the digit in an 8x8 crop."
owner = "vision@example.org"
business = { metric = "misrouted parcels per 1,000", baseline = 8.1, target = 4.0 }

[data]
source = "file:digits.csv"
target = "digit"
[data.features]
pixels = { type = "float32", shape = [8, 8], range = [0, 16] }

[split]
test = 0.30
seed = 7
freeze = true

[train]
estimator = "sklearn.neural_network.MLPClassifier"
params = { hidden_layer_sizes = [64], max_iter = 60, random_state = 0 }
steps = [{ use = "sklearn.preprocessing.StandardScaler" }]

[metrics]
primary = "accuracy"
accuracy = { floor = 0.94, regression_max = 0.01 }
log_loss = { ceiling = 0.30 }

[profiles]
camera = { latency_ms_p95_max = 5, package_bytes_max = 500_000, metric_drop_max = 0.005 }

[approval]
signatures = 1
"""


def edit(text: str, changes: Mapping[str, str]) -> str:
    """Replace each key's one occurrence; a text that is not there is a fault of the test."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    return text
