"""A data set's numbers, normalised once, so that drawing a sample costs microseconds."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from visuomotor.contract import Annotation
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.normalization import Units
from visuomotor.data.phases import episode_weights
from visuomotor.data.statistics import describe
from visuomotor.data.weighting import WeightingConfig, chunk_weight, dual_scale
from visuomotor.text.action_tokens import encode_bins

__all__ = ["Prepared", "object_shares", "spread_chunks", "spread_rows"]

MAX_ANNOTATIONS = 200_000
MAX_VOCABULARY_ROWS = 512
MAX_CHUNKS = 5000  # enough for the statistics of FAST tokens


def spread_rows(frames: int, most: int = MAX_VOCABULARY_ROWS) -> np.ndarray:
    """Up to `most` evenly spread rows."""
    return np.unique(np.linspace(0, frames - 1, min(most, frames)).astype(np.int64))


def object_shares(annotations: Sequence[Annotation]) -> dict[str, float]:
    """{object name: share of the annotated frames that show it}, sorted by name."""
    shown = Counter(n for a in annotations for n in {n for b in a.boxes.values() for n in b})
    return {name: shown[name] / len(annotations) for name in sorted(shown)}


class Prepared:
    """Per-row arrays of one data set under one embodiment's units; annotations are read when they are needed."""

    def __init__(
        self, dataset: EpisodeSource, units: Units, horizon: int, weighting: WeightingConfig | None = None
    ) -> None:
        self.dataset = dataset
        self.units = units
        self._horizon = np.arange(horizon)
        self._weighting = weighting or WeightingConfig()
        self._trajectory_weights: np.ndarray | None = None
        self.end = np.zeros(dataset.num_frames, dtype=np.int64)
        self.episode = np.zeros(dataset.num_frames, dtype=np.int64)
        for e in range(dataset.num_episodes):
            frames = dataset.episode_slice(e)
            self.end[frames], self.episode[frames] = frames.stop, e
        self._annotations: dict[int, Annotation] = {}
        self._instructions: dict[int, str] = {}  # of the newest batch; threads that lost theirs read row by row
        self._vocabulary: dict[str, float] | None = None
        self.raw_state = self._matrix("observation.state", len(units.state.offset))
        self.raw_action = self._matrix("action", len(units.action.offset))
        self.state = units.state.apply(self.raw_state)
        self._bad_state = np.any(~np.isfinite(self.raw_state), axis=1)
        bad_action = np.any(~np.isfinite(self.raw_action), axis=1)
        self._bad_actions = np.concatenate([[0], np.cumsum(bad_action)])
        self.action, self._bins = None, None
        if units.reference is None:  # otherwise the numbers depend on the chunk's first state
            self.action = units.action.apply(self.raw_action)
            self._bins = encode_bins(np.nan_to_num(self.action[:, : self.raw_action.shape[1]]))

    def state_at(self, row: int) -> np.ndarray:
        """float32[S] normalised."""
        if self._bad_state[row]:
            raise ValueError(self._not_finite("observation.state", self.raw_state, row))
        return self.state[row]

    def has_actions(self, row: int) -> bool:
        """Whether the actions from a row on, as far as a chunk reaches, are all finite."""
        steps = min(len(self._horizon), int(self.end[row]) - row)
        return bool(self._bad_actions[row + steps] == self._bad_actions[row])

    def actions_at(self, row: int) -> tuple[np.ndarray, int, np.ndarray]:
        """(normalised float32[T, A], valid steps n, bins int64[n, a]).

        After the episode the last action repeats; what `Units.still` names is zero there in robot units.
        """
        end = int(self.end[row])
        steps = min(len(self._horizon), end - row)
        if not self.has_actions(row):
            bad = row + int(np.argmax(~np.isfinite(self.raw_action[row : row + steps]).all(axis=1)))
            raise ValueError(self._not_finite("action", self.raw_action, bad))
        rows = np.minimum(row + self._horizon, end - 1)
        if steps < len(rows) and self.units.still:
            raw = self.raw_action[rows]
            raw[steps:, self.units.still] = 0
            actions = self.units.model_actions(raw, self.raw_state[row])
            return actions, steps, encode_bins(actions[:steps, : raw.shape[1]])
        if self.action is not None and self._bins is not None:
            return self.action[rows], steps, self._bins[row : row + steps]
        actions = self.units.model_actions(self.raw_action[rows], self.raw_state[row])
        return actions, steps, encode_bins(actions[:steps, : self.raw_action.shape[1]])

    def progress_at(self, row: int, steps: int) -> np.ndarray:
        """float32[2]: progress 0-1 at a row and `steps` frames later, at most at the end of the episode."""
        rows = np.array([row, min(row + steps, int(self.end[row]) - 1)])
        annotations = self.load_annotations(rows)
        return np.array([annotations[r].progress for r in rows.tolist()], dtype=np.float32)

    def weights_at(self, row: int) -> dict[str, np.ndarray]:
        """{name: float32[T]} of every loss weight for the chunk from a row on; 0 after the episode's end.

        "trajectory" and "chunk" are w^t and w^a of data/weighting.py, "move" and "mani" their two combinations, and
        "emphasis" w^a (1 + w^t), for a model with one head.
        """
        there = np.zeros((2, len(self._horizon)), dtype=np.float32)
        steps = min(len(self._horizon), int(self.end[row]) - row)
        there[0, :steps] = self._trajectory[row : row + steps]
        there[1, :steps] = chunk_weight(steps, self._weighting.gamma)
        trajectory, chunk = there
        move, mani = dual_scale(trajectory, chunk)
        return {"trajectory": trajectory, "chunk": chunk, "move": move, "mani": mani, "emphasis": chunk + mani}

    def router_at(self, row: int) -> np.ndarray:
        """float32[]: 1 where the robot manipulates, 0 where it moves."""
        last = row + 1 if self._weighting.label == "now" else min(row + len(self._horizon), int(self.end[row]))
        return np.array((self._trajectory[row:last] > self._weighting.threshold).any(), dtype=np.float32)

    @property
    def _trajectory(self) -> np.ndarray:
        """float64[F]: w^t of every frame, made when it is first asked for."""
        if self._trajectory_weights is None:
            parts = episode_weights(self.dataset, self._weighting)
            self._trajectory_weights = np.concatenate(parts)
        return self._trajectory_weights

    def instruction(self, row: int) -> str:
        """The instruction in force at a row (most data sets have one an episode)."""
        text = self._instructions.get(row)
        return self.dataset.instructions(np.array([row]))[0] if text is None else text

    def load_instructions(self, rows: np.ndarray) -> None:
        """Read the instructions of a batch's rows in one call, which costs little more than that of one row."""
        self._instructions = dict(zip(rows.tolist(), self.dataset.instructions(rows), strict=True))

    def load_annotations(self, rows: np.ndarray) -> dict[int, Annotation]:
        """Annotations by row; those that are not at hand yet are read in one call and kept."""
        known = self._annotations
        missing = np.array([r for r in dict.fromkeys(rows.tolist()) if r not in known], dtype=np.int64)
        if len(missing):
            read = self.dataset.annotations(missing)
            if read is None:
                raise ValueError(
                    f"{describe(self.dataset)} has no annotations, which sub-task, box, trajectory and grounding text "
                    f"need. Set the probability of those levels to 0, or collect the data with annotations."
                )
            if len(known) + len(missing) > MAX_ANNOTATIONS:  # other threads may still read the old ones
                known = {r: known[r] for r in rows.tolist() if r in known}
            known.update(zip(missing.tolist(), read, strict=True))
            self._annotations = known
        return known

    def annotation(self, row: int) -> Annotation:
        found = self._annotations.get(row)
        return self.load_annotations(np.array([row]))[row] if found is None else found

    def vocabulary(self) -> dict[str, float]:
        """{object name: share of frames that show it}, from up to 512 evenly spread rows, sorted by name."""
        if self._vocabulary is None:
            rows = spread_rows(self.dataset.num_frames)
            found = self.load_annotations(rows)
            self._vocabulary = object_shares([found[r] for r in rows.tolist()])
        return self._vocabulary

    def place(self, row: int) -> str:
        """How errors name a row."""
        episode = int(self.episode[row])
        frame = row - self.dataset.episode_slice(episode).start
        return f"row {row} (episode {episode}, frame {frame}) of {describe(self.dataset)}"

    def _matrix(self, column: str, width: int) -> np.ndarray:
        values = self.dataset.columns.get(column)
        if values is None:
            return np.zeros((self.dataset.num_frames, width), dtype=np.float32)
        values = values[:, None] if values.ndim == 1 else values
        if values.shape[1] != width:
            raise ValueError(
                f"{column} of {describe(self.dataset)} is {values.shape[1]} wide but its embodiment "
                f"{self.dataset.require_embodiment().name!r} describes {width} dimensions; correct embodiment.json."
            )
        return values

    def _not_finite(self, column: str, values: np.ndarray, row: int) -> str:
        dim = int(np.argmax(~np.isfinite(values[row])))
        components = (
            self.dataset.require_embodiment().state if column != "action" else self.dataset.require_embodiment().action
        )
        name = [f"{c.name}.{d}" for c in components for d in c.dims][dim]
        return (
            f"{column} dimension {dim} ({name}) is {values[row, dim]} in {self.place(row)}. "
            f"Run `visuomotor data doctor`, or train with --bad-samples quarantine."
        )


def spread_chunks(datasets: Iterable[Prepared]) -> list[np.ndarray]:
    """Up to MAX_CHUNKS normalised chunks float32[T, a], evenly spread over the data; those with NaN are left out."""
    sources = list(datasets)
    chunks = []
    for prepared in sources:
        width = prepared.raw_action.shape[1]
        rows = np.linspace(0, prepared.dataset.num_frames - 1, max(1, MAX_CHUNKS // len(sources)))
        for row in np.unique(rows.astype(np.int64)).tolist():
            if prepared.has_actions(row):
                chunks.append(prepared.actions_at(row)[0][:, :width])
    return chunks
