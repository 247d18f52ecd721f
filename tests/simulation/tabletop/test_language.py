"""The tabletop language: ids, grammar, held-out combinations, scenarios, distractors, other instructions."""

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.simulation.tabletop.combinations import (
    distractors,
    heldout,
    is_heldout,
    other_instruction,
    scenarios,
    splits,
)
from visuomotor.simulation.tabletop.grammar import corpus, instruction, kind_specs, paraphrases, subtasks
from visuomotor.simulation.tabletop.taskspec import (
    FULL,
    REFERENCE_SHAPES,
    RELATIONS,
    SMALL,
    TARGETS,
    TaskSpec,
    Vocabulary,
    drawer_sequence,
    get_vocabulary,
)
from visuomotor.simulation.tabletop.templates import TEMPLATES

PAIRS = st.sampled_from(FULL.pairs)


@st.composite
def specs(draw: st.DrawFn) -> TaskSpec:
    relation = draw(st.sampled_from([r for r in RELATIONS if r != "sequence"]))
    needs = RELATIONS[relation]
    goal = draw(PAIRS) if needs != "nothing" else (None, None)
    reference = draw(PAIRS.filter(lambda pair: pair != goal)) if needs.endswith("reference") else None
    target = draw(st.sampled_from(TARGETS[relation])) if relation in TARGETS else None
    return TaskSpec(relation, *goal, target=target, reference=reference)


def examples(vocabulary: Vocabulary) -> list[TaskSpec]:
    """One task of every kind and goal object."""
    return [
        next(iter(kind_specs(kind, pair, vocabulary)))
        for kind in vocabulary.kinds
        for pair in (vocabulary.pairs if RELATIONS[kind[0]] != "nothing" else [None])
    ]


@given(
    st.one_of(specs(), st.lists(specs(), min_size=1, max_size=3).map(lambda s: TaskSpec("sequence", steps=tuple(s))))
)
def test_an_id_is_read_back_as_the_same_task(spec: TaskSpec) -> None:
    assert TaskSpec.parse(spec.id) == spec


def test_ids_are_readable() -> None:
    assert TaskSpec("put_in", "red", "block", target="left bowl").id == "put_in(red block, left bowl)"
    spec = TaskSpec.parse("push_behind(green disc, blue cup)")
    assert (spec.goal, spec.reference) == (("green", "disc"), ("blue", "cup"))
    assert drawer_sequence("red", "cup").id == "sequence(open_drawer(); put_in(red cup, drawer); close_drawer())"
    assert drawer_sequence("red", "cup").goal == ("red", "cup")


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("put the block in", "is not a task id"),
        ("lft(red block)", "Did you mean 'lift'"),
        ("lift(red blok)", "'red blok' is not an object"),
        ("lift(red block, left bowl)", "lift has 1 arguments, but 2"),
        ("put_in(red block, cupboard)", "cannot have the target 'cupboard'"),
        ("put_on(red block, red block)", "as object and as reference"),
        ("sequence()", "is not a task id"),
    ],
)
def test_a_wrong_id_says_what_is_wrong(id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskSpec.parse(id)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"relation": "lift"}, "lift needs object"),
        ({"relation": "press_button", "colour": "red", "shape": "cup"}, "press_button needs nothing"),
        ({"relation": "put_on", "colour": "red", "shape": "cup"}, "needs object and reference"),
        ({"relation": "sequence"}, "needs steps"),
    ],
)
def test_an_impossible_task_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskSpec(**fields)


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_has_enough_templates_and_shares_none(relation: str) -> None:
    train, held = TEMPLATES[relation]["train"], TEMPLATES[relation]["heldout"]
    assert len(set(train)) >= 8
    assert len(set(held)) >= 4
    assert not set(train) & set(held)


@pytest.mark.parametrize("spec", examples(FULL), ids=lambda spec: spec.id)
def test_paraphrases_say_the_task_and_heldout_ones_are_new(spec: TaskSpec) -> None:
    train, held = paraphrases(spec), paraphrases(spec, "heldout")
    assert len(train) >= 8
    assert len(held) >= 4
    assert len(set(train)) == len(train)
    assert not set(train) & set(held)
    assert train[0] == instruction(spec)
    for sentence in (*train, *held):
        assert not set(sentence) & set("(){}|"), sentence
        assert "  " not in sentence
        assert sentence == sentence.strip()
        for colour, shape in spec.objects:
            assert f"{colour} {shape}" in sentence
        if spec.target:
            assert spec.target.split(" ")[0] in sentence


