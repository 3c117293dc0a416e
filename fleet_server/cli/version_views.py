"""How a version is shown: as tables for people, as JSON for programs."""

from typing import TYPE_CHECKING, Any

from fleet_server.cli.output import print_table

if TYPE_CHECKING:
    from fleet_server.ports.registry import Model, NewArtifact, Version

CONFUSION_CLASSES_SHOWN_MAX = 20


def print_builds(version: "Version") -> None:
    """Print what was built for each profile."""
    is_class = bool(version.evaluation.get("classes") or version.evaluation.get("labels"))
    print_table(
        f"{version.model} {version.number}",
        ("profile", "build", "bytes", "p95 ms", "flips", "decision"),
        [
            (
                a.package.profile,
                _name_build(a.package),
                f"{a.package.size_bytes:,}",
                f"{a.package.latency_ms_p95:.3g}",
                f"{a.package.label_flips:.2%}" if is_class else "-",
                a.package.decision,
            )
            for a in version.artifacts
        ],
    )


def _name_build(package: "NewArtifact") -> str:
    """Name the build of the ladder that ships, such as int8_weights; decisions begin with it."""
    name, _, reasons = package.decision.partition(": ")
    return name if reasons else package.precision


def version_to_json(version: "Version") -> dict[str, Any]:
    """Give a version as JSON values."""
    from dataclasses import asdict

    return {
        "model": version.model,
        "version": version.number,
        "state": version.state,
        "created_at": version.created_at.isoformat(),
        "metrics": dict(version.metrics),
        "evaluation": dict(version.evaluation),
        "forced_reason": version.forced_reason,
        "data_sha256": version.data_sha256,
        "run": dict(version.run),
        "artifacts": [{"target": a.target, **asdict(a.package)} for a in version.artifacts],
        "decisions": [
            {"decision": d.decision, "keyid": d.keyid, "reason": d.reason, "at": d.at.isoformat()}
            for d in version.decisions
        ],
        "spec": version.spec,
    }


def print_version(version: "Version", model: "Model") -> None:
    """Print everything that is known of a version."""
    _print_origin(version, model)
    _print_metrics(version)
    _print_targets(version)
    _print_confusion(version)
    _print_worst(version)
    gates = version.evaluation.get("gates", ())
    if gates:
        print_table("limits", ("verdict", "what"), [(g["verdict"], g["sentence"]) for g in gates])
    print_builds(version)
    print_table(
        "packages", ("target", "sha256"), [(a.target, a.package.sha256) for a in version.artifacts]
    )
    if version.decisions:
        print_table(
            "decisions",
            ("at", "decision", "key", "reason"),
            [
                (f"{d.at:%Y-%m-%d %H:%M:%S}", d.decision, d.keyid[:12], d.reason)
                for d in version.decisions
            ],
        )


def print_encodings(encodings: "list[dict[str, Any]]") -> None:
    """Print how the packages travel, as far as a device has asked."""
    if encodings:
        print_table(
            "on the way",
            ("profile", "from", "encoding", "bytes", "of the package"),
            [
                (
                    e["profile"],
                    e["base"] or "-",
                    e["encoding"],
                    f"{e['bytes']:,}",
                    f"{e['bytes'] / e['package_bytes']:.1%}",
                )
                for e in encodings
            ],
        )


def _print_origin(version: "Version", model: "Model") -> None:
    run, split = version.run, version.run.get("split", {})
    code = run.get("code", {})
    commit = code.get("commit", "")[:12] or "none"
    rows = [
        ("problem", model.problem),
        ("state", version.state + (" champion" if version.number == model.champion else "")),
        ("trained", f"{version.created_at:%Y-%m-%d %H:%M:%S}"),
        ("data", version.data_sha256),
        (
            "rows",
            f"{split.get('train_rows', 0):,} trained on, {split.get('test_rows', 0):,} held out"
            f" (seed {split.get('seed', 0)}{', frozen' if split.get('is_frozen') else ''})",
        ),
        ("commit", commit + (", with changes" if code.get("is_dirty") else "")),
        ("libraries", ", ".join(f"{n} {v}" for n, v in run.get("libraries", {}).items())),
    ]
    if pictures := run.get("pictures"):
        rows.insert(4, ("pictures", _say_pictures(pictures)))
    if version.forced_reason:
        rows.append(("forced", version.forced_reason))
    rows += [("note", note) for note in run.get("notes", ())]
    print_table(f"{version.model} {version.number}", ("", ""), rows)


def _print_metrics(version: "Version") -> None:
    shipped = version.evaluation.get("shipped", {})
    rows = []
    for name, value in version.metrics.items():
        cells = [f"{value:.4g}"]
        for result in shipped.values():
            seen = result["metrics"][name]
            cells.append(f"{seen['value']:.4g}  [{seen['low']:.4g}, {seen['high']:.4g}]")
        rows.append((name, *cells))
    print_table(
        "held-out metrics, shipped ones with one-sided 95 % bounds",
        ("metric", "source", *shipped),
        rows,
    )


def _print_targets(version: "Version") -> None:
    for profile, result in version.evaluation.get("shipped", {}).items():
        word = "label" if result.get("labels") else "target"
        targets = result.get(f"{word}s", {})
        rows = [
            (name, *(f"{value:.4g}" for value in own.values())) for name, own in targets.items()
        ]
        if rows:
            metrics = next(iter(targets.values()))
            print_table(f"held-out metrics of each {word}, {profile}", (word, *metrics), rows)


def _print_confusion(version: "Version") -> None:
    classes, confusion = version.evaluation.get("classes"), version.evaluation.get("confusion")
    tables = {"": (classes, confusion)}
    if labels := version.evaluation.get("labels"):
        tables = {f" of {name}": (own, (confusion or {}).get(name)) for name, own in labels.items()}
    for where, (names, counted) in tables.items():
        if names and counted and len(names) <= CONFUSION_CLASSES_SHOWN_MAX:
            rows = [(name, *counts) for name, counts in zip(names, counted, strict=True)]
            print_table(f"truth by answer{where}, source model", ("", *names), rows)


def _say_pictures(record: dict[str, Any]) -> str:
    left_out = [
        f"{record[key]:,} {word}"
        for key, word in (("repeated", "copies"), ("unreadable", "unreadable"))
        if record[key]
    ]
    said = f"{record['used']:,} of {record['listed']:,} files"
    return f"{said} ({', '.join(left_out)} left out)" if left_out else said


def _print_worst(version: "Version") -> None:
    worst = version.evaluation.get("worst_pictures", ())
    if worst:
        print_table(
            "held-out pictures the source model answers worst",
            ("picture", "truth", "answer", "error"),
            [(w["picture"], str(w["truth"]), str(w["answer"]), f"{w['error']:.3g}") for w in worst],
        )
