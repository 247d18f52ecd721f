from collections.abc import Iterator

import pytest

from visuomotor.simulation.metaworld.environment import MetaWorldEnvironment


@pytest.fixture(scope="session")
def env() -> Iterator[MetaWorldEnvironment]:
    environment = MetaWorldEnvironment(cameras_px=64)
    yield environment
    environment.close()
