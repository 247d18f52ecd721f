"""Which robot is driven and how, in DM0's user turn: `<robot_arx5>`, and `<eef_control>` or `<joint_control>`."""

import re

from visuomotor.contract import TextKind
from visuomotor.embodiment import Embodiment
from visuomotor.text.scaffold import Piece, Pieces
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["tag_pieces", "tags_of"]

END_EFFECTOR = {"position", "rotation"}


def tags_of(embodiment: Embodiment) -> tuple[str, str]:
    """Robot tag and control tag; ValueError when the action moves neither joints nor an end-effector, or both."""
    kinds = {component.kind for component in embodiment.action}
    joints, end_effector = "joint" in kinds, bool(kinds & END_EFFECTOR)
    if joints == end_effector:
        found = ", ".join(f"{c.name} ({c.kind})" for c in embodiment.action)
        raise ValueError(
            f"Embodiment {embodiment.name!r} acts by {found}, so its control tag cannot be decided: it needs either "
            f"joint or position and rotation components. Correct their kinds in embodiment.json, or set tags to false."
        )
    name = re.sub(r"[^a-z0-9]+", "_", embodiment.name.lower()).strip("_")
    return f"<robot_{name}>", "<joint_control>" if joints else "<eef_control>"


def tag_pieces(tokenizer: TextTokenizer, embodiment: Embodiment) -> Pieces:
    """Tags as the tokenizer's special tokens, which no user can type, or as text where it has none of that name."""
    pieces = []
    for tag in tags_of(embodiment):
        special = tokenizer.special(tag)
        pieces.append(Piece(tokenizer.encode(f"{tag} ") if special is None else special, TextKind.PROMPT, False))
    return pieces
