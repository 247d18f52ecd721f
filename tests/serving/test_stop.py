"""A stop of all robots, as their clients see it: holds from the next answer on, until it is released."""

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.safety import SafetyFilter

from tests.serving.fakes import HORIZON, ROBOT, FakePolicy, OpenpiClient, VlaEvalClient, evaluated, observation, serving
from visuomotor.serving.watching import Exchange

HELD = np.tile(np.array([5, 0], np.float32), (HORIZON, 1))  # where the robot of `observation(5.0)` is


@pytest.mark.parametrize("mode", ["clamp", "reject", "shadow"])
def test_all_clients_hold_also_new_ones_until_released(mode: str) -> None:
    async def run() -> None:
        async with serving(safety=mode) as server:
            one = await OpenpiClient.open(server)
            assert (await one.ask(observation(5.0)))["actions"][-1, 0] >= 8
            server.service.stop_robots("test")
            two = await OpenpiClient.open(server)
            for client in (one, two, one):
                np.testing.assert_array_equal((await client.ask(observation(5.0)))["actions"], HELD)
            assert server.service.metrics.interventions.values[("stop",)] == 3 * HORIZON
            server.service.release_robots()
            for client in (one, two, await OpenpiClient.open(server)):
                answer = await client.ask(observation(5.0))
                assert answer["actions"][-1, 0] >= 8
                assert answer["text"] == {"subtask": "call 0"}, "the policy looks anew"
            assert (await one.ask(observation(5.0)))["text"] == {"subtask": "call 1"}, "once"

    asyncio.run(run())


def test_differences_become_zero() -> None:
    async def run() -> None:
        robot = replace(ROBOT, action=(replace(ROBOT.action[0], reference="step"),))
        async with serving(FakePolicy(embodiment=robot)) as server:
            client = await OpenpiClient.open(server)
            server.service.stop_robots("test")
            np.testing.assert_array_equal((await client.ask(observation(5.0)))["actions"], 0)

    asyncio.run(run())


def test_a_chunk_that_is_given_out_step_by_step_ends_with_a_stop() -> None:
    async def run() -> None:
        async with serving(execute=3) as server:
            client = await VlaEvalClient.open(server)

            async def ask() -> float:
                return float((await client.ask("observation", evaluated(50.0))).payload["actions"][0])

            assert [int(await ask()) for _ in range(2)] == [50, 51]
            server.service.stop_robots("test")
            held = await ask()
            assert held == await ask() < 52
            await client.send("episode_start", {})
            assert await ask() == 50, "a new episode does not end a stop"
            server.service.release_robots()
            assert [int(await ask()) for _ in range(2)] == [50, 51], "the old chunk does not go on"

    asyncio.run(run())


@pytest.mark.parametrize("protocol", ["openpi", "vla-eval"])
def test_what_was_asked_before_the_release_is_held(protocol: str) -> None:
    """A stop that came and went while the policy was thinking still counts."""

    async def run() -> None:
        policy = FakePolicy()
        async with serving(policy) as server:
            if protocol == "openpi":
                robot = await OpenpiClient.open(server)

                async def ask() -> np.ndarray:
                    return (await robot.ask(observation(5.0)))["actions"][-1]
            else:
                evaluation = await VlaEvalClient.open(server)

                async def ask() -> np.ndarray:
                    return (await evaluation.ask("observation", evaluated(5.0))).payload["actions"]

            policy.open.clear()
            request = asyncio.create_task(ask())
            while len(policy.batches) < 3:  # two of warming up, and this
                await asyncio.sleep(0.001)
            server.service.stop_robots("test")
            server.service.release_robots()
            policy.open.set()
            np.testing.assert_array_equal(await request, HELD[-1])
            assert not np.array_equal(await ask(), HELD[-1])

    asyncio.run(run())


def test_a_stop_while_the_filter_works_holds_the_whole_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    filtered, reached, go_on = SafetyFilter.chunk, threading.Event(), threading.Event()

    def slowly(safety: SafetyFilter, actions: np.ndarray, state: np.ndarray) -> list[np.ndarray | None]:
        commands = filtered(safety, actions, state)
        reached.set()
        go_on.wait(10)
        return commands

    monkeypatch.setattr(SafetyFilter, "chunk", slowly)

    async def run() -> None:
        async with serving(safety_limits=SafetyLimits(velocity=1e4)) as server:
            client = await OpenpiClient.open(server)
            request = asyncio.create_task(client.ask(observation(5.0)))
            await asyncio.to_thread(reached.wait, 10)
            server.service.stop_robots("test")
            go_on.set()
            np.testing.assert_array_equal((await request)["actions"], HELD)

    asyncio.run(run())


def test_a_watcher_is_told_of_every_exchange() -> None:
    class Notes(list[Exchange]):
        def answered(self, exchange: Exchange) -> None:
            self.append(exchange)

    async def run() -> None:
        async with serving(FakePolicy(seconds=0.02), max_wait=0.5) as server:
            server.service.watcher = notes = Notes()
            one, two = await OpenpiClient.open(server), await OpenpiClient.open(server)
            await asyncio.gather(one.ask(observation(5.0)), two.ask(observation(7.0, prompt="come")))
            host, port = one.connection.local_address[:2]
            mine = next(note for note in notes if note.client == f"{host}:{port}")
            other = next(note for note in notes if note is not mine)
            assert (mine.observation.state[0], other.observation.state[0]) == (5, 7)
            assert (mine.observation.instruction, other.observation.instruction) == ("go", "come")
            assert (mine.answer.batch_size, other.answer.batch_size, mine.given) == (2, 2, 0)
            assert mine.answer.inference >= 0.02
            await one.connection.close()
            await two.connection.close()
            notes.clear()
            client = await VlaEvalClient.open(server)
            for _ in range(HORIZON + 1):
                await client.ask("observation", evaluated())
            assert [note.given for note in notes] == [1, 2, 3, 4, 1]
            assert len({id(note.answer) for note in notes}) == 2

    asyncio.run(run())
