"""Published tensor names of DM0, and our own."""

from visuomotor.models.names import NameTable

__all__ = ["EXPERT", "LLM", "NAMES", "TOWER"]

TOWER, LLM, EXPERT = "model.mm_vision_tower.vision_tower.", "model.llm.", "model.action_expert.model."
NAMES = NameTable(
    {
        "backbone.vision.tower.": "model.mm_vision_tower.vision_tower.",
        "backbone.vision.projector.": "model.mm_projector.",
        "backbone.llm.": "model.llm.",
        "backbone.lm_head.": "lm_head.",
        "head.expert.": "model.action_expert.model.",
        "head.": "model.",
    }
)
