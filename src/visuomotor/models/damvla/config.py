"""The switches and options of DAM-VLA on top of CogACT's dimensions, and the combinations that were published."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from visuomotor.codec import update
from visuomotor.models.cogact.config import SIZES as COGACT_SIZES
from visuomotor.models.cogact.config import CogACTConfig, first_format_names
from visuomotor.spelling import did_you_mean, require_choices

__all__ = ["COMBINATIONS", "SIZES", "SWITCHES", "DAMVLAConfig", "first_format", "switches"]

log = logging.getLogger(__name__)
SWITCHES = ("vt", "acw", "tw", "dam", "dl")

# The rows of the paper's Table VI, in its order.
COMBINATIONS: dict[str, tuple[str, ...]] = {
    "base": (),
    "vt-acw": ("vt", "acw"),
    "vt-acw-tw": ("vt", "acw", "tw"),
    "vt-acw-tw-dam": ("vt", "acw", "tw", "dam"),
    "full": SWITCHES,
    "no-vt": ("acw", "tw", "dam", "dl"),
    "dam-dl": ("dam", "dl"),
}


@dataclass(frozen=True, kw_only=True)
class DAMVLAConfig(CogACTConfig):
    """CogACT's fields, five switches, and what the paper leaves open. With all switches off it is CogACT.

    vt     visual tokens: DINOv2's class token to the arm head, its registers to the gripper head, both to a single head
    acw    chunk weights: the loss of step j of a chunk counts gamma^j
    tw     trajectory weights: what is near a change of phase counts for the gripper head, what is not for the arm head
    dam    dual action models: two heads, one of which a router chooses for each look
    dl     dual latents: the router reads an early layer of the language model, not the cognition feature

    move_weight, mani_weight, router_weight   of the three losses
    normalise           a head's loss is the mean over all "entries", or over the sum of their "weights"
    single_head         with tw but without dam, steps count w^a (1 + w^t) ("emphasis"), or w^a max(w^t, weight_floor)
                        ("floor")
    unweighted_heads    with dam but without tw, both heads learn from "all" steps, or each from its "own": gripper
                        where w^t > 0.5, arm elsewhere
    reasoning_layer     whose output the router reads with dl: 0 the embeddings, 2 behind the second layer, -2 the last
                        but one
    router_output       "sigmoid" of one number, or "softmax" of two
    router_hidden       width of a hidden layer of the router; 0: none
    register_pooling    "flatten" keeps the registers apart, "mean" averages them
    visual_dropout      in unconditional draws the visual tokens are dropped, too ("all"), or the "feature" alone
    visual_gradient     the heads' losses reach DINOv2 through the visual tokens
    routing             "hard": the chosen head predicts; "soft": both do, mixed by the router's probability
    hysteresis          how far beyond one half the probability must be to leave the head that acted before
    """

    vt: bool = True
    acw: bool = True
    tw: bool = True
    dam: bool = True
    dl: bool = True

    move_weight: float = 1.0
    mani_weight: float = 1.0
    router_weight: float = 1e-4
    normalise: Literal["entries", "weights"] = "entries"
    single_head: Literal["emphasis", "floor"] = "emphasis"
    weight_floor: float = 0.1
    unweighted_heads: Literal["all", "own"] = "all"
    reasoning_layer: int = 2
    router_output: Literal["sigmoid", "softmax"] = "sigmoid"
    router_hidden: int = 0
    register_pooling: Literal["flatten", "mean"] = "flatten"
    visual_dropout: Literal["all", "feature"] = "all"
    visual_gradient: bool = True
    routing: Literal["hard", "soft"] = "hard"
    hysteresis: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)
        if self.dl and not self.dam:
            log.warning("dl gives the router a latent of its own, but without dam there is no router; it does nothing.")
        layers = self.llm.layers
        if not -layers - 1 <= self.reasoning_layer <= layers:
            raise ValueError(
                f"reasoning_layer is {self.reasoning_layer}, but the language model has {layers} layers; choose "
                f"{-layers - 1} to {layers}."
            )
        if self.vt and self.dinov2.registers < 1:
            raise ValueError(
                "vt shows a head DINOv2's registers, but dinov2.registers is 0; give it some, or switch vt off."
            )
        if not 0 <= self.hysteresis < 0.5 or (self.hysteresis and self.routing == "soft"):
            raise ValueError(
                f"hysteresis is {self.hysteresis} with routing {self.routing!r}; it lies in [0, 0.5) and has a meaning "
                f"where one head is chosen (routing 'hard')."
            )
        if not 0 <= self.weight_floor <= 1 or self.router_hidden < 0:
            raise ValueError(
                f"weight_floor is {self.weight_floor} and router_hidden {self.router_hidden}; they lie in [0, 1] and "
                f"from 0 on."
            )

    @property
    def weighted(self) -> tuple[str, ...]:
        """Names of the batch's weights that the losses read."""
        trajectory = self.tw or (self.dam and self.unweighted_heads == "own")
        return ("trajectory",) * trajectory + ("chunk",) * self.acw

    @property
    def visual_widths(self) -> tuple[int, ...]:
        """Of the visual tokens that each head is told, over all views."""
        token = self.num_views * self.dinov2.width * self.vt
        registers = token * (self.dinov2.registers if self.register_pooling == "flatten" else 1)
        return (token, registers) if self.dam else (token + registers,)


SIZES = {name: DAMVLAConfig(**vars(config)) for name, config in COGACT_SIZES.items()}


def first_format(fields: Mapping[str, Any]) -> DAMVLAConfig:
    """The configuration of a checkpoint of the first format, whose parts were not nested."""
    return update(SIZES["nano"], first_format_names(fields))


def switches(combination: str) -> dict[str, bool]:
    """The five switches of a published combination, as fields of DAMVLAConfig; ValueError on an unknown name."""
    if combination not in COMBINATIONS:
        hint = did_you_mean(combination, COMBINATIONS)
        raise ValueError(f"There is no combination {combination!r}.{hint} Known: {', '.join(COMBINATIONS)}.")
    return {name: name in COMBINATIONS[combination] for name in SWITCHES}
