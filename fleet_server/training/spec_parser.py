"""Read a spec's TOML text into a ``Spec``, or give every problem at once with its line.

Only what the text itself can tell is checked here, the names of profiles, estimators and their
parameters included. Reads no file.
"""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.contract.outputs import LABELS_MAX, TARGET_CHARS_MAX, TARGETS_MAX
from edge_agent.contract.schema import Task
from fleet_server.training.cnn_settings import CNN
from fleet_server.training.estimators import judge_estimator, judge_params, judge_step
from fleet_server.training.metrics import METRICS
from fleet_server.training.spec import (
    TEST_SHARE_DEFAULT,
    BusinessGoal,
    DataSection,
    MetricLimit,
    ModelSection,
    PictureSection,
    ProfileLimit,
    Spec,
    SplitSection,
    StepSpec,
    TrainSection,
)
from fleet_server.training.spec_cnn import read_cnn
from fleet_server.training.spec_family import names_family, read_family
from fleet_server.training.spec_features import read_features, read_text_terms, read_values_max
from fleet_server.training.spec_keys import (
    CRITERIA,
    EFFORTS,
    LATER,
    LATER_SOURCES,
    LATER_TASKS,
    SMALLER,
    say_later,
)
from fleet_server.training.spec_lines import find_lines
from fleet_server.training.spec_pictures import LABEL_COLUMN, describe_pixels, read_pictures
from fleet_server.training.spec_problems import Problems, Section, SpecError, show, suggest

SPEC_BYTES_MAX = 1_048_576
STEPS_MAX = 16
PROFILES_MAX = 64
SEED_MAX = 2**32 - 1
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def parse_spec(text: str, *, source: str, profiles: Sequence[str]) -> Spec:
    """Read a spec.

    Args:
        text: The file's text.
        source: The file, for messages.
        profiles: Ids of the device profiles that exist.

    Raises:
        SpecError: With every problem found and its line.
    """
    if len(text.encode()) > SPEC_BYTES_MAX:
        raise SpecError(source, [(1, f"the file is larger than {SPEC_BYTES_MAX} bytes")])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(source, [(_line_of_error(error), f"not TOML: {error}")]) from error
    problems = Problems(lines=find_lines(text))
    root = Section(problems, (), values, kind="")
    model = _read_model(root)
    pictures = read_pictures(root, root.section("data"))
    data = _read_data(root, model.task, pictures)
    family = read_family(root, model.name, data)
    has_labels = model.task is Task.CLASSIFICATION and bool(data.targets)
    is_network = root.section("train").values.get("estimator") == CNN
    if has_labels and is_network:
        root.section("data").add(
            "target", "names several labels, and a cnn answers one; write a spec for each"
        )
    spec = Spec(
        text=text,
        model=model,
        data=data,
        split=_read_split(root),
        train=_read_train(root, model.task, has_pictures=pictures is not None),
        primary=root.section("metrics").text("primary", is_required=True, chars_max=40),
        metrics=_read_metrics(root, model.task, has_labels=has_labels),
        profiles=_read_profiles(root, model.task, profiles),
        signatures=_read_signatures(root),
        family=family,
    )
    _check_primary(root, spec)
    if problems.found:
        raise SpecError(source, problems.sorted())
    return spec


def _line_of_error(error: tomllib.TOMLDecodeError) -> int:
    found = re.search(r"line (\d+)", str(error))
    return int(found.group(1)) if found else 1


def _read_model(root: Section) -> ModelSection:
    model = root.section("model", kind="model")
    name = model.text("name", is_required=True, chars_max=200)
    if name and not names_family(name) and not _MODEL_NAME.fullmatch(name):
        model.add("name", f"{show(name)} must match {_MODEL_NAME.pattern}")
    return ModelSection(
        name=name,
        task=_read_task(model),
        problem=model.text("problem", is_required=True, chars_max=2_000),
        owner=model.text("owner", chars_max=200),
        business=_read_business(model),
    )


def _read_task(model: Section) -> Task:
    word = model.text("task", is_required=True, chars_max=40)
    if word in LATER_TASKS:
        model.add("task", f"{show(word)} is {say_later('')}")
    elif word and word not in list(Task):
        known = [str(task) for task in Task]
        model.add("task", f"{show(word)} is not one of {known}; {suggest(word, known)}")
    return Task(word) if word in list(Task) else Task.CLASSIFICATION


def _read_business(model: Section) -> BusinessGoal | None:
    if "business" not in model:
        return None
    goal = model.section("business", kind="model.business")
    metric = goal.text("metric", is_required=True, chars_max=200)
    baseline = goal.number("baseline", is_required=True)
    target = goal.number("target", is_required=True)
    return BusinessGoal(metric=metric, baseline=baseline or 0.0, target=target or 0.0)


