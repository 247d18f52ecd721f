"""What was run, for people: the records of data, training and evaluation as short facts in groups.

Everything is read from files; a fact whose record is missing is left out.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Facts = list[tuple[str, str]]
DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b")  # of git or SHA-256; its first digits are enough to look at


def short(value: Any) -> str:
    """Hashes by their first digits, lists and tables in words, anything else as it is."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {short(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(short(item) for item in value)
    return DIGEST.sub(r"\1", str(value)).replace("+changes", " + changes")


def known(*facts: tuple[str, Any]) -> Facts:
    """The facts that have a value, shortened."""
    return [(name, short(value)) for name, value in facts if value not in (None, "", [], {}, ())]


def grouped(folder: Path, data: Mapping[str, Any], provenance: Mapping[str, Any], run: Mapping[str, Any]) -> list[Any]:
    """(title, facts) of what is there of: `data` (collect.json and the hash), `provenance` (the checkpoint's), `run`
    (the evaluation's)."""
    groups = [
        ("Data", data_facts(data, provenance)),
        ("Training", training_facts(folder, provenance)),
        ("Evaluation", evaluation_facts(folder, run)),
        ("Software", software(data, provenance, run)),
    ]
    return [(title, facts) for title, facts in groups if facts]


def data_facts(data: Mapping[str, Any], provenance: Mapping[str, Any]) -> Facts:
    plan = data.get("plan", {})
    digest = data.get("hash")
    trained = list((provenance.get("data") or {}).values())
    match = ""
    if digest and trained:
        match = " (what the checkpoint was trained on)" if digest in trained else " (not what the checkpoint saw)"
    return known(
        ("world", plan.get("environment")),
        ("split, seed", f"{plan['split']}, {plan['seed']}" if plan else None),
        ("demonstrations", data.get("episodes")),
        ("noise on the actions", plan.get("action_noise")),
        ("render quality", data.get("render_quality")),
        ("stored as", f"{plan['storage']}, {plan['codec']}" if plan else None),
        ("options", plan.get("options")),
        ("data hash", digest and short(digest) + match),
        ("code version", data.get("versions", {}).get("commit")),
    )


def training_facts(folder: Path, provenance: Mapping[str, Any]) -> Facts:
    run = provenance.get("run") or {}
    seconds = provenance.get("wall_seconds")
    parents = {
        name: f"{parent['checkpoint']} of {parent['provenance'].get('recipe')}, weights {parent['weights']}"
        for name, parent in (provenance.get("parents") or {}).items()
    }
    return known(
        ("recipe", provenance.get("recipe")),
        ("changed by hand", {name: value for name, value in (provenance.get("overrides") or {}).items()}),
        ("model", run.get("model")),
        ("steps, samples", f"{provenance['steps']}, {provenance.get('samples')}" if "steps" in provenance else None),
        ("wall time", duration(seconds) if seconds else None),
        ("seed", provenance.get("seed")),
        ("precision", provenance.get("precision")),
        ("data hashes", provenance.get("data")),
        ("started from", parents or ("nothing (random weights)" if provenance else None)),
        ("code version", (provenance.get("code") or {}).get("commit")),
    )


def evaluation_facts(folder: Path, run: Mapping[str, Any]) -> Facts:
    plan = run.get("plan") or {}
    splits = ", ".join(plan.get("splits", ()))
    return known(
        ("checkpoint", run.get("checkpoint") and relative(run["checkpoint"], folder)),
        ("checkpoint hash", run.get("checkpoint_hash")),
        ("world", run.get("environment")),
        ("robot", f"{run['embodiment']} at {run.get('control_hz')} Hz" if "embodiment" in run else None),
        ("cameras", run.get("cameras")),
        ("render quality", run.get("render_quality")),
        ("episodes", f"{plan['episodes']} of each of: {splits}" if plan else None),
        ("control episodes", plan.get("control_episodes")),
        ("first seed", plan.get("seed")),
        ("limit in steps", run.get("max_steps")),
        ("actions per look", plan.get("execute")),
        ("writes before it acts", ", ".join(plan.get("think", ())) or ("nothing" if plan else None)),
        ("options", plan.get("options")),
        ("code version", run.get("code_version")),
    )


def software(data: Mapping[str, Any], provenance: Mapping[str, Any], run: Mapping[str, Any]) -> Facts:
    """Versions of packages; one that differed between the steps is listed with each."""
    code = provenance.get("code") or {}
    sources = {
        "data": data.get("versions") or {},
        "training": {**({"python": code["python"]} if "python" in code else {}), **(code.get("packages") or {})},
        "evaluation": run.get("versions") or {},
    }
    found: dict[str, dict[str, list[str]]] = {}
    for source, versions in sources.items():
        for name, version in versions.items():
            if name != "commit":
                found.setdefault(name, {}).setdefault(str(version), []).append(source)
    return [
        (name, next(iter(by)) if len(by) == 1 else ", ".join(f"{v} ({' and '.join(s)})" for v, s in by.items()))
        for name, by in sorted(found.items())
    ]


def relative(path: Any, folder: Path) -> str:
    """A path below the run's folder without that folder's own name."""
    text, root = short(path), f"{folder.resolve()}/"
    return text.removeprefix(root).removeprefix(f"{folder}/")


def duration(seconds: float) -> str:
    """4.02 -> "4.0 s", 95 -> "1 min 35 s", 3700 -> "1 h 1 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent(share: float, digits: int = 0) -> str:
    """0.725 -> "72 %"; "-" where nothing was measured."""
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else "-"


def sentence(text: str) -> str:
    """`text` with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""
