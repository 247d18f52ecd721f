"""The executors by name, as command lines and servers choose them. numpy only."""

from typing import Any, Optional

from visuomotor_client.chunking import ChunkExecutor, RecedingHorizon
from visuomotor_client.ensemble import AdaptiveEnsemble, TemporalEnsemble
from visuomotor_client.robot import parts

__all__ = ["EXECUTORS", "guidance_of", "make_executor"]

EXECUTORS = {
    "receding_horizon": "run the first actions of a chunk, wait for the next chunk",
    "temporal_ensemble": "look at every step, average all chunks (ACT)",
    "adaptive_ensemble": "look at every step, average the chunks that agree (CogACT)",
    "asynchronous": "go on with the old chunk while the next is computed, then switch",
    "asynchronous_ensemble": "the same, with the average of all chunks",
    "rtc": "real-time chunking: the next chunk is guided to go on from the old one (vector-Jacobian product)",
    "rtc_identity": "the same at the price of no guidance: the Jacobian is taken for the identity",
    "rtc_prefix": "the next chunk is given the actions that run meanwhile, for models trained with them",
}
_GUIDANCE = {"rtc": "guided", "rtc_identity": "identity", "rtc_prefix": "prefix"}


def guidance_of(name: str) -> Optional[str]:
    """The guidance that an executor asks of the policy (see ChunkRequest), None where it asks for none."""
    return _GUIDANCE.get(name)


def make_executor(name: str, embodiment: Any, *, execute: int = 8) -> ChunkExecutor:
    """The named executor for a robot. `execute`: actions between two looks; ensembles look at every step.

    Raises:
        ValueError: an unknown name, or an executor that mixes chunks for a robot whose actions are differences to the
        state at the start of their own chunk.
    """
    if name not in EXECUTORS:
        raise ValueError(f"Unknown executor {name!r}; choose from {', '.join(EXECUTORS)}.")
    relative = [part.name for part in parts(embodiment) if part.base == "chunk_start"]
    if relative and name != "receding_horizon":
        raise ValueError(
            f"Action component {relative[0]!r} is a difference to the state at the start of its chunk, so actions of "
            f"two chunks cannot be mixed, as {name!r} does. Use receding_horizon, or absolute actions."
        )
    dim = parts(embodiment)[-1].where.stop
    if name == "temporal_ensemble" or name == "asynchronous_ensemble":
        return TemporalEnsemble(action_dim=dim, asynchronous=name == "asynchronous_ensemble")
    if name == "adaptive_ensemble":
        return AdaptiveEnsemble(action_dim=dim, history=7)
    return RecedingHorizon(
        action_dim=dim, execute=execute, asynchronous=name != "receding_horizon", guidance=guidance_of(name)
    )
