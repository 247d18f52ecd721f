"""Ensembles over time: what the last chunks say about this control step, averaged. numpy only.

Both look at every step; an asynchronous one as often as answers come.
"""

import numpy as np

from visuomotor_client.chunking import ChunkExecutor


class TemporalEnsemble(ChunkExecutor):
    """All chunks that speak about this step, with weights exp(-decay * i), i = 0 the oldest (ACT, Zhao et al. 2023).

    A larger `decay` trusts the older chunks more; 0 is the plain mean. Published: 0.01.
    """

    def __init__(self, *, action_dim: int, decay: float = 0.01, asynchronous: bool = False) -> None:
        if not decay >= 0:
            raise ValueError(f"The weights are exp(-decay * i) with decay of at least 0; given {decay}.")
        self.decay = decay
        super().__init__(action_dim=action_dim, execute=1, history=None, asynchronous=asynchronous)

    def _blend(self, candidates: np.ndarray) -> np.ndarray:
        weights = np.exp(-self.decay * np.arange(len(candidates)))[::-1]
        return ((weights / weights.sum()) @ candidates.astype(np.float64)).astype(np.float32)


class AdaptiveEnsemble(ChunkExecutor):
    """The last `history` chunks, weighted by how much they agree with the newest (CogACT, Li et al. 2024).

    Weights are proportional to exp(alpha * cosine), where the cosine is that between an older chunk's action and the
    newest one's: an average over chunks that want the same, and less of those that want something else. `alpha` 0 is
    the plain mean. Published: history 2 (Google robot), 7 (WidowX), alpha 0.1. Actions are in robot units.
    """

    def __init__(self, *, action_dim: int, history: int, alpha: float = 0.1, asynchronous: bool = False) -> None:
        if history < 1:
            raise ValueError(f"Expected to average at least 1 chunk; given history={history}.")
        self.alpha = alpha
        super().__init__(action_dim=action_dim, execute=1, history=history, asynchronous=asynchronous)

    def _blend(self, candidates: np.ndarray) -> np.ndarray:
        wide = candidates.astype(np.float64)
        norms = np.linalg.norm(wide, axis=1)
        cosine = wide @ wide[0] / (norms * norms[0] + 1e-7)
        weights = np.exp(self.alpha * cosine)
        return ((weights / weights.sum()) @ wide).astype(np.float32)
