"""What openpi's published client sees of a server of ours: python openpi_check.py ADDRESS [API_KEY], where it is."""

import sys
from collections.abc import Callable

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def observation(size: int = 128) -> dict:
    rng = np.random.default_rng(0)
    return {
        "images": {name: rng.integers(0, 255, (size, size, 3), np.uint8) for name in ("scene", "wrist")},
        "state": np.zeros(7, np.float32),
        "prompt": "put the red block into the left bowl",
    }


def main(address: str, key: str | None = None) -> None:
    client = WebsocketClientPolicy(address, api_key=key)
    robot = client.get_server_metadata()["embodiment"]
    width = sum(len(part["dims"]) for part in robot["action"])
    first = client.infer(observation())
    actions = first["actions"]
    assert actions.dtype == np.float32, actions.dtype
    assert actions.ndim == 2, actions.shape
    assert actions.shape[1] == width, actions.shape
    assert np.isfinite(actions).all()
    assert first["server_timing"]["infer_ms"] > 0
    second = client.infer(observation())
    assert second["server_timing"]["prev_total_ms"] > 0
    assert not np.array_equal(second["actions"], actions), "noise of its own for each request"

    other = WebsocketClientPolicy(address, api_key=key)  # seeded: the same request number gives the same chunk
    np.testing.assert_allclose(other.infer(observation())["actions"], actions, atol=1e-5)

    for wrong in ({**observation(), "state": np.zeros(3)}, {"prompt": "nothing else"}, {**observation(), "prompt": 5}):
        assert "Error in inference server" in error_of(lambda wrong=wrong: client.infer(wrong))
        assert np.isfinite(client.infer(observation())["actions"]).all(), "the connection goes on after an error"

    channels_first = observation()
    channels_first["images"] = {name: image.transpose(2, 0, 1) for name, image in channels_first["images"].items()}
    assert client.infer(channels_first)["actions"].shape == actions.shape

    broker = ActionChunkBroker(client, action_horizon=len(actions))
    steps = [broker.infer(observation())["actions"] for _ in range(2 * len(actions))]
    assert {step.shape for step in steps} == {(width,)}
    if key is not None:
        assert "401" in error_of(lambda: WebsocketClientPolicy(address, api_key="wrong"))
    print(f"openpi-client: chunks of {len(actions)} x {width}, errors, broker{', API key' if key else ''}")


def error_of(work: Callable[[], object]) -> str:
    """The text of the error that `work` must end with."""
    try:
        work()
    except Exception as error:
        return str(error)
    raise AssertionError("what is wrong was answered")


if __name__ == "__main__":
    main(*sys.argv[1:])
