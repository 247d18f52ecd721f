"""A policy on another computer: what a server of ours serves, with the `infer` of one that is here."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from visuomotor_client import PolicyClient

from visuomotor.codec import decode
from visuomotor.contract import ActionChunk, Observation
from visuomotor.embodiment import Embodiment
from visuomotor.plugins import is_reference
from visuomotor.session import PolicyLike, Session, own_policy

__all__ = ["API_KEY", "FAILURES", "RemotePolicy", "open_policy"]

API_KEY = "VISUOMOTOR_API_KEY"
FAILURES = (ValueError, RuntimeError, OSError)  # of a policy, here or behind a network


def open_policy(
    name: str,
    robot: Embodiment | None = None,
    *,
    think: Sequence[str] | None = None,
    device: str = "cpu",
    **settings: Any,
) -> PolicyLike:
    """The policy in a checkpoint's folder, your own in FILE.py:NAME, or the one that a server at ws:// or wss:// has.

    A server's API key comes from the environment variable VISUOMOTOR_API_KEY. `robot`: the one that is to be driven,
    None for the policy's own. The others are settings of the policy; see `load_policy` and `own_policy`.
    """
    if name.startswith(("ws://", "wss://")):
        return RemotePolicy(name, api_key=os.environ.get(API_KEY))
    if is_reference(name):
        chosen = {"think": think, "device": None if device == "cpu" else device}
        return own_policy(name, robot, **settings, **{key: value for key, value in chosen.items() if value is not None})
    from visuomotor.policy import load_policy

    return load_policy(Path(name), embodiment=robot, think=think, device=device, **settings)


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
        self,
        observations: Sequence[Observation],
        sessions: Sequence[Session | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[ActionChunk]:
        """One chunk per observation, as a Policy gives; a session that has just begun begins one on the server.

        Raises:
            PolicyError: the server refused a request. ConnectionError, TimeoutError: it is gone, or does not answer.
            ValueError: seeds are given, which only the server can choose (`visuomotor serve --seed`).
        """
        if seeds is not None:
            raise ValueError("A policy behind a server draws its own noise, so it takes no seeds.")
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
