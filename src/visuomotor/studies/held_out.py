"""What a policy does on demonstrations that training held out, as it would act: it writes first if it was taught to."""

from pathlib import Path

import numpy as np

from visuomotor.contract import Mixture, Observation
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.loader import held_out
from visuomotor.data.prepared import spread_rows
from visuomotor.data.sources import open_source
from visuomotor.evaluation.results import EpisodeRecord
from visuomotor.policy import load_policy

__all__ = ["held_out_rows", "measure_held_out"]

FRAMES = 384  # that are measured
EXECUTED = 4  # steps of a chunk whose error counts
SIZE = 32  # observations of a batch


def measure_held_out(checkpoint: Path, data: Path, rollouts: list[EpisodeRecord], out: Path) -> dict[str, float]:
    """The mean "action error" of the executed steps in normalised units, and where the policy writes sub-steps the
    share of them that are those of the data, "sub-steps right"."""
    policy, dataset = load_policy(checkpoint), open_source(data)
    robot = dataset.require_embodiment()
    index, errors, right = policy.processor.embodiment_index(robot), [], []
    _, rows = held_out_rows(dataset, FRAMES)
    for part in np.array_split(rows, max(1, len(rows) // SIZE)):
        frames = {camera: dataset.frames(camera, part) for camera in dataset.cameras}
        states, words = dataset.values("observation.state", part), dataset.instructions(part)
        seen = [
            Observation(images={name: own[i] for name, own in frames.items()}, state=states[i], instruction=words[i])
            for i in range(len(part))
        ]
        wanted, padded = dataset.windows("action", part, EXECUTED)
        notes = dataset.annotations(part) if dataset.has("subtask") else None
        for i, chunk in enumerate(policy.infer(seen)):
            own, given = (
                policy.processor.model_actions(actions[:EXECUTED], states[i], index)[:, : robot.action_dim]
                for actions in (wanted[i], chunk.actions)
            )
            errors.append(np.abs(own - given)[~padded[i]].mean())
            if notes is not None and "subtask" in chunk.text:
                right.append(chunk.text["subtask"] == notes[i].subtask)
    found = {"action error": float(np.mean(errors))}
    return {**found, "sub-steps right": float(np.mean(right))} if right else found


def held_out_rows(dataset: EpisodeSource, most: int) -> tuple[list[slice], np.ndarray]:
    """The episodes that training with the standard share held out, and up to `most` of their rows, evenly spread."""
    held = np.flatnonzero(held_out(dataset.num_episodes, Mixture(sources=()).validation))
    slices = [dataset.episode_slice(int(episode)) for episode in held]
    rows = np.concatenate([np.arange(s.start, s.stop) for s in slices])
    return slices, rows[spread_rows(len(rows), most)]
