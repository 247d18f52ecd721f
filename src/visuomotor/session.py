"""Session: what a policy remembers of one robot between calls."""

import secrets
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from visuomotor.contract import ActionChunk

__all__ = ["Session"]

HISTORY = 16


@dataclass
class Session:
    """What is remembered of one robot between calls; the caller resets it when an episode starts.

    `seed` makes the n-th call of the session repeatable; `history` holds the latest chunks, oldest first.
    `progress` is how far the task was when the last chunk was asked for, for models with a progress token; from there
    it moves towards what was predicted for the chunk's end, as far as it was `executed`, in actions (None: all of it).
    """

    seed: int | None = None
    calls: int = 0
    text: dict[str, str] = field(default_factory=dict)
    text_call: int = 0
    executed: int | None = None
    progress: float = 0.0
    history: deque[ActionChunk] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def reset(self, seed: int | None = None) -> None:
        """Forget everything; go on with `seed`, or with the same seed when None."""
        self.seed = self.seed if seed is None else seed
        self.calls, self.text, self.text_call, self.progress = 0, {}, 0, 0.0
        self.history.clear()

    def call_seed(self) -> int:
        """A seed for this call: repeatable when the session has one."""
        if self.seed is None:
            return secrets.randbits(62)
        return int(np.random.SeedSequence((self.seed, self.calls)).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def remember(self, chunk: ActionChunk, *, fresh: bool) -> None:
        """Add a chunk that was sent. `fresh`: its text was written for it, not taken from the session."""
        self.progress = self.progress_now()
        if fresh:
            self.text, self.text_call = chunk.text, self.calls
        self.calls += 1
        self.history.append(chunk)

    def progress_now(self) -> float:
        """Progress after the last chunk was executed: p + (p_end - p) * executed / T, within 0-1 (DM0-Prog)."""
        if not self.history or "progress" not in self.history[-1].extras:
            return self.progress
        last = self.history[-1]
        steps = len(last.actions) if self.executed is None else min(self.executed, len(last.actions))
        moved = self.progress + (last.extras["progress"] - self.progress) * steps / len(last.actions)
        return min(max(moved, 0.0), 1.0)
