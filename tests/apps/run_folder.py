"""A small run's folder, each part written by the room that owns its format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.data import recording
from visuomotor.evaluation.results import RECORDS_FILE, EpisodeRecord, append_record, read_records, summarise
from visuomotor.evaluation.video import Caption, Frame, write_sheet, write_video

PROVENANCE = {
    "code": {"commit": "c" * 40 + "+changes", "packages": {"torch": "2.13.0", "numpy": "2.4.6"}, "python": "3.11.7"},
    "recipe": "tabletop-nano",
    "overrides": {"stages.train.steps": "12"},
    "data": {"robot": "9" * 64},
    "parents": {"start": {"checkpoint": "step-7", "weights": "e" * 16, "provenance": {"recipe": "mother"}}},
    "steps": 12,
    "samples": 96,
    "wall_seconds": 95.0,
    "seed": {"train": 7},
    "precision": "float32",
    "run": {"model": "dm0"},
}
RUN = {
    "checkpoint_hash": "6040e9ac532e4a34",
    "checkpoint_provenance": PROVENANCE,
    "code_version": "0.1.0+cc2ff7f",
    "environment": "tabletop",
    "versions": {"mujoco": "3.3.0", "numpy": "2.4.5"},
    "embodiment": "tabletop_arm",
    "control_hz": 10.0,
    "render_quality": "fast",
    "success": "first success: an episode counts once",
    "plan": {"episodes": 4, "splits": ["train"], "control_episodes": 4, "execute": 8, "seed": 100_000, "think": []},
}


def record(index: int, success: bool, condition: str = "train", **fields: Any) -> EpisodeRecord:
    """A rollout of scenario `index`; tasks alternate."""
    task = ("lift", "push")[index % 2]
    given = {
        "condition": condition,
        "index": index,
        "split": "train",
        "control": condition != "train",
        "scenario": {"environment": "tabletop", "task": task, "seed": 100_000 + index, "options": {}},
        "instruction": f"{task} it",
        "success": success,
        "steps": 16,
        "seconds": 1.6 if success else None,
        "progress": 1.0 if success else 0.25,
        "latency": (0.2, 0.1),
        "batch": (2, 2),
        "text": ((0, "reach"), (8, "grasp")),
    }
    return EpisodeRecord(**{**given, **fields})


def write_eval(folder: Path, records: Sequence[EpisodeRecord]) -> Path:
    """eval/ with these records; those that name a video get one."""
    where = folder / "eval"
    (where / "videos").mkdir(parents=True)
    pictures = [np.full((32, 32, 3), 60 * i, np.uint8) for i in range(3)]
    frames = [Frame(images={"scene": picture}, step=i) for i, picture in enumerate(pictures)]
    for r in records:
        caption = Caption(heading=r.condition, instruction=r.instruction, success=r.success, outcome="")
        if r.video:
            write_video(where / r.video, frames, caption, 10.0)
        if r.sheet:
            write_sheet(where / r.sheet, frames, caption)
        append_record(where / RECORDS_FILE, r)
    summarise(RUN, read_records(where / RECORDS_FILE)).save(where)
    return where


def write_train(folder: Path) -> None:
    """train/ with a few logged steps and a checkpoint's provenance."""
    checkpoint = folder / "train" / "checkpoints" / "step-000012"
    checkpoint.mkdir(parents=True)
    (folder / "train" / "last").write_text("step-000012\n")
    (checkpoint / "provenance.json").write_text(json.dumps(PROVENANCE))
    lines = [
        {"step": s, "loss/flow": 2.0 / s, "loss/text": 3.0 / s, "samples_per_second": 50.0, "data_wait": 0.25}
        for s in (4, 8, 12)
    ]
    (folder / "train" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_data(folder: Path) -> str:
    """data/ with five annotated episodes; returns its hash."""
    return recording.write(folder / "data", change=recording.annotated).hash()
