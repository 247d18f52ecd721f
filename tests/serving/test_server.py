"""The server as clients of openpi see it: what they are told, what they get, what others may do to them."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from visuomotor_client import openpi
from visuomotor_client.limits import SafetyLimits
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.serving.fakes import HORIZON, ROBOT, FakePolicy, OpenpiClient, observation, serving
from visuomotor.codec import decode
from visuomotor.embodiment import Embodiment
from visuomotor.serving.config import Limits, ServeConfig
from visuomotor.serving.connection import MAX_FRAMES
from visuomotor.serving.server import PolicyServer

KEY = "0123456789abcdef0123"


async def http(server: PolicyServer, path: str, protocol: str = "openpi", **headers: str) -> tuple[int, str]:
    """Status and body of a plain GET."""
    host, port = server.addresses[protocol].split("//")[1].rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


def test_metadata_first_then_a_chunk_for_each_observation() -> None:
    async def run() -> None:
        async with serving(seed=3) as server:
            client = await OpenpiClient.open(server)
            assert decode(Embodiment, client.metadata["embodiment"]) == ROBOT
            assert client.metadata["observation_keys"]["cameras"] == {"scene": "images/scene", "wrist": "images/wrist"}
            first = await client.ask(observation(1.0))
            assert first["actions"].dtype == np.float32
            assert first["actions"].shape == (HORIZON, 2)
            np.testing.assert_allclose(np.diff(first["actions"][:, 0]), 1.0, atol=1e-5)
            assert set(first["server_timing"]) == {"infer_ms", "queue_ms"}
            second = await client.ask(observation(1.0))
            assert second["server_timing"]["prev_total_ms"] > 0
            arrays = [value for value in second.values() if isinstance(value, np.ndarray)]
            assert len(arrays) == 1

    asyncio.run(run())


def test_an_error_is_a_text_and_the_next_request_works() -> None:
    bad: list[Any] = [
        b"\xc1", "hello", openpi.pack([1]), openpi.pack({}), {**observation(), "state": np.zeros(3)},
        {**observation(), "prompt": 3}, {**observation(), "state": np.array([np.nan, 0])},
        {**observation(), "images": {"scene": np.zeros((8, 8, 3), np.uint8)}}, observation(pixel=255),
    ]  # fmt: skip

    async def run() -> None:
        async with serving() as server:
            client, other = await OpenpiClient.open(server), await OpenpiClient.open(server)
            for message in bad:
                error = await client.ask(message)
                assert isinstance(error, str), message
                assert len(error) > 20
                assert "actions" in await client.ask(observation())
                assert "actions" in await other.ask(observation())

    asyncio.run(run())


def test_noise_comes_from_the_session_and_not_from_the_batch() -> None:
    async def run() -> None:
        policy = FakePolicy(seconds=0.005)
        async with serving(policy, seed=7, max_wait=0.5) as server:
            alone = await OpenpiClient.open(server)
            expected = [(await alone.ask(observation(k)))["actions"] for k in range(3)]
            await alone.connection.close()
            clients = [await OpenpiClient.open(server) for _ in range(5)]
            for k in range(3):
                replies = await asyncio.gather(*(c.ask(observation(k)) for c in clients))
                for reply in replies:
                    np.testing.assert_array_equal(reply["actions"], expected[k])
            assert max(policy.batches) == 5
            assert not np.allclose(expected[0] + 1, expected[1])  # each call has noise of its own

    asyncio.run(run())


def test_nobody_waits_for_a_client_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with serving(max_wait=30.0) as server:
            silent, client = await OpenpiClient.open(server), await OpenpiClient.open(server)
            await asyncio.gather(silent.ask(observation()), client.ask(observation()))
            monkeypatch.setattr("visuomotor.serving.connection.PRESENT", 0.01)
            await asyncio.sleep(0.02)
            async with asyncio.timeout(5):
                assert "actions" in await client.ask(observation())

    asyncio.run(run())


def test_a_session_is_a_connection_and_forgets_when_the_instruction_changes() -> None:
    async def run() -> None:
        async with serving() as server:
            one, two = await OpenpiClient.open(server), await OpenpiClient.open(server)
            said = [(await c.ask(observation(prompt=p)))["text"]["subtask"] for c, p in
                    ((one, "go"), (one, "go"), (two, "go"), (one, "stop"), (one, "stop"))]  # fmt: skip
            assert said == ["call 0", "call 1", "call 0", "call 0", "call 1"]

    asyncio.run(run())


def test_a_request_that_took_too_long_tells_the_next_instruction_nothing() -> None:
    async def run() -> None:
        policy = FakePolicy()
        async with serving(policy, limits=Limits(request_seconds=0.5)) as server:
            client = await OpenpiClient.open(server)
            policy.open.clear()
            assert "did not answer" in await client.ask(observation(prompt="go"))
            other = asyncio.create_task(client.ask(observation(prompt="stop")))
            while not server.service.batcher.waiting:
                await asyncio.sleep(0.001)
            policy.open.set()  # the first one is finished now, into the session of its own instruction
            assert (await other)["text"] == {"subtask": "call 0"}

    asyncio.run(run())


def test_the_event_loop_goes_on_while_the_policy_computes() -> None:
    async def run() -> None:
        policy = FakePolicy()
        async with serving(policy) as server:
            client = await OpenpiClient.open(server)
            policy.open.clear()
            request = asyncio.create_task(client.ask(observation()))
            while len(policy.batches) < 3:  # two of warming up, and this
                await asyncio.sleep(0.001)
            assert (await http(server, "/healthz"))[0] == 200
            assert not request.done()
            policy.open.set()
            assert "actions" in await request

    asyncio.run(run())


def test_clients_that_come_early_wait_until_the_policy_is_warm() -> None:
    async def run() -> None:
        policy = FakePolicy()
        policy.open.clear()
        server = PolicyServer(policy, ServeConfig(openpi_port=0, vla_eval_port=0))
        starting = asyncio.create_task(server.start())
        while len(server.addresses) < 2:
            await asyncio.sleep(0.001)
        early = asyncio.create_task(OpenpiClient.open(server))
        assert (await http(server, "/health"))[0] == 503
        assert (await http(server, "/healthz")) == (200, "OK\n")
        assert not early.done()
        policy.open.set()
        await starting
        assert policy.batches == [1, 2]
        assert (await http(server, "/health")) == (200, '{"status": "ok"}\n')
        assert "actions" in await (await early).ask(observation())
        await server.stop()

    asyncio.run(run())


def test_stopping_answers_what_runs_and_closes_with_1001() -> None:
    async def run() -> None:
        policy = FakePolicy()
        async with serving(policy) as server:
            idle, busy = await OpenpiClient.open(server), await OpenpiClient.open(server)
            policy.open.clear()
            request = asyncio.create_task(busy.ask(observation()))
            while len(policy.batches) < 3:
                await asyncio.sleep(0.001)
            stopping = asyncio.create_task(server.stop())
            with pytest.raises(ConnectionClosed):
                await idle.connection.recv()
            assert idle.connection.protocol.close_code == 1001
            assert not request.done()
            policy.open.set()
            assert "actions" in await request
            await stopping
            with pytest.raises(ConnectionClosed):
                await busy.connection.recv()
            assert busy.connection.protocol.close_code == 1001
            with pytest.raises(ConnectionRefusedError):
                await connect(server.addresses["openpi"])

    asyncio.run(run())


def test_stopping_waits_once_for_all_who_do_not_say_goodbye() -> None:
    async def run() -> None:
        async with serving(stop_seconds=0.3) as server:
            for _ in range(3):
                (await OpenpiClient.open(server)).connection.transport.pause_reading()
            async with asyncio.timeout(5):
                await server.stop()

    asyncio.run(run())


def test_a_killed_client_and_a_slow_reader_hold_nobody_up() -> None:
    async def run() -> None:
        policy = FakePolicy(horizon=300_000)
        async with serving(policy, limits=Limits(send_seconds=1.0)) as server:
            other = await OpenpiClient.open(server)
            killed = await OpenpiClient.open(server)
            policy.open.clear()
            await killed.connection.send(openpi.pack(observation()))
            while len(policy.batches) < 3:
                await asyncio.sleep(0.001)
            killed.connection.transport.abort()
            policy.open.set()
            assert "actions" in await other.ask(observation())
            slow = await OpenpiClient.open(server)
            slow.connection.transport.pause_reading()
            for _ in range(10):  # answers of 2.4 MB each, more than sockets buffer
                await slow.connection.send(openpi.pack(observation()))
            async with asyncio.timeout(10):
                while len(server.service.inboxes) > 1:  # cut off in the end, and nothing of it stays
                    assert "actions" in await other.ask(observation())
            assert "actions" in await other.ask(observation())

    asyncio.run(run())


def test_more_frames_than_are_kept_are_answered_all_the_same() -> None:
    async def run() -> None:
        async with serving() as server:
            client = await OpenpiClient.open(server)
            sending = asyncio.create_task(_send_all(client, 3 * MAX_FRAMES))
            async with asyncio.timeout(20):
                for _ in range(3 * MAX_FRAMES):
                    assert isinstance(await client.connection.recv(), str)
            await sending

    asyncio.run(run())


async def _send_all(client: OpenpiClient, count: int) -> None:
    for _ in range(count):
        await client.connection.send(b"nonsense")


def test_keys_are_asked_for_and_web_pages_refused() -> None:
    async def run() -> None:
        async with serving(api_keys=frozenset({KEY})) as server:
            for headers in ({}, {"Authorization": "Api-Key wrong"}, {"Authorization": f"Bearer {KEY}"}):
                with pytest.raises(InvalidStatus, match="401"):
                    await connect(server.addresses["openpi"], additional_headers=headers)
            client = await OpenpiClient.open(server, additional_headers={"Authorization": f"Api-Key {KEY}"})
            assert "actions" in await client.ask(observation())
            address = server.addresses["openpi"].replace("//", f"//robot:{KEY}@")
            async with connect(address) as connection:
                assert openpi.unpack(await connection.recv())["server"] == "visuomotor"
            assert (await http(server, "/metrics"))[0] == 401
            assert (await http(server, "/healthz"))[0] == 200
            assert (await http(server, "/metrics", Authorization=f"Api-Key {KEY}"))[0] == 200
        async with serving() as server:
            with pytest.raises(InvalidStatus, match="403"):
                await connect(server.addresses["openpi"], origin="http://elsewhere.example")
            assert (await http(server, "/config", "vla-eval", Sec_Fetch_Site="cross-site"))[0] == 403

    asyncio.run(run())


def test_limits_of_size_number_and_time() -> None:
    async def run() -> None:
        policy = FakePolicy()
        limits = Limits(message_bytes=2000, connections=2, request_seconds=0.3, idle_seconds=1.5)
        async with serving(policy, limits=limits) as server:
            client, other = await OpenpiClient.open(server), await OpenpiClient.open(server)
            with pytest.raises(InvalidStatus, match="503"):
                await OpenpiClient.open(server)
            with pytest.raises(ConnectionClosed):
                await other.ask(b"\0" * 3000)
            assert other.connection.protocol.close_code == 1009
            policy.open.clear()
            assert "did not answer within 0.3 s" in await client.ask(observation())
            policy.open.set()
            assert "actions" in await client.ask(observation())
            with pytest.raises(ConnectionClosed):
                await client.connection.recv()  # nothing was asked for 1.5 s
            assert client.connection.protocol.close_code == 1008

    asyncio.run(run())


def test_a_connection_s_rate_is_held_back_and_not_refused() -> None:
    async def run() -> None:
        async with serving(limits=Limits(requests_per_second=20)) as server:
            client = await OpenpiClient.open(server)
            started = asyncio.get_running_loop().time()
            for _ in range(26):
                assert "actions" in await client.ask(observation())
            assert asyncio.get_running_loop().time() - started > 0.15  # 20 at once, then 20 a second

    asyncio.run(run())


@pytest.mark.parametrize(("mode", "first", "last"), [("clamp", 899, 900), ("reject", 899, 899), ("shadow", 899, 902)])
def test_every_chunk_passes_the_safety_filter_and_changes_are_counted(mode: str, first: int, last: int) -> None:
    async def run() -> None:
        async with serving(safety=mode, seed=0) as server:
            client = await OpenpiClient.open(server)
            for _ in range(2):  # each chunk begins at the measured state, whatever was sent before
                actions = (await client.ask(observation(899.0)))["actions"][:, 0]
                assert (int(actions[0]), int(actions[-1])) == (first, last)
            assert 'visuomotor_interventions_total{reason="limit"} 6' in (await http(server, "/metrics"))[1]

    asyncio.run(run())


def test_a_chunk_without_a_safe_replacement_is_refused() -> None:
    """A robot that does not measure itself has no position to hold before its first command."""

    async def run() -> None:
        hidden = replace(ROBOT, state=(replace(ROBOT.state[0], unit="deg"),))
        with pytest.raises(ValueError, match="limits velocity of action component 'joints' depend on its measured"):
            PolicyServer(FakePolicy(embodiment=hidden), ServeConfig(safety_limits=SafetyLimits(velocity=1.0)))
        async with serving(FakePolicy(embodiment=hidden)) as server:
            client = await OpenpiClient.open(server)
            server.service.stop_robots("test")
            assert "nothing that may be sent (stop)" in await client.ask(observation())

    asyncio.run(run())


def test_safety_limits_that_do_not_fit_the_robot_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="keep-out"):
        PolicyServer(FakePolicy(), ServeConfig(safety_limits=SafetyLimits(workspace=((0, 0, 0), (1, 1, 1)))))


def test_metrics_count_requests_batches_and_errors() -> None:
    async def run() -> None:
        async with serving() as server:
            client = await OpenpiClient.open(server)
            for _ in range(3):
                await client.ask(observation())
            await client.ask(b"nonsense")
            lines = (await http(server, "/metrics"))[1].splitlines()
            for line in (
                'visuomotor_requests_total{protocol="openpi",outcome="ok"} 3',
                'visuomotor_requests_total{protocol="openpi",outcome="error"} 1',
                'visuomotor_errors_total{protocol="openpi",kind="invalid"} 1',
                'visuomotor_request_seconds_count{protocol="openpi"} 4',
                'visuomotor_batch_size_bucket{le="1"} 3',
                "visuomotor_connections 1",
                "visuomotor_ready 1",
            ):
                assert line in lines, line

    asyncio.run(run())


def test_config_is_shown_and_set_within_its_bounds() -> None:
    async def run() -> None:
        async with serving(max_batch_size=8) as server:
            status, body = await http(server, "/config?max_batch_size=4&max_wait_time=0.02", "vla-eval")
            assert (status, json.loads(body)["config"]) == (200, {"max_batch_size": 4, "max_wait_time": 0.02})
            status, body = await http(server, "/config?max_batch_size=4&x=1", "vla-eval")
            assert (status, json.loads(body)["applied"]) == (200, {"max_batch_size": 4})  # and the errors beside it
            assert len(json.loads(body)["errors"]) == 1
            status, body = await http(server, "/config?max_batch_size=9&max_wait_time=soon&x=1", "vla-eval")
            assert status == 422
            assert len(json.loads(body)["errors"]) == 3
            assert json.loads(body)["config"] == {"max_batch_size": 4, "max_wait_time": 0.02}

    asyncio.run(run())


def test_a_port_that_is_taken_leaves_nothing_behind() -> None:
    async def run() -> None:
        async with serving() as server:
            port = int(server.addresses["vla-eval"].rsplit(":", 1)[1])
            other = PolicyServer(FakePolicy(), ServeConfig(openpi_port=0, vla_eval_port=port))
            with pytest.raises(OSError, match="in use"):
                await other.start()
            with pytest.raises(ConnectionRefusedError):
                await connect(other.addresses["openpi"])

    asyncio.run(run())


def test_a_policy_that_cannot_warm_up_is_not_served() -> None:
    class Broken(FakePolicy):
        def infer(self, *_: Any) -> Any:
            raise RuntimeError("no weights")

    async def run() -> None:
        with pytest.raises(RuntimeError, match="no weights"):
            async with serving(Broken()):
                pass

    asyncio.run(run())
