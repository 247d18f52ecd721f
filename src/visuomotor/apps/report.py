"""The report of a run: one self-contained HTML file with numbers, curves, videos and annotated samples.

A run's folder holds what is there of: data/ (a LeRobot data set), train/ (metrics.jsonl, checkpoints), eval/
(results.json, videos). Parts that are missing are left out of the report.
"""

import base64
import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from visuomotor.evaluation.results import RECORDS_FILE, ConditionResult, EpisodeRecord, Results, read_records
from visuomotor.training.metrics import read_metrics
from visuomotor.training.plot import plot_metrics

if TYPE_CHECKING:
    from visuomotor.data.lerobot import Dataset
    from visuomotor.evaluation.statistics import Rate

MAX_FAILURES = 12
SHEETS = 2


def write_report(folder: Path, out: Path | None = None, title: str | None = None) -> Path:
    """Write the HTML report of a run's folder; returns its path."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; a report is written of a run's folder.")
    path = out or folder / "report.html"
    context = {"title": title or f"visuomotor: {folder.name}", "lead": lead(folder)}
    for part in (evaluation_part, training_part, data_part):
        for key, value in part(folder).items():
            context[key] = context.get(key, []) + value if key in {"facts", "figures"} else value
    if len(context) == 2:
        raise FileNotFoundError(f"{folder} holds neither data/, train/ nor eval/: there is nothing to report.")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.Undefined
    )
    partial = path.with_suffix(".html.partial")
    partial.write_text(environment.get_template("report.html").render(context))
    partial.replace(path)
    return path


def lead(folder: Path) -> str:
    """What was done, in a sentence, from the data set's own record."""
    record = folder / "data" / "collect.json"
    if not record.exists():
        return "A policy and what it can do."
    plan = json.loads(record.read_text()).get("plan", {})
    return (
        f"A robot in the {plan.get('environment', '')} world was demonstrated, a policy was trained on the "
        "demonstrations and measured in the same world on starts that it had never seen."
    )


def evaluation_part(folder: Path) -> dict[str, Any]:
    """Success table, controls, videos, failures and facts of eval/."""
    where = folder / "eval"
    if not (where / "results.json").exists():
        return {}
    results = Results.load(where)
    records = read_records(where / RECORDS_FILE)
    main = [c for c in results.conditions if not c.control]
    figures = [{"value": f"{c.rate.value:.0%}", "text": f"{c.name}: {c.rate}"} for c in main]
    latency = main[0].latency if main else None
    if latency:
        figures.append({"value": f"{1000 * latency.p50:.0f} ms", "text": "median time of one (batched) policy call"})
    rows = []
    for condition in results.conditions:
        rows.append(success_row(condition, "all", condition.rate))
        if not condition.control:
            rows += [success_row(condition, task, rate) for task, rate in condition.by_task.items()]
    return {
        "figures": figures,
        "conditions": rows,
        "semantics": str(results.run.get("success", "")),
        "control_notes": [control_note(c) for c in results.conditions if c.control and control_note(c)],
        "clips": clips(results, where),
        "failures": failures(records),
        "facts": [(str(key), plain(value)) for key, value in results.run.items()],
    }


def success_row(condition: ConditionResult, task: str, rate: "Rate") -> dict[str, Any]:
    """One row of the success table, with the interval as a bar in percent."""
    low, high = rate.interval.low, rate.interval.high
    seconds = condition.seconds_to_success
    return {
        "condition": f"{condition.name} (control)" if condition.control else condition.name,
        "task": task,
        "successes": rate.successes,
        "count": rate.n,
        "rate": f"{rate.value:.1%}",
        "interval": f"{low:.1%} to {high:.1%}",
        "low": round(100 * low, 2),
        "width": round(100 * (high - low), 2),
        "value": round(100 * rate.value, 2),
        "time": f"{seconds:.1f} s" if seconds is not None and task == "all" else "",
    }


