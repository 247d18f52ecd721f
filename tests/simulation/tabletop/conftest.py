"""One environment for all tests of this folder: making one costs more than a reset."""

from collections.abc import Iterator

import pytest

from visuomotor.contract import Scenario
from visuomotor.simulation.tabletop import TabletopEnvironment


def scenario(task: str, seed: int = 0, **options: object) -> Scenario:
    return Scenario(environment="tabletop", task=task, seed=seed, options=dict(options))


@pytest.fixture(scope="session")
def env() -> Iterator[TabletopEnvironment]:
    made = TabletopEnvironment(vocabulary="full", distractors=2)
    yield made
    made.close()


@pytest.fixture(scope="session")
def start():
    """start(env, task, seed, **options): reset to that task, return the goal's slot (None without one)."""

    def reset(env: TabletopEnvironment, task: str, seed: int = 0, **options: object) -> int | None:
        env.reset(options={"scenario": scenario(task, seed, **options)})
        return env.scene.index(*env.task.goal) if env.task.goal else None

    return reset
