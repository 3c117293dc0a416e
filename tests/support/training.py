"""Specs, tables and fakes for tests of training."""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from edge_agent.contract.package import unpack_members
from fleet_server.adapters.database.engine import open_engine, write_session
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.database.model_repository import DatabaseModelRegistry
from fleet_server.adapters.database.tables import ModelRow
from fleet_server.adapters.estimator_files import SkopsEstimatorWriter
from fleet_server.adapters.git_commit import GitCodeVersions
from fleet_server.adapters.object_store import ObjectStore
from fleet_server.adapters.table_files import PyarrowTableReader
from fleet_server.adapters.training_pictures import FilePictureReader
from fleet_server.ports.registry import Version
from fleet_server.ports.training import NumberColumn, RawTable, WordColumn
from fleet_server.services.train_model import TrainModel
from fleet_server.training.spec import Spec
from fleet_server.training.spec_parser import parse_spec
from tests.support.clock import FakeClock

PATIENCE = "latency_ms_p95_max = 10_000.0"
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
camera = { latency_ms_p95_max = 500, package_bytes_max = 500_000, metric_drop_max = 0.005 }

[approval]
signatures = 1
"""


def edit(text: str, changes: Mapping[str, str]) -> str:
    """Replace each key's one occurrence; a text that is not there is a fault of the test."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    return text


def raw_table(
    numbers: Mapping[str, Sequence[float]] | None = None,
    words: Mapping[str, Sequence[str | None]] | None = None,
) -> RawTable:
    """A table as a reader gives it; None is a missing word, NaN a missing number."""
    columns = {
        name: NumberColumn(values=np.array(values, np.float64), unreadable=np.empty(0, np.int64))
        for name, values in (numbers or {}).items()
    }
    word_columns = {}
    for name, values in (words or {}).items():
        known = tuple(dict.fromkeys(word for word in values if word is not None))
        codes = [known.index(word) if word is not None else -1 for word in values]
        word_columns[name] = WordColumn(codes=np.array(codes, np.int64), words=known)
    sizes = {len(c.values) for c in columns.values()} | {
        len(c.codes) for c in word_columns.values()
    }
    (rows,) = sizes
    return RawTable(rows=rows, numbers=columns, words=word_columns)


def value_spec(
    *features: str, task: str = "classification", target: str = "t", **train: str
) -> str:
    """A small spec; each feature is its line, such as ``x = { type = "float32" }``."""
    metric = "accuracy" if task == "classification" else "mae"
    estimator = train.get(
        "estimator",
        "sklearn.linear_model.LogisticRegression"
        if task == "classification"
        else "sklearn.linear_model.Ridge",
    )
    lines = "\n".join(features or ('x = { type = "float32" }',))
    return f"""\
[model]
name = "small"
task = "{task}"
problem = "Try."
[data]
source = "file:rows.csv"
target = "{target}"
[data.features]
{lines}
[split]
test = 0.3
[train]
estimator = "{estimator}"
params = {train.get("params", "{}")}
steps = {train.get("steps", "[]")}
[metrics]
primary = "{metric}"
{metric} = {train.get("limit", "{}")}
[profiles]
camera = {{}}
"""


def write_patient_profiles(folder: Path) -> None:
    """Write the shipped profiles with room for the latencies of a busy machine."""
    folder.mkdir()
    for name in PROFILES:
        shipped = files("device_profiles").joinpath("data", f"{name}.toml").read_text()
        patient, found = re.subn(r"(?m)^latency_ms_p95_max = .*", PATIENCE, shipped)
        assert found == 1
        (folder / f"{name}.toml").write_text(patient)


def read_spec(text: str) -> Spec:
    return parse_spec(text, source="small.toml", profiles=PROFILES)


class HeardSteps:
    """Remembers what a training said."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.details: list[str] = []

    def started(self, step: str, detail: str) -> None:
        assert step
        assert detail

    def working(self, step: str, detail: str) -> None:
        assert step
        self.details.append(detail)

    def finished(self, step: str, seconds: float, sentence: str) -> None:
        assert seconds >= 0
        self.lines.append((step, sentence))


class TrainingBench:
    """A registry, a package store and a folder for specs, all real."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "control.db"
        migrate(self.database)
        self.engine = open_engine(self.database)
        self.objects = ObjectStore(folder / "objects")
        self.registry = DatabaseModelRegistry(self.engine)
        self.heard = HeardSteps()
        self.profiles_dir = folder / "profiles"
        write_patient_profiles(self.profiles_dir)
        self.trainer = TrainModel(
            reader=PyarrowTableReader(),
            pictures=FilePictureReader(tables=PyarrowTableReader()),
            registry=self.registry,
            packages=self.objects,
            estimators=SkopsEstimatorWriter(),
            code_versions=GitCodeVersions(),
            clock=FakeClock(),
            listener=self.heard,
            profiles_dir=self.profiles_dir,
        )

    def write(self, spec: str, table: pa.Table, name: str = "rows.csv") -> Path:
        if name.endswith(".csv"):
            pa.csv.write_csv(table, self.folder / name)
        else:
            pa.parquet.write_table(table, self.folder / name)
        path = self.folder / "spec.toml"
        path.write_text(spec.replace("rows.csv", name))
        return path

    def train(self, spec: str, table: pa.Table, **options: str) -> Version:
        """Train and give the version that was registered."""
        path = self.write(spec, table, options.pop("name", "rows.csv"))
        trained = self.trainer.train(path, actor="ann", **options)
        version = self.registry.find_version(trained.model, trained.number)
        assert version is not None
        return version

    def crown(self, model: str, number: int) -> None:
        """Make a version the champion, as a completed rollout does."""
        with write_session(self.engine) as session:
            session.get_one(ModelRow, model).champion = number

    def member(self, version: Version, name: str, profile: str = "camera") -> bytes:
        (sha256,) = [a.package.sha256 for a in version.artifacts if a.package.profile == profile]
        return unpack_members(self.objects.read(sha256))[name]


def blob_table(rows: int = 240, seed: int = 0, noise: float = 0.0) -> pa.Table:
    """Two columns, three classes in three clouds; ``noise`` is the share of wrong answers."""
    draw = np.random.default_rng(seed)
    true = draw.integers(0, 3, rows)
    centres = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    points = (centres[true] + draw.normal(size=(rows, 2))).astype(np.float32)
    said = np.where(draw.random(rows) < noise, draw.integers(0, 3, rows), true)
    names = np.array(["left", "right", "top"])[said]
    return pa.table({"x": points[:, 0], "y": points[:, 1], "t": names})


BLOB_FEATURES = ('x = { type = "float32" }', 'y = { type = "float32" }')
