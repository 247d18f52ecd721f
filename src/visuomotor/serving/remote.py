"""A policy on another computer: what a server of ours serves, with the `infer` of one that is here."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from visuomotor_client import PolicyClient

from visuomotor.codec import decode
from visuomotor.contract import ActionChunk, Observation
from visuomotor.embodiment import Embodiment
from visuomotor.session import Session

__all__ = ["API_KEY", "FAILURES", "Acting", "RemotePolicy", "open_policy"]

API_KEY = "VISUOMOTOR_API_KEY"
FAILURES = (ValueError, RuntimeError, OSError)  # of a policy, here or behind a network


class Acting(Protocol):
    """What drives a robot: a Policy, or anything that infers as one does."""

    @property
    def embodiment(self) -> Embodiment: ...

    def infer(
        self, observations: Sequence[Observation], sessions: Sequence[Session | None] | None = None
    ) -> list[ActionChunk]: ...


def open_policy(name: str, robot: Embodiment | None = None) -> Acting:
    """The policy in a checkpoint's folder, or the one that a server at ws:// or wss:// has; its API key comes from the
    environment variable VISUOMOTOR_API_KEY. `robot`: the one that a checkpoint is to drive, None for its own."""
    if name.startswith(("ws://", "wss://")):
        return RemotePolicy(name, api_key=os.environ.get(API_KEY))
    from visuomotor.policy import load_policy

    return load_policy(Path(name), embodiment=robot)


class RemotePolicy:
    """The policy behind an address such as ws://127.0.0.1:8000, for one robot: the server remembers a connection.

    Args:
        settings: those of PolicyClient, e.g. api_key.

    Raises:
        ValueError: the server does not say which robot its policy drives, and where it looks for observations.
    """

    def __init__(self, address: str, **settings: Any) -> None:
        self._client = PolicyClient(address, **settings)
        metadata = self._client.metadata
        if "embodiment" not in metadata or "observation_keys" not in metadata:
            raise ValueError(f"{address} does not describe its policy's robot; serve it with `visuomotor serve`.")
        self.embodiment = decode(Embodiment, metadata["embodiment"], "embodiment")
        self._keys = metadata["observation_keys"]
        if len(self._keys["state"]) not in (1, len(self.embodiment.state)):
            raise ValueError(
                f"{address} wants the state as {self._keys['state']}, which are not the robot's components."
            )

    def infer(
        self, observations: Sequence[Observation], sessions: Sequence[Session | None] | None = None
    ) -> list[ActionChunk]:
        """One chunk per observation, as a Policy gives; a session that has just begun begins one on the server.

        Raises:
            PolicyError: the server refused a request. ConnectionError, TimeoutError: it is gone, or does not answer.
        """
        chunks = []
        for i, observation in enumerate(observations):
            session = None if sessions is None else sessions[i]
            if session is None or session.calls == 0:
                self._client.reset()
            answer = self._client.infer(self._message(observation))
            chunk = ActionChunk(
                actions=np.asarray(answer["actions"], np.float32),
                embodiment=self.embodiment,
                text=dict(answer.get("text", {})),
                extras={"server_timing": answer.get("server_timing", {})},
            )
            if session is not None:
                session.remember(chunk, fresh=True)
            chunks.append(chunk)
        return chunks

    def close(self) -> None:
        """Leave the server."""
        self._client.close()

    def _message(self, observation: Observation) -> dict[str, Any]:
        names, state = self._keys["state"], np.asarray(observation.state, np.float32)
        parts = [state] if len(names) == 1 else [state[place] for place in self.embodiment.state_slices().values()]
        images = {key: observation.images[camera] for camera, key in self._keys["cameras"].items()}
        return {**images, **dict(zip(names, parts, strict=True)), self._keys["instruction"]: observation.instruction}