def test_a_sentence_means_one_task() -> None:
    owners: dict[str, set[str]] = {}
    for spec, split in product(examples(FULL), ("train", "heldout")):
        for sentence in paraphrases(spec, split):  # type: ignore[arg-type]
            owners.setdefault(sentence, set()).add(spec.id)
    assert not {sentence: ids for sentence, ids in owners.items() if len(ids) > 1}


def test_canonical_sentences() -> None:
    said = {
        "lift(red block)": "pick up the red block",
        "put_in(red block, left bowl)": "put the red block into the left bowl",
        "push_behind(green disc, blue cup)": "push the green disc behind the blue cup",
        "sequence(open_drawer(); put_in(yellow block, drawer); close_drawer())": (
            "open the drawer, put the yellow block in, close it"
        ),
        "sequence(press_button(); lift(red cup))": "press the button, then pick up the red cup",
    }
    assert {id: instruction(TaskSpec.parse(id)) for id in said} == said


@pytest.mark.parametrize("vocabulary", [SMALL, FULL], ids=lambda v: v.name)
def test_heldout_combinations_are_balanced_and_their_words_are_trained(vocabulary: Vocabulary) -> None:
    held = heldout(vocabulary)
    per_kind = Counter(kind for _, _, kind in held)
    share = len(held) / (len(per_kind) * len(vocabulary.pairs))
    assert 0.2 <= share <= 0.3
    assert max(per_kind.values()) - min(per_kind.values()) <= 1
    unseen = set(vocabulary.unseen)
    assert all((*pair, kind) in held for pair in unseen for kind in per_kind)
    assert any((colour, shape) not in unseen for colour, shape, _ in held), "seen pairs in unseen relations too"
    for kind in per_kind:
        trained = [pair for pair in vocabulary.pairs if (*pair, kind) not in held]
        assert {colour for colour, _ in trained} == set(vocabulary.colours)
        assert {shape for _, shape in trained} == set(vocabulary.shapes)


def test_what_the_small_vocabulary_holds_out_the_full_one_does_too() -> None:
    assert heldout(SMALL) < heldout(FULL)
    assert set(SMALL.kinds) < set(FULL.kinds)


@pytest.mark.parametrize("vocabulary", ["small", "full"])
def test_training_never_names_what_is_heldout(vocabulary: str) -> None:
    words = get_vocabulary(vocabulary)
    train = [TaskSpec.parse(s.task) for s in scenarios("train", 1500, 3, vocabulary)]
    test = [TaskSpec.parse(s.task) for s in scenarios("heldout_combination", 500, 3, vocabulary)]
    assert not any(is_heldout(spec, vocabulary) for spec in train)
    assert all(is_heldout(spec, vocabulary) for spec in test)
    named = {pair for spec in train for pair in spec.objects}
    assert not named & set(words.unseen), "not even as a reference"
    seen_words = {word for s in scenarios("train", 1500, 3, vocabulary) for word in (s.instruction or "").split()}
    for spec in test:
        assert set(instruction(spec).replace(",", " ,").split()) - {","} <= {w.strip(",") for w in seen_words}


@pytest.mark.parametrize("split", splits())
def test_scenarios_are_balanced_reproducible_and_extendable(split: str) -> None:
    made = scenarios(split, 60, 5)
    assert scenarios(split, 30, 5) == made[:30]
    assert scenarios(split, 60, 6) != made
    assert set(Counter(s.options["kind"] for s in made).values()) == {12}
    assert all((s.environment, s.split) == ("tabletop", split) for s in made)
    assert len({s.seed for s in made}) == 60
    pairs = Counter((TaskSpec.parse(s.task).goal, s.options["kind"]) for s in made)
    assert max(pairs.values()) - min(pairs.values()) <= 1, "every object as often as any other"


