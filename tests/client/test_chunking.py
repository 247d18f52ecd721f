"""Receding horizon: which actions run, and what must never run."""

import numpy as np
import pytest
from visuomotor_client.chunking import ChunkError, RecedingHorizon, check_chunk


def test_runs_the_first_actions_of_each_chunk() -> None:
    executor = RecedingHorizon(action_dim=2, execute=3)
    ran = []
    for chunk in range(2):
        assert executor.needs_chunk
        executor.update(np.arange(10.0).reshape(5, 2) + 100 * chunk)
        while not executor.needs_chunk:
            ran.append(executor.next_action())
    assert np.array(ran).tolist() == [[0, 1], [2, 3], [4, 5], [100, 101], [102, 103], [104, 105]]
    assert ran[0].dtype == np.float32


def test_a_short_chunk_runs_whole_and_reset_forgets() -> None:
    executor = RecedingHorizon(action_dim=1, execute=8)
    executor.update(np.zeros((2, 1)))
    executor.next_action()
    assert not executor.needs_chunk
    executor.reset()
    assert executor.needs_chunk
    with pytest.raises(RuntimeError, match="update"):
        executor.next_action()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_chunk_is_refused_and_the_old_one_kept(bad: float) -> None:
    executor = RecedingHorizon(action_dim=2, execute=2)
    executor.update(np.ones((2, 2)))
    chunk = np.zeros((4, 2))
    chunk[3, 1] = bad
    with pytest.raises(ChunkError, match=r"1 non-finite .* step 3, dimension 1"):
        executor.update(chunk)
    assert executor.next_action().tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(4,), (4, 3), (0, 2), (1, 4, 2)])
def test_a_chunk_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ChunkError, match=r"expected \[T, 2\]"):
        check_chunk(np.zeros(shape), 2)


def test_execute_must_be_positive() -> None:
    with pytest.raises(ValueError, match="execute=0"):
        RecedingHorizon(action_dim=2, execute=0)
