from collections import Counter

import pytest

from visuomotor.simulation.interface import make_scenarios
from visuomotor.simulation.metaworld import splits
from visuomotor.simulation.metaworld.sentences import SENTENCES


def test_same_arguments_give_the_same_balanced_scenarios():
    tasks = "drawer-open,drawer-close,faucet-open"
    first = make_scenarios("metaworld", "train", 9, 0, tasks=tasks)
    assert first == make_scenarios("metaworld", "train", 9, 0, tasks=tasks)
    assert set(Counter(s.task for s in first).values()) == {3}


def test_a_longer_list_begins_with_the_shorter():
    assert make_scenarios("metaworld", "train", 12, 4)[:5] == make_scenarios("metaworld", "train", 5, 4)


def test_starts_of_different_seeds_never_meet():
    training = {s.seed for s in make_scenarios("metaworld", "train", 3000, 0)}
    evaluation = {s.seed for s in make_scenarios("metaworld", "train", 3000, 1)}
    assert len(training) == len(evaluation) == 3000
    assert not training & evaluation
    assert max(training) < min(evaluation)


def test_held_out_paraphrases_come_with_the_same_starts():
    trained = make_scenarios("metaworld", "train", 50, 7)
    held_out = make_scenarios("metaworld", "heldout_paraphrase", 50, 7)
    assert [(s.task, s.seed) for s in trained] == [(s.task, s.seed) for s in held_out]
    assert all(s.instruction in SENTENCES[s.task].train for s in trained)
    assert all(s.instruction in SENTENCES[s.task].heldout for s in held_out)


def test_splits_and_bad_arguments():
    assert splits()[0] == "train"
    with pytest.raises(ValueError, match="Unknown split 'test'"):
        make_scenarios("metaworld", "test", 1, 0)
    with pytest.raises(ValueError, match="not negative"):
        make_scenarios("metaworld", "train", 1, -1)
