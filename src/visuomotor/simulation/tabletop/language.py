"""The language of the tabletop world: tasks as data, their sentences, and what of both is held out.

    spec = TaskSpec.parse("put_in(red block, left bowl)")
    instruction(spec)                    # "put the red block into the left bowl"
    paraphrases(spec, "heldout")         # sentences from templates that training never uses
    scenarios("heldout_combination", 100, seed=0)

`taskspec` has tasks and vocabularies, `grammar` and `templates` the sentences, `combinations` the splits.
"""

from visuomotor.simulation.tabletop.combinations import (
    distractors,
    heldout,
    is_heldout,
    other_instruction,
    scenarios,
    splits,
)
from visuomotor.simulation.tabletop.grammar import corpus, instruction, paraphrases, subtasks
from visuomotor.simulation.tabletop.taskspec import (
    FULL,
    REFERENCE_SHAPES,
    RELATIONS,
    SMALL,
    TARGETS,
    VOCABULARIES,
    Pair,
    TaskSpec,
    Vocabulary,
    drawer_sequence,
    get_vocabulary,
)

__all__ = [
    "FULL", "REFERENCE_SHAPES", "RELATIONS", "SMALL", "TARGETS", "VOCABULARIES", "Pair", "TaskSpec", "Vocabulary",
    "corpus", "distractors", "drawer_sequence", "get_vocabulary", "heldout", "instruction", "is_heldout",
    "other_instruction", "paraphrases", "scenarios", "splits", "subtasks",
]  # fmt: skip
