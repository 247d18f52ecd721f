"""The adaptive ensemble: what it averages, and how much each chunk counts."""

import math

import numpy as np
import pytest
from visuomotor_client.chunking import ChunkError
from visuomotor_client.ensemble import AdaptiveEnsemble


def run(ensemble: AdaptiveEnsemble, chunks: np.ndarray) -> np.ndarray:
    actions = []
    for chunk in chunks:
        assert ensemble.needs_chunk
        ensemble.update(chunk)
        assert not ensemble.needs_chunk
        actions.append(ensemble.next_action())
    return np.array(actions)


def test_each_chunk_says_what_it_once_planned_for_now() -> None:
    # Chunk c plans 100 c + j for j steps later; with alpha 0 the action is the mean over the last three.
    chunks = np.array([[[100.0 * c + j] for j in range(4)] for c in range(5)])
    found = run(AdaptiveEnsemble(action_dim=1, history=3, alpha=0.0), chunks)[:, 0]
    expected = [np.mean([100 * (t - k) + k for k in range(min(t, 2) + 1)]) for t in range(5)]
    np.testing.assert_allclose(found, expected)
    assert found.dtype == np.float32


def test_weights_follow_the_cosine_to_the_newest() -> None:
    chunks = np.array([[[9.0, 9.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 0.0]]])  # orthogonal
    action = run(AdaptiveEnsemble(action_dim=2, history=2, alpha=1.5), chunks)[1]
    newest = math.exp(1.5) / (math.exp(1.5) + 1)
    np.testing.assert_allclose(action, [newest, 2 * (1 - newest)], rtol=1e-5)
    slanted = np.array([[[9.0, 9.0], [3.0, 4.0]], [[2.0, 0.0], [0.0, 0.0]]])  # cosine 0.6, whatever their lengths
    action = run(AdaptiveEnsemble(action_dim=2, history=2, alpha=1.5), slanted)[1]
    older = math.exp(0.6 * 1.5) / (math.exp(0.6 * 1.5) + math.exp(1.5))
    np.testing.assert_allclose(action, [2 + older, 4 * older], rtol=1e-5)
    opposite = chunks * [[[-1.0, 1.0]], [[1.0, 1.0]]]
    opposite[0, 1] = [-3.0, 0.0]
    action = run(AdaptiveEnsemble(action_dim=2, history=2, alpha=20.0), opposite)[1]
    np.testing.assert_allclose(action, [1.0, 0.0], atol=1e-6)  # what disagrees has no say


def test_history_one_is_the_newest_and_reset_forgets() -> None:
    chunks = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(run(AdaptiveEnsemble(action_dim=2, history=1), chunks), chunks[:, 0], rtol=1e-6)
    ensemble = AdaptiveEnsemble(action_dim=2, history=3)
    run(ensemble, chunks)
    ensemble.reset()
    np.testing.assert_allclose(run(ensemble, chunks[:1]), chunks[:1, 0], rtol=1e-6)


def test_a_chunk_that_has_ended_has_no_say() -> None:
    chunks = np.array([[[1.0]], [[3.0]]])
    np.testing.assert_allclose(run(AdaptiveEnsemble(action_dim=1, history=2, alpha=0.0), chunks)[:, 0], [1, 3])


def test_bad_chunks_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="history=0"):
        AdaptiveEnsemble(action_dim=2, history=0)
    ensemble = AdaptiveEnsemble(action_dim=2, history=2)
    with pytest.raises(ChunkError):
        ensemble.update(np.full((3, 2), np.nan))
    with pytest.raises(RuntimeError, match="call update"):
        ensemble.next_action()
