"""The report of a run: one self-contained HTML file with numbers, curves, videos and annotated samples.

A run's folder holds what is there of: data/ (a LeRobot data set), train/ (metrics.jsonl, checkpoints), eval/
(results.json, videos), answers/ (answers.json), steps.json (the demo's). Parts that are missing are left out; every
number is read from a file.
"""

import json
import secrets
from pathlib import Path
from typing import Any

import jinja2

from visuomotor.apps.facts import duration, grouped, percent, sentence
from visuomotor.apps.outcomes import answers_part, evaluation_part
from visuomotor.apps.pictures import curves, jpeg
from visuomotor.apps.steps import Steps
from visuomotor.training.metrics import read_metrics

SHEETS = 3
STEPS = {"collect": "demonstrations", "scenes": "scenes", "train": "training", "eval": "evaluation"}


def write_report(folder: Path, out: Path | None = None, title: str | None = None) -> Path:
    """Write the HTML report of a run's folder; returns its path.

    Raises FileNotFoundError when `folder` is no folder or holds no part of a run.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; a report is written of a run's folder.")
    parts = evaluation_part(folder) | answers_part(folder) | training_part(folder) | data_part(folder)
    if not parts:
        raise FileNotFoundError(
            f"{folder} holds neither data/, train/ nor eval/ (nor answers/) with something in it, and is no training "
            "either: there is nothing to report. Give the folder of the run, in which they lie."
        )
    records = {name: parts.pop(name, {}) for name in ("data", "provenance", "run")}
    provenance = records["run"].get("checkpoint_provenance") or records["provenance"]
    context = {
        "title": title or f"visuomotor: {folder.resolve().name}",
        "lead": lead(parts, records["data"].get("plan", {}).get("environment") or records["run"].get("environment")),
        "groups": grouped(folder, records["data"], provenance, records["run"]),
        "raw": raw(records),
        **steps_part(folder),
        **parts,
    }
    path = out or folder / "report.html"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # No lock: a report of a run that goes on is wanted, and of two that are written at once either one is right.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    partial.write_text(environment.get_template("report.html").render(context))
    partial.replace(path)
    return path


def lead(parts: dict[str, Any], world: str | None) -> str:
    """What the report is about, in a sentence made of the parts that are there."""
    told = []
    if "data_note" in parts:
        told.append("demonstrations were recorded")
    if "curves" in parts:
        told.append("a policy was trained on them" if told else "a policy was trained")
    if "conditions" in parts:
        told.append("it was measured in simulation" if "curves" in parts else "a policy was measured in simulation")
    if "answers" in parts:
        told.append("it was asked questions" if told else "a policy was asked questions")
    text = ", ".join(told[:-1]) + (", and " if told[1:] else "") + told[-1]
    return sentence(f"{text} (world: {world})" if world else text)


def training_part(folder: Path) -> dict[str, Any]:
    """Learning curves and the last checkpoint's provenance, of train/, or of a folder that is a training itself."""
    folder = folder / "train" if (folder / "train").is_dir() else folder
    path = folder / "metrics.jsonl"
    records = read_metrics(path)
    if not records:
        return {}
    last, provenance = folder / "last", {}
    if last.exists():
        file = folder / "checkpoints" / last.read_text().strip() / "provenance.json"
        provenance = json.loads(file.read_text()) if file.exists() else {}
    notes = [f"{records[-1]['step']} steps"]
    means = {
        key: sum(values) / len(values)
        for key in ("samples_per_second", "data_wait")
        if (values := [r[key] for r in records if key in r])
    }
    if "samples_per_second" in means:
        notes.append(f"{means['samples_per_second']:.0f} samples/s")
    if "data_wait" in means:
        notes.append(f"{percent(means['data_wait'], 1)} of the time waiting for data")
    return {"curves": curves(path), "training_note": ", ".join(notes), "provenance": provenance}


def data_part(folder: Path) -> dict[str, Any]:
    """Contact sheets of annotated episodes and the record of data/."""
    where = folder / "data"
    if not (where / "meta" / "info.json").exists():
        return {}
    from visuomotor.data.sources import open_source
    from visuomotor.data.view import contact_sheet

    dataset = open_source(where)
    note = f"{dataset.num_episodes} demonstrations, {dataset.num_frames} frames at {dataset.fps:g} Hz"
    file = where / "collect.json"
    record = json.loads(file.read_text()) if file.exists() else {}
    if "tasks" in record:
        kept, failed = (sum(count[name] for count in record["tasks"].values()) for name in ("kept", "failed"))
        note += f"; {failed} of {kept + failed} attempts failed and were left out"
    samples = []
    if dataset.cameras:
        picked = range(0, dataset.num_episodes, max(1, dataset.num_episodes // SHEETS))[:SHEETS]
        samples = [{"text": dataset.instruction(e), "source": jpeg(contact_sheet(dataset, e, 6), 88)} for e in picked]
    return {
        "data_note": f"{note}.",
        "annotated": any(dataset.has(name) for name in ("subtask", "boxes", "trace", "progress")),
        "tasks": record.get("tasks", {}),
        "samples": samples,
        "data": {**record, "hash": dataset.hash()},
    }


def steps_part(folder: Path) -> dict[str, Any]:
    """Wall time of the demo's steps, where it was measured."""
    timed = {name: entry["seconds"] for name, entry in Steps.read(folder).items() if entry.get("seconds") is not None}
    if not timed:
        return {}
    total = sum(timed.values())
    rows = [
        {"name": STEPS.get(name, name), "time": duration(seconds), "share": round(100 * seconds / max(total, 1e-9), 1)}
        for name, seconds in timed.items()
    ]
    return {"steps": rows, "steps_total": duration(total)}


def raw(records: dict[str, Any]) -> str:
    """The records as they are, for those who need every field."""
    return json.dumps({name: record for name, record in records.items() if record}, indent=1, default=str)