def control_note(condition: ConditionResult) -> str:
    """What a control means, where it needs saying."""
    notes = {
        "wrong_instruction": "wrong_instruction: the policy is told another task that is possible in the same scene; "
        "counted is the scene's original task, so a policy that listens scores near zero.",
        "black_cameras": "black_cameras: the policy sees only black images; a policy that looks scores near zero.",
    }
    return notes.get(condition.name, "")


def clips(results: Results, where: Path) -> list[dict[str, Any]]:
    """Kept videos by condition, as data URLs."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for video in results.videos:
        path = where / video["video"]
        if path.exists():
            source = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
            text = f"{video['instruction']} ({video['steps']} steps)"
            groups.setdefault(video["condition"], []).append(
                {"source": source, "success": video["success"], "text": text}
            )
    return [{"name": name, "clips": sorted(found, key=lambda c: not c["success"])} for name, found in groups.items()]


def failures(records: list[EpisodeRecord]) -> list[dict[str, Any]]:
    """The first failures outside the controls, with how far they came and what the policy thought last."""
    failed = [r for r in records if not r.success and not r.control][:MAX_FAILURES]
    return [
        {
            "instruction": r.instruction,
            "condition": r.condition,
            "progress": f"{r.progress:.0%}",
            "steps": r.steps,
            "text": r.error or (r.text[-1][1] if r.text else ""),
        }
        for r in failed
    ]


def training_part(folder: Path) -> dict[str, Any]:
    """Learning curves and facts of train/."""
    path = folder / "train" / "metrics.jsonl"
    if not path.exists():
        return {}
    records = read_metrics(path)
    if not records:
        return {}
    facts = []
    last = folder / "train" / "last"
    if last.exists():
        provenance = folder / "train" / "checkpoints" / last.read_text().strip() / "provenance.json"
        if provenance.exists():
            facts = [(f"training: {k}", plain(v)) for k, v in json.loads(provenance.read_text()).items()]
    speeds = [r["samples_per_second"] for r in records if "samples_per_second" in r]
    waits = [r["data_wait"] for r in records if "data_wait" in r]
    note = f"{records[-1]['step']} steps"
    if speeds:
        note += f", {sum(speeds) / len(speeds):.0f} samples/s"
    if waits:
        note += f", {sum(waits) / len(waits):.1%} of the time waiting for data"
    return {"curves": curves(path), "training_note": note, "facts": facts}


def curves(metrics: Path) -> Markup:
    """The learning curves as SVG."""
    with tempfile.TemporaryDirectory() as folder:
        text = plot_metrics(metrics, Path(folder) / "curves.svg").read_text()
    return Markup(text[text.index("<svg") :])


def data_part(folder: Path) -> dict[str, Any]:
    """Contact sheets of annotated episodes and facts of data/."""
    where = folder / "data"
    if not (where / "meta" / "info.json").exists():
        return {}
    from visuomotor.data.lerobot import Dataset
    from visuomotor.data.view import contact_sheet

    dataset = Dataset(where)
    note = f"{dataset.num_episodes} demonstrations, {dataset.num_frames} frames at {dataset.fps} Hz"
    record = where / "collect.json"
    if record.exists():
        counts = json.loads(record.read_text())["tasks"].values()
        kept, failed = (sum(count[name] for count in counts) for name in ("kept", "failed"))
        note += f"; {failed} of {kept + failed} attempts failed and were left out"
    return {
        "data_note": f"{note}. Sub-task, boxes, the gripper's future path and progress come from the simulator.",
        "samples": [sample(dataset, episode, contact_sheet) for episode in range(min(SHEETS, dataset.num_episodes))],
        "facts": [("data hash", dataset.hash())],
    }


def sample(dataset: "Dataset", episode: int, draw: Any) -> dict[str, str]:
    """One contact sheet as a data URL."""
    buffer = io.BytesIO()
    draw(dataset, episode, 8).save(buffer, "PNG")
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"text": dataset.instruction(episode), "source": source}


def plain(value: Any) -> str:
    """A fact's value as one line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
