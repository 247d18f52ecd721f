"""Names of tensors: in checkpoints up to the second format, and of a CogACT that a DAM-VLA starts from."""

from collections.abc import Mapping

from torch import Tensor

from visuomotor.models.cogact.tensors import VLM_NAMES
from visuomotor.models.names import NameTable

__all__ = ["NAMES", "adopted"]

ARM, GRIPPER = "head.arm.", "head.gripper."
NAMES = NameTable({**VLM_NAMES, ARM: "action_model.", GRIPPER: "gripper_model.", "head.router.": "router."})
OF_COGACT = NameTable({"head.model.": ARM})


def adopted(state: Mapping[str, Tensor], *, two_heads: bool) -> dict[str, Tensor]:
    """The weights of a CogACT, or of a DAM-VLA with one head, whose head both heads start from."""
    found = {OF_COGACT.published(name): tensor for name, tensor in state.items()}
    if not two_heads or any(name.startswith(GRIPPER) for name in found):
        return found
    copies = {GRIPPER + n.removeprefix(ARM): tensor for n, tensor in found.items() if n.startswith(ARM)}
    return {**found, **copies}
