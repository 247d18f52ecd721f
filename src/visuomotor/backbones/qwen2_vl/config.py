"""Dimensions of Qwen2-VL's two towers, and how images and text become one sequence."""

from dataclasses import dataclass

from visuomotor.backbones.qwen2_vl.images import smart_resize

__all__ = ["Qwen2VLConfig", "QwenDecoderConfig", "QwenVisionConfig"]


@dataclass(frozen=True, kw_only=True)
class QwenVisionConfig:
    """Qwen2-VL's tower.

    merge       patches by merge x merge become one token
    mlp_ratio   hidden width of the blocks' MLPs, in widths
    """

    patch_size: int
    merge: int = 2
    width: int
    layers: int
    heads: int
    mlp_ratio: int

    def __post_init__(self) -> None:
        for name in ("patch_size", "merge", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"Vision width {self.width} over {self.heads} heads: 2-D rotary needs a head width that is a multiple "
                f"of 4."
            )


@dataclass(frozen=True, kw_only=True)
class QwenDecoderConfig:
    """Qwen2-VL's language model. `mrope_sections`: frequencies of the rotary code that turn by time, height, width."""

    vocab_size: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    mrope_sections: tuple[int, int, int]

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers is {self.layers}, but must be at least 1.")
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"Width {self.width}, {self.heads} heads and {self.kv_heads} kv_heads cannot be built: each divides "
                f"the one before it."
            )
        if 2 * sum(self.mrope_sections) != self.width // self.heads or len(self.mrope_sections) != 3:
            raise ValueError(
                f"mrope_sections {self.mrope_sections} are three numbers of frequencies, which add up to half a head "
                f"of {self.width // self.heads}."
            )


@dataclass(frozen=True, kw_only=True)
class Qwen2VLConfig:
    """Both towers, and the chat that they read.

    image_height, image_width   size to which every image is brought before Qwen2-VL's rule rounds both sides to
                                multiples of patch_size * merge
    initializer_range           standard deviation of fresh weights
    end_id, image_id, pad_id    tokens that end a turn, that stand for an image, and that fill behind a text
    """

    vision: QwenVisionConfig
    llm: QwenDecoderConfig
    image_height: int
    image_width: int
    initializer_range: float = 0.02
    end_id: int
    image_id: int
    pad_id: int

    def __post_init__(self) -> None:
        for name in ("image_height", "image_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")

    @property
    def image_grid(self) -> tuple[int, int]:
        """Tokens of an image, as (rows, columns)."""
        factor = self.vision.patch_size * self.vision.merge
        rows, columns = smart_resize(self.image_height, self.image_width, factor)
        return rows // factor, columns // factor
