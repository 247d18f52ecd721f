"""Which tasks are trained and which are held out; scenarios; what else lies on the table; another possible task."""

import zlib
from collections.abc import Sequence
from functools import cache

import numpy as np

from visuomotor.contract import Scenario
from visuomotor.simulation.tabletop.grammar import instruction, kind_specs
from visuomotor.simulation.tabletop.taskspec import RELATIONS, SMALL, Pair, TaskSpec, Vocabulary, get_vocabulary

Kind = tuple[str, str | None]
SPLITS = ("train", "heldout_combination", "heldout_paraphrase")
CANONICAL_SHARE = 0.5


def splits() -> tuple[str, ...]:
    """Names of the splits, `train` first."""
    return SPLITS


@cache
def heldout(vocabulary: Vocabulary) -> frozenset[tuple[str, str, str]]:
    """The (colour, shape, kind) triples that training never shows, though it shows each of their words.

    They are every triple of the vocabulary's `unseen` pairs and, for each kind, further triples of seen pairs (one
    in ten, the same number for every kind). What the small vocabulary holds out, the full one holds out too.
    """
    triples = set() if vocabulary is SMALL else set(heldout(SMALL))
    with_object = [kind for kind in vocabulary.kinds if RELATIONS[kind[0]] != "nothing"]
    period = len(vocabulary.seen) // max(1, len(vocabulary.seen) // 10)
    for k, kind in enumerate(with_object):
        further = (pair for i, pair in enumerate(vocabulary.seen) if (i + 3 * k) % period == 0)
        triples |= {(*pair, kind_name(kind)) for pair in (*vocabulary.unseen, *further)}
    return frozenset(triples)


def is_heldout(spec: TaskSpec, vocabulary: str | Vocabulary = "small") -> bool:
    """Whether training never shows this combination."""
    goal = spec.goal
    return goal is not None and (*goal, spec.kind) in heldout(get_vocabulary(vocabulary))