def _read_data(root: Section, task: Task, pictures: PictureSection | None) -> DataSection:
    data = root.section("data", kind="data")
    if pictures is not None:
        targets = _read_targets(data, task) if "target" in data else (LABEL_COLUMN,)
        return DataSection(
            path=data.text("pictures", is_required=True, chars_max=4_096),
            target=targets[0] if targets else "",
            features=(describe_pixels(pictures.image),),
            targets=targets if len(targets) > 1 else (),
            pictures=pictures,
        )
    source = data.text("source", is_required=True, chars_max=4_096)
    kind, colon, path = source.partition(":")
    if source and kind in LATER_SOURCES and colon:
        data.add("source", f"{show(kind + ':')} is {say_later(LATER_SOURCES[kind])}")
    elif source and (kind != "file" or not path.strip()):
        data.add("source", f'{show(source)} must be "file:PATH" of a CSV or Parquet file')
    targets = _read_targets(data, task)
    features = read_features(data)
    for feature in features:
        if set(targets) & set(feature.table_columns):
            root.problems.add(
                ("data", "features", feature.name),
                "is also data.target; the model would read its own answer. Remove it from the"
                " features",
            )
    return DataSection(
        path=path,
        target=targets[0] if targets else "",
        features=features,
        values_max=read_values_max(data),
        texts=read_text_terms(data),
        targets=targets if len(targets) > 1 else (),
    )


def _read_targets(data: Section, task: Task) -> tuple[str, ...]:
    """Read one column or an array of them."""
    if not isinstance(data.values.get("target"), list):
        name = data.text("target", is_required=True, chars_max=TARGET_CHARS_MAX)
        return (name,) if name else ()
    names = data.items("target", items_max=TARGETS_MAX)
    wrong = [n for n in names if not isinstance(n, str) or not 1 <= len(n) <= TARGET_CHARS_MAX]
    if wrong:
        data.add("target", f"{show(wrong[0])} is no name of a column")
        return ()
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        data.add("target", f"names {show(twice)} twice")
    if len(names) == 1:
        data.add("target", f"is a list of one; say target = {show(names[0])}")
    if not names:
        data.add("target", "names no column")
    if task is Task.CLASSIFICATION and len(names) > LABELS_MAX:
        data.add(
            "target",
            f"names {len(names)} labels, at most {LABELS_MAX}; write two specs of fewer labels",
        )
    return tuple(names)


def _read_split(root: Section) -> SplitSection:
    split = root.section("split", kind="split")
    share = split.number("test", low=0, high=1, unit=" (a share of the rows)")
    if share in (0.0, 1.0):
        split.add("test", f"{share:g} leaves one side empty; give a share between 0 and 1")
        share = None
    return SplitSection(
        test=TEST_SHARE_DEFAULT if share is None else share,
        seed=split.integer("seed", 0, low=0, high=SEED_MAX),
        is_frozen=split.flag("freeze", default=True),
    )


def _read_train(root: Section, task: Task, *, has_pictures: bool) -> TrainSection:
    train = root.section("train", kind="train")
    name = train.text("estimator", is_required=True, chars_max=200)
    params = train.section("params")
    if name == CNN:
        if not has_pictures:
            train.add("estimator", "cnn is for pictures; it needs data.pictures")
        if "steps" in train:
            train.add("steps", "cnn takes none; [input] says what it sees")
        return TrainSection(
            estimator=name,
            params=_frozen(params.values),
            seed=train.integer("seed", 0, low=0, high=SEED_MAX),
            cnn=read_cnn(params, is_classification=task is Task.CLASSIFICATION),
        )
    if name and (reason := judge_estimator(name, task)):
        train.add("estimator", reason)
    elif name:
        _check_params(params, name)
    steps = []
    for index, item in enumerate(train.items("steps", items_max=STEPS_MAX)):
        step = Section(root.problems, ("train", "steps", str(index)), item, kind="train.steps.*")
        use = step.text("use", is_required=True, chars_max=200)
        step_params = step.section("params")
        if use and (reason := judge_step(use)):
            step.add("use", reason)
        elif use:
            _check_params(step_params, use)
        steps.append(StepSpec(use=use, params=_frozen(step_params.values)))
    return TrainSection(
        estimator=name,
        params=_frozen(params.values),
        steps=tuple(steps),
        seed=train.integer("seed", 0, low=0, high=SEED_MAX),
    )


def _check_params(params: Section, name: str) -> None:
    for key, reason in judge_params(name, params.values).items():
        params.add(key, reason)


