"""Adaptive action ensemble (CogACT): what the last chunks say about now, averaged. numpy only."""

from collections import deque

import numpy as np

from visuomotor.execution.chunking import check_chunk


class AdaptiveEnsemble:
    """Asks for a chunk at every step and averages the last `history` chunks' actions for it.

    Weights are proportional to exp(alpha * cosine), where the cosine is that between an older chunk's action and the
    newest one's: an average over chunks that want the same, and less of those that want something else. `alpha` 0 is
    the plain mean. Published: history 2 (Google robot), 7 (WidowX), alpha 0.1. Actions are in robot units.
    """

    def __init__(self, *, action_dim: int, history: int, alpha: float = 0.1) -> None:
        if history < 1:
            raise ValueError(f"Expected to average at least 1 chunk; given history={history}.")
        self.action_dim, self.history, self.alpha = action_dim, history, alpha
        self.reset()

    def reset(self) -> None:
        """Forget all chunks: a new episode or a new instruction starts."""
        self._chunks: deque[np.ndarray] = deque(maxlen=self.history)
        self._fresh = False

    @property
    def needs_chunk(self) -> bool:
        """True until the chunk of this step has come."""
        return not self._fresh

    def update(self, actions: np.ndarray) -> None:
        """Take this step's chunk [T, action_dim] in robot units. Raises ChunkError and changes nothing if it is bad."""
        self._chunks.append(check_chunk(actions, self.action_dim))
        self._fresh = True

    def next_action(self) -> np.ndarray:
        """The action float32[action_dim] of this control step."""
        if self.needs_chunk:
            raise RuntimeError("There is no chunk of this step; call update with one before each action.")
        self._fresh = False
        newest_first = enumerate(reversed(self._chunks))
        candidates = np.stack([chunk[age] for age, chunk in newest_first if age < len(chunk)]).astype(np.float64)
        norms = np.linalg.norm(candidates, axis=1)
        cosine = candidates @ candidates[0] / (norms * norms[0] + 1e-7)
        weights = np.exp(self.alpha * cosine)
        return ((weights / weights.sum()) @ candidates).astype(np.float32)
