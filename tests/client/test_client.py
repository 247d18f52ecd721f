"""The client against a server: requests, errors, lost connections, keys, TLS, compressed images."""

import socket
import ssl
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from visuomotor_client import PolicyClient, PolicyError, connect
from websockets.utils import accept_key

from tests.serving.fakes import HORIZON, FakePolicy, background, certificate, observation

KEY = "0123456789abcdef0123"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_infer_reset_and_errors() -> None:
    with background() as server, connect(server.addresses["openpi"]) as policy:
        assert policy.metadata["embodiment"]["name"] == "arm"
        reply = policy.infer(observation(2.0))
        assert reply["actions"].shape == (HORIZON, 2)
        assert policy.infer(observation())["text"] == {"subtask": "call 1"}
        with pytest.raises(PolicyError, match="has 3 numbers"):
            policy.infer({**observation(), "state": np.zeros(3)})
        assert policy.infer(observation())["text"] == {"subtask": "call 2"}  # the same connection, the same session
        policy.reset()
        assert policy.infer(observation())["text"] == {"subtask": "call 0"}


def test_a_server_that_comes_later_is_waited_for_and_a_restarted_one_found_again() -> None:
    port, clients = free_port(), list[PolicyClient]()
    waiting = threading.Thread(
        target=lambda: clients.append(connect(f"127.0.0.1:{port}", pause=0.05, attempts=8)), daemon=True
    )
    waiting.start()
    time.sleep(0.1)
    with background(openpi_port=port):
        waiting.join(10)
        (policy,) = clients
        assert "actions" in policy.infer(observation())
    with background(openpi_port=port):
        assert policy.infer(observation())["text"] == {"subtask": "call 0"}
        policy.close()


def test_a_server_that_never_comes_is_given_up() -> None:
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="is the server running"):
        connect(f"ws://127.0.0.1:{free_port()}", attempts=3, pause=0.05)
    assert 0.15 <= time.monotonic() - started < 5  # pauses of 0.05 and 0.1 s
    with pytest.raises(ValueError, match="at least 1"):
        connect("ws://127.0.0.1:1", attempts=0)


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next() -> None:
    policy = FakePolicy()
    with background(policy) as server, connect(server.addresses["openpi"], timeout=1.0) as client:
        policy.open.clear()
        with pytest.raises(TimeoutError, match="within 1 s"):
            client.infer(observation(50.0))
        policy.open.set()
        assert client.infer(observation(1.0))["actions"][0, 0] < 2


def test_a_server_that_hangs_is_left_at_once() -> None:
    """It shakes hands, sends its metadata (an empty map), and is never heard of again, also not when told goodbye."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_once() -> None:
            peer, _ = listener.accept()
            peers.append(peer)
            lines = peer.recv(4096).decode().splitlines()
            key = next(line.partition(": ")[2] for line in lines if line.lower().startswith("sec-websocket-key"))
            head = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
            peer.sendall("\r\n".join([*head, f"Sec-WebSocket-Accept: {accept_key(key)}", "", ""]).encode())
            peer.sendall(b"\x82\x01\x80")

        peers: list[socket.socket] = []
        threading.Thread(target=answer_once, daemon=True).start()
        client = connect(f"127.0.0.1:{listener.getsockname()[1]}", timeout=0.5)
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0\.5 s"):
            client.infer(observation())
        assert time.monotonic() - started < 5  # websockets waits 10 s by itself
        peers[0].close()


def test_keys_and_tls(tmp_path: Path) -> None:
    chain, private = certificate(tmp_path)
    with background(api_keys=frozenset({KEY}), certificate=chain, private_key=private) as server:
        address = server.addresses["openpi"]
        assert address.startswith("wss://")
        trusted = ssl.create_default_context(cafile=str(chain))
        with connect(address, api_key=KEY, tls=trusted) as policy:
            assert "actions" in policy.infer(observation())
        with pytest.raises(PermissionError, match="refused the API key"):
            connect(address, api_key="wrong", tls=trusted)
        with pytest.raises(ConnectionError, match="certificate"):
            connect(address, api_key=KEY)  # not tried again: trust does not come with time


def test_images_can_be_compressed_on_the_way() -> None:
    with background() as server, connect(server.addresses["openpi"], jpeg=90) as policy:
        assert policy.infer(observation())["actions"].shape == (HORIZON, 2)
        assert isinstance(policy._compressed(observation())["images"]["scene"], dict)
