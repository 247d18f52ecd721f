import pytest

from visuomotor.simulation.interface import make_scenarios
from visuomotor.simulation.metaworld import other_instruction
from visuomotor.simulation.metaworld.pairs import PREFIX
from visuomotor.simulation.metaworld.sentences import SENTENCES, opposite
from visuomotor.simulation.metaworld.tasks import PAIR_TASKS, TASKS, resolve_tasks


def test_tasks_are_those_of_the_package():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert {f"{task}-v3" for task in TASKS} == set(ALL_V3_ENVIRONMENTS) == {f"{task}-v3" for task in SENTENCES}


def test_each_task_has_four_sentences_and_two_held_out():
    for task, sentences in SENTENCES.items():
        assert len(set(sentences.train)) >= 4, task
        assert len(set(sentences.heldout)) >= 2, task
        assert not set(sentences.train) & set(sentences.heldout), task


def test_no_sentence_means_two_tasks():
    seen = [sentence for s in SENTENCES.values() for sentence in (*s.train, *s.heldout)]
    assert len(seen) == len(set(seen))


def test_other_instruction_of_a_pair_is_its_opposite_in_the_words_of_the_split():
    for split in ("train", "heldout_paraphrase"):
        for scenario in make_scenarios("metaworld", split, 20, 3, tasks="pairs"):
            name = scenario.task.removeprefix(PREFIX)
            words = SENTENCES[opposite(name) or ""]
            assert other_instruction(scenario) in (words.train if split == "train" else words.heldout)


def test_other_instruction_is_never_one_of_the_task_itself():
    for scenario in make_scenarios("metaworld", "train", 100, 0):
        assert other_instruction(scenario) not in SENTENCES[scenario.task].train
        assert other_instruction(scenario) == other_instruction(scenario)


def test_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'drawer-open'"):
        resolve_tasks("drawer-opne")


def test_task_lists():
    assert resolve_tasks("drawer-open-v3, pair:window-open") == ("drawer-open", "pair:window-open")
    assert resolve_tasks("pairs") == PAIR_TASKS
    grasps = resolve_tasks("grasps")
    assert {"hammer", "assembly"} < set(grasps)
    assert all(TASKS[name].grasp and not TASKS[name].hidden_goal for name in grasps)
    assert len(PAIR_TASKS) == 10
    assert resolve_tasks(None) == tuple(TASKS)
    assert len(TASKS) == 50
    with pytest.raises(ValueError, match="No Meta-World task"):
        resolve_tasks(())
