"""What a camera gets of a convolutional network and a wide perceptron, beside fp32."""

from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.convert_figures import Figure
from converters.build import build_package
from converters.request import BuiltPackage, Effort, MeasurementPlan
from tests.support.convert import request_of
from tests.support.networks import request_of_cnn

SIZE_GOAL, FLIPS_GOAL = 0.30, 0.005
NOISE = 0.05
PLAN = MeasurementPlan(rounds=25, round_s=0.01, runs_max=200)


def measure_camera() -> list[Figure]:
    """Build both with every rung and tell what ships."""
    wide = make_pipeline(StandardScaler(), MLPClassifier((512, 256), max_iter=20, random_state=0))
    figures = []
    for name, package in (
        ("cnn", build_package(request_of_cnn(plan=PLAN, effort=Effort.FULL))),
        ("mlp", build_package(request_of(wide, "digits", plan=PLAN))),
    ):
        figures += _tell(name, package)
    return figures


def _tell(name: str, package: BuiltPackage) -> list[Figure]:
    rungs = {rung["name"]: rung for rung in package.evidence["ladder"]}
    chosen, fp32 = rungs[package.evidence["rung"]], rungs["fp32"]
    low, high = chosen["latency_ratio_interval"]
    return [
        Figure(
            name=f"camera.{name}.size",
            value=chosen["model_bytes"] / fp32["model_bytes"],
            at_most=SIZE_GOAL,
            more={"rung": chosen["name"], "bytes": chosen["model_bytes"]},
        ),
        Figure(
            name=f"camera.{name}.latency",
            value=chosen["latency_ratio"],
            at_most=1.0 + NOISE,
            more={"interval": [round(low, 3), round(high, 3)]},
        ),
        Figure(
            name=f"camera.{name}.flips",
            value=chosen["flip_share"],
            at_most=FLIPS_GOAL,
            more={"decision": package.decision},
        ),
    ]
