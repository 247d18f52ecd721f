"""The evaluation's part of a report: success, controls, latency, videos, failures, answers to questions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.apps.answers import RESULTS_FILE
from visuomotor.apps.facts import percent, sentence
from visuomotor.apps.pictures import data_url, first_frame, image_file
from visuomotor.evaluation.answers import KindScore
from visuomotor.evaluation.results import RECORDS_FILE, ConditionResult, EpisodeRecord, Motion, Results, read_records
from visuomotor.evaluation.statistics import Rate, compare_paired

MAX_FAILURES = 12
CONTROL_NOTES = {
    "wrong_instruction": "The policy is told another task; counted is the scene's own task. A policy that listens "
    "scores near zero, one that ignores the words scores as before.",
    "no_instruction": "The policy is told nothing. What it still scores, it does without words.",
    "black_cameras": "The policy sees only black images (the videos show the world all the same). A policy that looks "
    "scores near zero.",
    "heldout_paraphrase": "The same tasks in sentences that training never used.",
    "heldout_combination": "Combinations of object and task that training never used.",
}


def evaluation_part(folder: Path) -> dict[str, Any]:
    """What the template shows of eval/; empty without its results.json."""
    where = folder / "eval"
    if not (where / "results.json").exists():
        return {}
    results, records = Results.load(where), read_records(where / RECORDS_FILE)
    main = [c for c in results.conditions if not c.control]
    figures = [{"value": percent(c.rate.value), "text": f"{c.name}: {c.rate}"} for c in main]
    latency = main[0].latency if main else None
    if latency:
        text = f"median policy call ({latency.mean_batch:.1f} observations each)"
        figures.append({"value": f"{1000 * latency.p50:.0f} ms", "text": text})
    return {
        "figures": figures,
        "conditions": [row for c in results.conditions for row in success_rows(c)],
        "semantics": sentence(str(results.run.get("success", ""))),
        "controls": [control(c, records) for c in results.conditions if c.control],
        "errors": [f"{c.name}, {error}" for c in results.conditions for error in c.errors],
        "latencies": [row for c in results.conditions for row in latency_rows(c, records)],
        "motions": [motion_row(c.name, c.motion) for c in results.conditions if c.motion],
        "plan": results.run.get("plan") or {},
        "control_hz": results.run.get("control_hz"),
        "clips": clips(results, where),
        "failures": failures(records, where),
        "run": results.run,
    }


def answers_part(folder: Path) -> dict[str, Any]:
    """The scores of answers/, by kind of question; empty without its answers.json."""
    path = folder / "answers" / RESULTS_FILE
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    scores = [KindScore.from_json(s) for s in record["scores"]]
    rows = [
        success_row(s.exact)
        | {
            "kind": s.kind,
            "iou": "" if s.mean_iou is None else f"{s.mean_iou:.2f}",
            "over": "" if s.over_half is None else str(s.over_half),
        }
        for s in scores
    ]
    return {"answers": rows, "answers_wording": record["plan"]["wording"]}


def success_rows(condition: ConditionResult) -> list[dict[str, Any]]:
    """A row for the condition and one for each of its tasks, where it has several."""
    seconds = condition.seconds_to_success
    time = "" if seconds is None else f"{seconds:.1f} s"
    total = success_row(condition.rate) | {
        "condition": condition.name, "control": condition.control, "time": time,
        "progress": percent(condition.mean_progress),
    }  # fmt: skip
    tasks = [success_row(rate) | {"task": task} for task, rate in condition.by_task.items()]
    return [total, *tasks] if len(tasks) > 1 and not condition.control else [total]


def success_row(rate: Rate) -> dict[str, Any]:
    """A rate with its interval, also as a bar in percent."""
    low, high = rate.interval.low, rate.interval.high
    return {
        "successes": rate.successes,
        "count": rate.n,
        "rate": percent(rate.value, 1),
        "interval": f"{100 * low:.1f} to {percent(high, 1)}",
        "low": round(100 * low, 2),
        "width": round(100 * (high - low), 2),
        "value": round(100 * rate.value, 2),
    }


def control(condition: ConditionResult, records: Sequence[EpisodeRecord]) -> dict[str, str]:
    """What a control means, and its difference to the clean rollouts of the same scenarios where it repeats them."""
    clean = {scene(r): r for r in records if not r.control}
    same = [(clean[scene(r)], r) for r in records if r.condition == condition.name and scene(r) in clean]
    found = ""
    if same:
        paired = compare_paired([r.success for _, r in same], [r.success for r, _ in same])
        low, high = (100 * bound for bound in (paired.interval.low, paired.interval.high))
        found = (
            f"On the same {len(same)} starts: {100 * paired.difference:+.0f} points against {same[0][0].condition} "
            f"(95 % interval {low:+.0f} to {high:+.0f}, p = {paired.p_value:.2g}; {paired.method})."
        )
    return {"name": condition.name, "note": CONTROL_NOTES.get(condition.name, ""), "paired": found}


def scene(record: EpisodeRecord) -> tuple[str, str, int, str]:
    """What makes two rollouts start alike."""
    scenario = record.scenario
    return str(scenario["environment"]), str(scenario["task"]), int(scenario["seed"]), record.split


def latency_rows(condition: ConditionResult, records: Sequence[EpisodeRecord]) -> list[dict[str, Any]]:
    """An episode's first policy calls and its later ones, then what all of them allow."""
    mine = [r for r in records if r.condition == condition.name]
    first = [(r.latency[0], r.batch[0]) for r in mine if r.latency]
    later = [call for r in mine for call in list(zip(r.latency, r.batch, strict=True))[1:]]
    rows = [call_row(name, calls) for name, calls in (("first of an episode", first), ("later", later)) if calls]
    if rows and condition.latency:
        rows[0] |= {
            "condition": condition.name,
            "span": len(rows),
            "answers": f"{condition.latency.calls_per_second:.1f}",
            "actions": f"{condition.latency.actions_per_second:.0f}",
        }
    return rows


