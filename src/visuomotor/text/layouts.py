"""Table of the text layouts; a new prompt family is one file and one entry here."""

from visuomotor.spelling import did_you_mean
from visuomotor.text.chat import ChatLayout
from visuomotor.text.cogact_prompt import CogACTLayout
from visuomotor.text.dm0 import DM0Layout
from visuomotor.text.layout import TextLayout
from visuomotor.text.openvla_oft import OFTLayout
from visuomotor.text.pi0 import Pi0Layout, Pi05Layout
from visuomotor.text.plain import PlainLayout

__all__ = ["LAYOUTS", "find_layout"]

LAYOUTS: dict[str, type[TextLayout]] = {
    layout.name: layout
    for layout in (PlainLayout, DM0Layout, ChatLayout, CogACTLayout, OFTLayout, Pi0Layout, Pi05Layout)
}


def find_layout(name: str) -> type[TextLayout]:
    """Layout of a name; ValueError with the nearest one where there is none."""
    if name not in LAYOUTS:
        raise ValueError(
            f"There is no text layout {name!r}.{did_you_mean(name, LAYOUTS)} Choose from {sorted(LAYOUTS)}."
        )
    return LAYOUTS[name]