def _frozen(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn arrays into tuples: some parameters of scikit-learn refuse lists, none a tuple."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}


def _read_metrics(root: Section, task: Task, *, has_labels: bool) -> tuple[MetricLimit, ...]:
    metrics = root.section("metrics")
    limits = []
    for name, value in metrics.values.items():
        if name == "primary":
            continue
        if name in LATER["metrics"]:
            metrics.add(name, say_later(LATER["metrics"][name]))
            continue
        if name not in METRICS:
            metrics.add(name, f"unknown metric; {suggest(name, METRICS)}")
            continue
        if METRICS[name].task is not task:
            mine = [m.name for m in METRICS.values() if m.task is task]
            metrics.add(name, f"does not judge a {task}; {', '.join(mine)} do")
            continue
        if METRICS[name].needs_labels and not has_labels:
            metrics.add(name, "judges several labels together, and data.target names one column")
            continue
        limits.append(
            _read_limit(Section(root.problems, ("metrics", name), value, kind="metrics.*"), name)
        )
    return tuple(limits)


def _read_limit(section: Section, name: str) -> MetricLimit:
    larger = METRICS[name].is_larger_better
    wrong, right = ("ceiling", "floor") if larger else ("floor", "ceiling")
    if wrong in section:
        direction = "larger" if larger else "smaller"
        section.problems.add(
            section.path, f"{direction} is better, so it takes a {right}, not a {wrong}"
        )
    return MetricLimit(
        name=name,
        floor=section.number("floor", high=1.0) if larger else None,
        ceiling=None if larger else section.number("ceiling", low=0.0),
        regression_max=section.number("regression_max", low=0.0),
    )


def _check_primary(root: Section, spec: Spec) -> None:
    metrics = root.section("metrics")
    names = [n for n in metrics.values if n != "primary"]
    if not spec.primary or spec.primary in names:
        return
    if spec.primary not in METRICS:
        metrics.add(
            "primary", f"{show(spec.primary)} is no metric; {suggest(spec.primary, METRICS)}"
        )
        return
    word = "a floor" if METRICS[spec.primary].is_larger_better else "a ceiling"
    metrics.add(
        "primary",
        f"{show(spec.primary)} has no entry below; add [metrics.{spec.primary}] with {word}",
    )


def _read_profiles(root: Section, task: Task, known: Sequence[str]) -> tuple[ProfileLimit, ...]:
    profiles = root.section("profiles")
    if not profiles.values:
        root.add(
            "profiles", "name at least one; a model without a device profile cannot be converted"
        )
    if len(profiles.values) > PROFILES_MAX:
        root.add("profiles", f"names {len(profiles.values)}, at most {PROFILES_MAX}")
        return ()
    limits = []
    for name, value in profiles.values.items():
        if name not in known:
            profiles.add(name, f"no such profile; {suggest(name, known)}")
            continue
        section = Section(root.problems, ("profiles", name), value, kind="profiles.*")
        if task is Task.REGRESSION and "label_flips_max" in section:
            section.add("label_flips_max", "a regression has no labels; use metric_drop_max")
        package_bytes = section.number("package_bytes_max", low=1_024, high=2**40, unit=" bytes")
        limits.append(
            ProfileLimit(
                profile=name,
                latency_ms_p95_max=section.number("latency_ms_p95_max", low=0.001, high=3.6e6),
                package_bytes_max=None if package_bytes is None else math.floor(package_bytes),
                metric_drop_max=section.number("metric_drop_max", low=0.0),
                label_flips_max=section.number("label_flips_max", low=0.0, high=1.0),
                rows_off_max=section.number("rows_off_max", low=0.0, high=1.0),
                error_max=section.number("error_max", low=0.0),
                effort=_read_word(section, "effort", EFFORTS),
                smaller=_read_word(section, "smaller", SMALLER),
                prefer=_read_order(section),
            )
        )
    return tuple(limits)


def _read_word(section: Section, key: str, known: Sequence[str]) -> str:
    """Read one of some words; the first is taken where none is given."""
    word = section.text(key) or known[0]
    if word not in known:
        section.add(key, f"{show(word)} is none of {', '.join(known)}")
    return word


def _read_order(section: Section) -> tuple[str, ...]:
    words = [str(word) for word in section.items("prefer", items_max=len(CRITERIA))]
    for word in words:
        if word not in CRITERIA:
            section.add("prefer", f"{show(word)} is none of {', '.join(CRITERIA)}")
    if len(set(words)) < len(words):
        section.add("prefer", "names a criterion twice")
    return tuple(words)


def _read_signatures(root: Section) -> int:
    approval = root.section("approval", kind="approval")
    wanted = approval.integer("signatures", 1, low=1, high=16)
    if wanted != 1:
        approval.add("signatures", f"{wanted} is {say_later('1 works')}")
    return 1