def motion_row(name: str, motion: Motion) -> dict[str, Any]:
    """How the robot was driven in a condition, and what the safety filter did to its commands."""
    reasons = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in motion.interventions.items())
    share = motion.intervened / max(motion.commands, 1)
    return {
        "condition": name,
        "stall": f"{motion.stall_seconds:.1f}",
        "jerk": "" if motion.jerk is None else f"{motion.jerk:.1f}",
        "seam_jerk": "" if motion.seam_jerk is None else f"{motion.seam_jerk:.1f}",
        "commands": motion.commands,
        "intervened": f"{motion.intervened} ({percent(share, 1)})" if motion.intervened else "0",
        "reasons": reasons,
    }


def call_row(name: str, calls: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Percentiles in milliseconds of calls (seconds, observations that shared the call)."""
    p50, p95, p99 = np.percentile([1000 * seconds for seconds, _ in calls], (50, 95, 99))
    batch = float(np.mean([size for _, size in calls]))
    return {
        "calls": name, "count": len(calls), "batch": f"{batch:.1f}",
        "p50": f"{p50:.0f}", "p95": f"{p95:.0f}", "p99": f"{p99:.0f}",
    }  # fmt: skip


def clips(results: Results, where: Path) -> list[dict[str, Any]]:
    """Kept videos by condition, successes first, each with its first picture and its contact sheet."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for video in results.videos:
        path = where / video["video"]
        if path.exists():
            clip = {
                "source": data_url("video/mp4", path.read_bytes()),
                "poster": first_frame(path),
                "sheet": sheet(where, video),
                "success": video["success"],
                "instruction": video["instruction"] or "(no instruction)",
                "steps": video["steps"],
            }
            groups.setdefault(video["condition"], []).append(clip)
    return [{"name": name, "clips": sorted(found, key=lambda c: not c["success"])} for name, found in groups.items()]


def failures(records: Sequence[EpisodeRecord], where: Path) -> dict[str, Any]:
    """Failures outside the controls, those with a contact sheet first: how far they came, what the policy thought."""
    failed = [r for r in records if not r.success and not r.control]
    shown = sorted(failed, key=lambda r: not (r.sheet and (where / r.sheet).exists()))[:MAX_FAILURES]
    rows = [
        {
            "instruction": r.instruction or "(no instruction)",
            "condition": r.condition,
            "task": r.task,
            "progress": percent(r.progress),
            "steps": r.steps,
            "text": r.text[-1][1] if r.text else "",
            "error": r.error or "",
            "sheet": sheet(where, {"sheet": r.sheet}),
        }
        for r in shown
    ]
    return {"rows": rows, "total": len(failed)} if rows else {}


def sheet(where: Path, entry: Mapping[str, Any]) -> str:
    """The contact sheet that a record names, "" where none was kept."""
    path = where / entry["sheet"] if entry.get("sheet") else None
    return image_file(path) if path and path.exists() else ""