def test_sentences_belong_to_their_split() -> None:
    train = scenarios("train", 400, 0)
    canonical = 0
    for s in train:
        spec = TaskSpec.parse(s.task)
        assert s.instruction in paraphrases(spec)
        canonical += s.instruction == instruction(spec)
    assert 0.4 < canonical / len(train) < 0.6
    for s in scenarios("heldout_paraphrase", 100, 0):
        assert s.instruction in paraphrases(TaskSpec.parse(s.task), "heldout")
    for s in scenarios("train", 50, 0, paraphrase=False):
        assert s.instruction == instruction(TaskSpec.parse(s.task))


def test_scenarios_of_chosen_tasks() -> None:
    assert {s.options["kind"] for s in scenarios("train", 10, 0, tasks=["push"])} == {"push left", "push right"}
    assert {s.options["kind"] for s in scenarios("train", 10, 0, tasks=["push left"])} == {"push left"}
    mixed = scenarios("train", 10, 0, tasks="lift, push left")
    assert {s.options["kind"] for s in mixed} == {"lift", "push left"}
    with pytest.raises(ValueError, match="'small' has no task 'fold'"):
        scenarios("train", 1, 0, tasks=["fold"])
    with pytest.raises(ValueError, match="Unknown split 'test'"):
        scenarios("test", 1, 0)
    with pytest.raises(ValueError, match="no scenarios for the tasks"):
        scenarios("heldout_combination", 1, 0, "full", tasks=["press_button"])
    with pytest.raises(ValueError, match="Unknown vocabulary 'large'"):
        scenarios("train", 1, 0, "large")


@pytest.mark.parametrize("vocabulary", [SMALL, FULL], ids=lambda v: v.name)
def test_distractors_make_every_word_necessary(vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(0)
    for spec in examples(vocabulary):
        others = distractors(spec, rng, vocabulary, 3)
        assert len(set(others)) == 3
        assert not set(others) & set(spec.objects)
        if spec.goal:
            assert any(colour == spec.goal[0] for colour, _ in others)
            assert any(shape == spec.goal[1] for _, shape in others)


def test_pairs_that_training_never_names_lie_there_as_distractors() -> None:
    rng = np.random.default_rng(0)
    trained = [TaskSpec.parse(s.task) for s in scenarios("train", 300, 0)]
    seen = Counter(pair for spec in trained for pair in distractors(spec, rng, SMALL, 3))
    mean = sum(seen.values()) / len(SMALL.pairs)
    assert all(seen[pair] > 0.6 * mean for pair in SMALL.unseen)
    with pytest.raises(ValueError, match="12 distractors were asked for"):
        distractors(trained[0], rng, SMALL, 12)


@pytest.mark.parametrize("vocabulary", [SMALL, FULL], ids=lambda v: v.name)
def test_the_other_instruction_is_another_task_of_the_same_scene(vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(0)
    for spec in examples(vocabulary):
        scene = [*spec.objects, *distractors(spec, rng, vocabulary, 3)]
        other, sentence = other_instruction(spec, scene, rng, vocabulary)
        assert sentence == instruction(other)
        assert set(other.objects) <= set(scene)
        assert other.id != spec.id
        assert spec not in other.steps
        if other.goal is not None and other.goal == spec.goal:
            assert other.relation == spec.relation, "e.g. putting an object somewhere would also lift it"
    with pytest.raises(ValueError, match="No other task is possible"):
        other_instruction(TaskSpec("lift", "red", "cup"), [("red", "cup")], rng)


def test_the_corpus_has_every_training_word() -> None:
    for vocabulary in (SMALL, FULL):
        lines = list(corpus(vocabulary))
        words = {word for line in lines for word in line.replace(",", "").split()}
        assert {*vocabulary.colours, *vocabulary.shapes} <= words
        for s in scenarios("train", 200, 1, vocabulary.name):
            assert set((s.instruction or "").replace(",", "").split()) <= words
        for spec in examples(vocabulary):
            assert {word for phrase in subtasks(spec) for word in phrase.replace(",", "").split()} <= words


def test_only_flat_objects_carry_others() -> None:
    put_on = [spec for pair in FULL.pairs for spec in kind_specs(("put_on", None), pair, FULL)]
    assert {spec.reference[1] for spec in put_on if spec.reference} == set(REFERENCE_SHAPES["put_on"])
