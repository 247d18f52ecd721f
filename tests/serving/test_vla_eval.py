"""The server as vla-eval's harness sees it: greeting, episodes, one answer for each observation."""

import asyncio

import msgpack
import numpy as np
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.vla_eval import Message, pack

from tests.serving.fakes import HORIZON, FakePolicy, VlaEvalClient, evaluated, serving

HELLO = {"harness_version": "0.8.0", "protocol_version": 1, "benchmark": "Toy"}


def test_hello_tells_what_the_policy_wants_and_gives() -> None:
    async def run() -> None:
        async with serving() as server:
            answer = await (await VlaEvalClient.open(server)).ask("hello", HELLO)
            assert answer.type == "hello"
            assert {"harness_version", "model_server", "capabilities"} <= set(answer.payload)
            assert answer.payload["protocol_version"] == 1
            assert answer.payload["observation_params"] == {"send_wrist_image": True, "send_state": True}
            assert answer.payload["action_spec"]["joints"] == {
                "name": "joints", "dims": 2, "format": "joint_positions", "range": [-900.0, 900.0],
                "description": "rad, absolute, frame base",
            }  # fmt: skip
            assert set(answer.payload["observation_spec"]) == {"scene", "wrist", "state", "language"}

    asyncio.run(run())


def test_another_version_is_refused_until_a_right_greeting() -> None:
    async def run() -> None:
        async with serving() as server:
            client = await VlaEvalClient.open(server)
            for version in (2, 0, None, "1"):
                answer = await client.ask("hello", {**HELLO, "protocol_version": version})
                assert answer.type == "error"
                assert "speaks version 1" in answer.payload["error"]
            assert (await client.ask("observation", evaluated())).type == "error"
            assert (await client.ask("hello", HELLO)).type == "hello"
            assert (await client.ask("observation", evaluated())).type == "action"

    asyncio.run(run())


def test_chunks_are_given_out_step_by_step_and_end_with_the_episode() -> None:
    async def run() -> None:
        policy = FakePolicy()
        async with serving(policy, execute=3, seed=1) as server:
            client = await VlaEvalClient.open(server)
            given = []
            for _ in range(2):
                await client.send("episode_start", {"task": {"name": "go"}})
                for k in range(5):  # three actions of the first chunk, two of the second
                    answer = await client.ask("observation", evaluated(10.0 * k))
                    assert answer.type == "action"
                    assert answer.payload["actions"].dtype == np.float32
                    assert answer.payload["actions"].shape == (2,)
                    given.append(answer.payload["actions"][0])
                await client.send("episode_end", {"metrics": {"success": True}, "steps": 5, "elapsed_sec": 1.0})
            first = np.array(given[:5])
            np.testing.assert_allclose(np.floor(first), [0, 1, 2, 30, 31])
            np.testing.assert_array_equal(given[5:], first)  # a new episode starts from nothing, with the same seed
            one, two = policy.sessions[3], policy.sessions[5]
            assert one is not two
            assert policy.sessions[3:] == [one, one, two, two]

    asyncio.run(run())


def test_another_instruction_drops_the_rest_of_the_chunk() -> None:
    async def run() -> None:
        async with serving() as server:
            client = await VlaEvalClient.open(server)
            for task, first in (("go", 0), ("go", 1), ("stop", 70)):
                answer = await client.ask("observation", evaluated(70.0 if task == "stop" else 0.0, task=task))
                assert int(answer.payload["actions"][0]) == first

    asyncio.run(run())


def test_errors_keep_the_number_and_the_connection() -> None:
    async def run() -> None:
        async with serving() as server:
            client, other = await VlaEvalClient.open(server), await VlaEvalClient.open(server)
            frame = {"type": "observation", "payload": evaluated(), "seq": 90, "timestamp": 0.0}
            bad = {"__ndarray__": True, "data": b"", "dtype": "|O", "shape": []}
            for sent, seq in (
                (b"\xc1", 0),
                ("text", 0),
                (msgpack.packb({**frame, "payload": {"images": bad}}), 90),
                (msgpack.packb({**frame, "type": "shout", "payload": {}}), 90),
                (msgpack.packb({"type": "observation", "payload": {}, "seq": 91}), 91),
                (pack(Message(type="observation", payload={"task_description": "go"}, seq=92)), 92),
                (pack(Message(type="observation", payload=evaluated(pixel=255), seq=93)), 93),
                (pack(Message(type="action", payload={}, seq=94)), 94),
            ):
                await client.connection.send(sent)
                answer = await client.receive()
                assert (answer.type, answer.seq) == ("error", seq)
                assert len(answer.payload["error"]) > 20
                assert (await other.ask("observation", evaluated())).type == "action"
            assert (await client.ask("observation", evaluated())).type == "action"

    asyncio.run(run())


def test_live_observations_get_one_answer_each_and_the_policy_the_newest() -> None:
    async def run() -> None:
        policy = FakePolicy()
        async with serving(policy, execute=1) as server:
            client = await VlaEvalClient.open(server)
            await client.ask("hello", HELLO)
            await client.send("episode_start", {"task": {}, "mode": "live"})
            policy.open.clear()
            numbers = [await client.send("observation", evaluated(0.0))]
            while len(policy.batches) < 3:
                await asyncio.sleep(0.001)
            numbers += [await client.send("observation", evaluated(10.0 * k)) for k in range(1, 5)]
            await asyncio.sleep(0.1)  # they arrive while the policy computes
            policy.open.set()
            answers = [await client.receive() for _ in numbers]
            assert [a.seq for a in answers] == numbers
            assert [int(a.payload["actions"][0]) for a in answers] == [0, 40, 40, 40, 40]
            assert len(policy.batches) == 4

    asyncio.run(run())


def test_live_ticks_use_up_the_chunk() -> None:
    async def run() -> None:
        policy = FakePolicy()
        async with serving(policy, execute=HORIZON) as server:
            client = await VlaEvalClient.open(server)
            await client.send("episode_start", {"mode": "live"})
            policy.open.clear()
            numbers = [await client.send("observation", evaluated(0.0)) for _ in range(3)]
            await asyncio.sleep(0.1)
            policy.open.set()
            answers = [await client.receive() for _ in numbers]
            assert [int(a.payload["actions"][0]) for a in answers] in ([0, 1, 2], [0, 0, 1], [0, 0, 0])

    asyncio.run(run())


def test_each_action_passes_the_safety_filter_with_the_state_of_its_step() -> None:
    async def run() -> None:
        limits = SafetyLimits(velocity=5.0)  # half a radian in a step of 0.1 s
        async with serving(safety_limits=limits, seed=0) as server:
            client = await VlaEvalClient.open(server)
            given = [await client.ask("observation", evaluated(0.0)) for _ in range(3)]
            found = [float(a.payload["actions"][1]) for a in given]  # the policy wants 0, 1, 2 and noise below 0.5
            np.testing.assert_allclose(np.diff(found), 0.5, atol=1e-5)
            assert server.service.metrics.interventions.values[("velocity",)] == 2

    asyncio.run(run())


def test_shards_share_a_forward_pass() -> None:
    async def run() -> None:
        policy = FakePolicy(seconds=0.01)
        async with serving(policy, max_wait=0.5, execute=2) as server:
            clients = [await VlaEvalClient.open(server) for _ in range(4)]
            for k in range(4):
                answers = await asyncio.gather(
                    *(c.ask("observation", evaluated(100.0 * i)) for i, c in enumerate(clients))
                )
                assert [int(a.payload["actions"][0]) for a in answers] == [100 * i + k % 2 for i in range(4)]
            assert policy.batches[2:] == [4, 4]

    asyncio.run(run())