def scenarios(
    split: str,
    count: int,
    seed: int,
    vocabulary: str = "small",
    paraphrase: bool = True,
    tasks: Sequence[str] | None = None,
) -> list[Scenario]:
    """`count` scenarios of a split, balanced over task kinds and, within a kind, over objects.

    `tasks` keeps only these relations (`push`) or kinds (`push left`), a sequence or a text with commas. Half of the
    sentences are canonical, the others paraphrases; `paraphrase=False` makes all canonical (held-out paraphrases stay
    paraphrases). The first n of more scenarios are the same as n scenarios.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r} of the tabletop world. Available: {', '.join(SPLITS)}.")
    words = get_vocabulary(vocabulary)
    pools = [(kind, pool) for kind in _selected(words, tasks) if (pool := _pool(kind, split, words))]
    if not pools:
        raise ValueError(f"The split {split!r} of vocabulary {words.name!r} has no scenarios for the tasks {tasks}.")
    made = []
    for index in range(count):
        kind, pool = pools[index % len(pools)]
        turn, position = divmod(index // len(pools), len(pool))
        rng = _rng(seed, split, kind_name(kind), turn)
        pair = pool[int(rng.permutation(len(pool))[position])]
        made.append(_scenario(kind, pair, split, words, paraphrase, _rng(seed, split, "scenario", index)))
    return made


def distractors(
    spec: TaskSpec, rng: np.random.Generator, vocabulary: str | Vocabulary = "small", count: int = 3
) -> list[Pair]:
    """(colour, shape) of `count` other objects that make every word of the task necessary.

    One shares the goal's colour, another its shape; none repeats another or an object that the task names. The
    pairs that training never names as a goal occur here as often as others.
    """
    words, named = get_vocabulary(vocabulary), spec.objects
    free = [words.pairs[i] for i in rng.permutation(len(words.pairs)) if words.pairs[i] not in named]
    if count > len(free):
        raise ValueError(
            f"{count} distractors were asked for, but vocabulary {words.name!r} has only {len(free)} left."
        )
    chosen: list[Pair] = []
    if spec.goal is not None:
        colour, shape = spec.goal
        same_colour = next(pair for pair in free if pair[0] == colour)
        same_shape = next(pair for pair in free if pair[1] == shape)
        chosen = [same_colour, same_shape] if rng.random() < 0.5 else [same_shape, same_colour]
    chosen = [*chosen, *(pair for pair in free if pair not in chosen)][:count]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def other_instruction(
    spec: TaskSpec,
    scene_objects: Sequence[Pair],
    rng: np.random.Generator,
    vocabulary: str | Vocabulary = "small",
) -> tuple[TaskSpec, str]:
    """Another task that is possible in the same scene and whose execution does not achieve `spec`, and its sentence.

    `scene_objects` are all (colour, shape) on the table. Combinations known from training are preferred. Tasks
    that need the drawer in another state than the scene's are left out.
    """
    words = get_vocabulary(vocabulary)
    possible = [
        other
        for kind in words.kinds
        for pair in (scene_objects if RELATIONS[kind[0]] != "nothing" else [None])
        for other in kind_specs(kind, pair, words)
        if set(other.objects) <= set(scene_objects) and _is_another(other, spec)
    ]
    known = [other for other in possible if not is_heldout(other, words)] or possible
    if not known:
        raise ValueError(
            f"No other task is possible beside {spec.id!r} with the objects {list(scene_objects)}; put more of them on "
            f"the table (distractors), or do without controls."
        )
    kinds = sorted({other.kind for other in known})
    kind = kinds[int(rng.integers(len(kinds)))]
    candidates = [other for other in known if other.kind == kind]
    chosen = candidates[int(rng.integers(len(candidates)))]
    return chosen, instruction(chosen)


def kind_name(kind: Kind) -> str:
    """(relation, target) as one text, as in TaskSpec.kind."""
    return f"{kind[0]} {kind[1]}" if kind[1] else kind[0]


def _selected(vocabulary: Vocabulary, tasks: Sequence[str] | None) -> list[Kind]:
    if tasks is None:
        return list(vocabulary.kinds)
    if isinstance(tasks, str):
        tasks = [name.strip() for name in tasks.split(",")]
    known = {name for kind in vocabulary.kinds for name in (kind[0], kind_name(kind))}
    if unknown := [task for task in tasks if task not in known]:
        raise ValueError(
            f"Vocabulary {vocabulary.name!r} has no task {unknown[0]!r}; it has {', '.join(sorted(known))}."
        )
    return [kind for kind in vocabulary.kinds if kind[0] in tasks or kind_name(kind) in tasks]


def _pool(kind: Kind, split: str, vocabulary: Vocabulary) -> list[Pair | None]:
    """The goal objects of a kind in a split; [None] for a kind without an object."""
    if RELATIONS[kind[0]] == "nothing":
        return [] if split == "heldout_combination" else [None]
    held = heldout(vocabulary)
    wanted = split == "heldout_combination"
    return [pair for pair in vocabulary.pairs if ((*pair, kind_name(kind)) in held) == wanted]


def _scenario(
    kind: Kind, pair: Pair | None, split: str, vocabulary: Vocabulary, paraphrase: bool, rng: np.random.Generator
) -> Scenario:
    specs = list(kind_specs(kind, pair, vocabulary))
    spec = specs[int(rng.integers(len(specs)))]
    seed, canonical = int(rng.integers(2**31)), bool(rng.random() < CANONICAL_SHARE)
    if split == "heldout_paraphrase":
        sentence = instruction(spec, rng, "heldout")
    else:
        sentence = instruction(spec, rng if paraphrase and not canonical else None)
    return Scenario(
        environment="tabletop",
        task=spec.id,
        seed=seed,
        split=split,
        instruction=sentence,
        options={"vocabulary": vocabulary.name, "kind": spec.kind},
    )


def _is_another(other: TaskSpec, spec: TaskSpec) -> bool:
    """Whether doing `other` leaves `spec` undone, and the drawer's start state of `spec` suits `other`."""
    if other == spec or spec in other.steps or _drawer_at_start(other) not in (None, _drawer_at_start(spec)):
        return False
    return other.goal is None or other.goal != spec.goal or other.relation == spec.relation


def _drawer_at_start(spec: TaskSpec) -> str | None:
    if spec.relation in ("open_drawer", "sequence"):
        return "closed"
    return "open" if spec.relation == "close_drawer" or spec.target == "drawer" else None


def _rng(seed: int, *names: str | int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, names)).encode())])
