"""Memory of one training step of DM0, in bytes, from its dimensions: what is held when the backward pass begins.

Counted as a GPU computes it: in "house" precision with fused attention, in float32 with materialised attention maps in
the decoders, because no fused kernel takes grouped queries in float32. Letters: W width, M MLP width, Q and K widths of
all queries and of all keys, S tokens, T keys that a token may attend to.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from visuomotor.models.dm0.config import DM0Config
from visuomotor.nn.decoder import DecoderConfig

__all__ = ["training_memory"]

Learning = Literal["weights", "adapters", "through", "nothing"]  # "through": gradients pass, but no weight learns
PREFIX = ("vision", "projector", "llm", "embed")


def training_memory(
    config: DM0Config,
    parts: Mapping[str, list[nn.Parameter]],
    *,
    batch_size: int,
    text_length: int,
    trains: Collection[str],
    lora: int = 0,
    precision: Literal["house", "float32"] = "house",
    checkpoint_activations: bool = False,
) -> dict[str, int]:
    """Bytes of "weights", "gradients", "optimiser" (AdamW), "activations", "copies" of matrices in half precision, and
    what is "transient" on top.

    `batch_size` samples in a micro-batch, all cameras present, every text token supervised. `parts` are those of the
    model without adapters (on any device), `trains` names those that learn; with `lora` the language model learns
    through adapters of that rank. Activations and copies are what autograd has saved when the backward pass begins. On
    top come the gradients of the logits, or with `checkpoint_activations` the largest layer that is computed again.
    """
    unknown = set(trains) - set(parts)
    if unknown:
        raise ValueError(f"`trains` names {sorted(unknown)}, but the model's parts are {sorted(parts)}.")
    adapted = lora > 0 and "llm" in trains
    learning = [p for part in trains if not (adapted and part == "llm") for p in parts[part]]
    values, tensors = sum(p.numel() for p in learning), len(learning)
    weights = sum(p.numel() for own in parts.values() for p in own)
    adapters = 0
    if adapted:
        adapters, matrices = lora * _adapter_sides(config.llm), 2 * 7 * config.llm.layers
        values, weights, tensors = values + adapters, weights + adapters, tensors + matrices
    step = _Step(config, batch_size, text_length, precision == "house", frozenset(trains), lora if adapted else 0)
    found = {"weights": 4 * weights, "gradients": 4 * values, "optimiser": 8 * values + 4 * tensors}
    return found | step.held(parts, adapters, checkpoint_activations)


def _adapter_sides(llm: DecoderConfig) -> int:
    """Inputs and outputs of all matrices that take adapters."""
    query, key = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
    return llm.layers * (2 * (llm.width + query) + 2 * (llm.width + key) + 3 * (llm.width + llm.mlp_width))


@dataclass(frozen=True)
class _Step:
    """One micro-batch."""

    config: DM0Config
    batch: int
    text: int
    half: bool
    trains: frozenset[str]
    lora: int

    @property
    def size(self) -> int:
        """Bytes of a value that a product writes."""
        return 2 if self.half else 4

    @property
    def prefix(self) -> int:
        config = self.config
        return config.num_views * config.vision.tokens() + (config.state_token == "prefix") + self.text

    @property
    def llm(self) -> Learning:
        if "llm" in self.trains:
            return "adapters" if self.lora else "weights"
        return "through" if self.trains & set(PREFIX) else "nothing"

    def held(self, parts: Mapping[str, list[nn.Parameter]], adapters: int, again: bool) -> dict[str, int]:
        """{"activations", "copies", "transient"}; with `again` layers keep their inputs only."""
        layers = self.layers()
        in_layers, others = self.copies(parts, adapters)
        inputs = sum(count * given for count, given, _ in layers)
        whole = sum(count * kept for count, _, kept in layers)
        logits = 0 if self.llm == "nothing" else 2 * 4 * self.batch * self.text * self.config.vocab_size
        largest = max(kept for _, _, kept in layers)
        return {
            "activations": self.outside() + (inputs if again else whole),
            "copies": others + (0 if again else in_layers),
            "transient": max(logits, largest, in_layers) if again else logits,
        }

    def towers(self) -> list[tuple[DecoderConfig, int, int, Learning]]:
        """(tower, tokens, keys of each, what learns) of the decoders that gradients reach."""
        config, chunk = self.config, self.config.noise_draws * self.config.head.chunk_tokens
        expert: Learning = "weights" if "expert" in self.trains else "through"
        found: list[tuple[DecoderConfig, int, int, Learning]] = []
        if self.llm != "nothing":
            found.append((config.llm, self.prefix, self.prefix, self.llm))
        if self.trains & {"expert", "action_io"} or not config.gradient_decoupling:
            found.append((config.head.decoder, chunk, self.prefix + chunk, expert))
        return found

    def layers(self) -> list[tuple[int, int, int]]:
        """(number of layers, bytes of one's input, bytes that it keeps) of each tower that gradients reach."""
        config, lent = self.config, (4 + self.size) * self.config.llm.kv_heads * self.config.llm.head_dim
        found = []
        for index, (tower, tokens, keys, learning) in enumerate(self.towers()):
            # The expert's residual stream is made by a product, the prefix's has the embedding table's type.
            given = self.batch * tokens * tower.width * (self.size if tower.vocab_size is None else 4)
            if index == 0:  # keys and values of the prefix are kept for the expert, whoever computes what again
                given += self.batch * self.prefix * lent
            found.append((tower.layers, given, self.layer(tower, tokens, keys, learning)))
        if "vision" in self.trains:
            vision, tokens = config.vision, self.batch * config.num_views * (config.vision.grid**2 + 1)
            found.append((vision.layers, tokens * 4 * vision.width, self.vision_block(tokens)))
        return found

    def outside(self) -> int:
        """What is kept outside of layers."""
        rotation = 4 * self.config.llm.head_dim  # cosines and sines of a position, shared by all layers
        total = self.images() + self.head()
        for tower, tokens, _, learning in self.towers():
            final = 4 * tower.width * (2 if learning == "weights" else 1) + 4
            total += self.batch * tokens * (rotation + final)
            if tower.vocab_size is None:
                total += self.action_io(tokens)
        return total

    def layer(self, tower: DecoderConfig, tokens: int, keys: int, learning: Learning) -> int:
        """What one decoder layer keeps."""
        size, width, rank = self.size, tower.width, self.lora if learning == "adapters" else 0
        query, key = tower.heads * tower.head_dim, tower.kv_heads * tower.head_dim
        learns, reads = learning == "weights", learning in ("weights", "adapters")
        norms = 2 * (4 * width + 4) + 4 * (query + key) + 4 * (tower.heads + tower.kv_heads)
        if learns:
            norms += 2 * 4 * width + size * (query + key)
        inputs = (5 * 2 if self.half else 2 * 4) * width if reads else 0
        if reads and tower.convolution:
            inputs += 4 * width * (tower.convolution + 1)
        mlp = size * tower.mlp_width * (4 if reads else 3)
        if self.half:  # fused: queries, output with its normaliser; keys and values below
            attention = 2 * 2 * query + 4 * tower.heads + (2 * query if rank else 0)
            shared = 2 * 2 * key * keys
        else:  # scaled queries, probabilities, the output in order; keys and values repeated for every query head
            attention = 4 * query + 4 * tower.heads * keys + (4 * query if reads else 0)
            shared = 2 * 4 * query * keys
        own = norms + inputs + mlp + attention + 7 * size * rank
        return self.batch * (tokens * own + shared)

    def vision_block(self, tokens: int) -> int:
        """What one block of the tower keeps; matrices times LayerScale are products of their own."""
        vision, size = self.config.vision, self.size
        width, mlp = vision.width, vision.mlp_width
        norm = 4 * width + 8 + size * width
        kept = 2 * norm + size * (3 + 2 + 1) * width + 4 * vision.heads + 2 * size * mlp
        return tokens * kept + size * (width**2 + width * mlp)

    def images(self) -> int:
        """Patches, the norm in front of the blocks, convolutions, and the projector's input."""
        vision, size = self.config.vision, self.size
        images, sides = self.batch * self.config.num_views, vision.sides()
        reduced = size * vision.tokens() * vision.output_width
        if "vision" not in self.trains:
            return images * reduced if "projector" in self.trains else 0
        stem = sides[0] ** 2 * size * 3 * vision.patch_size**2 + (sides[0] ** 2 + 1) * (4 * vision.width + 8)
        convolved = sum(size * side**2 * 2**i * vision.width for i, side in enumerate(sides[:-1]))
        return images * (stem + convolved + reduced)

    def head(self) -> int:
        """Log-probabilities of all supervised tokens, and the states that predict them."""
        if self.llm == "nothing":
            return 0
        return self.batch * self.text * (4 * self.config.vocab_size + self.size * self.config.llm.width)

    def action_io(self, chunk: int) -> int:
        """Embedding of noisy actions and time, and the squared error."""
        config, size = self.config, self.size
        return self.batch * chunk * (4 * size * config.expert.width + (size + 2 * 4) * config.action_dim)

    def copies(self, parts: Mapping[str, list[nn.Parameter]], adapters: int) -> tuple[int, int]:
        """Bytes of autocast's half-precision copies of matrices that learn or pass gradients on, (layers', others')."""
        if not self.half:
            return 0, 0
        layers, others = adapters, 0
        for part, parameters in parts.items():
            prefix = part in PREFIX and self.llm != "nothing" and part != "vision"
            if part in self.trains or part == "expert" or prefix:
                matrices = sum(p.numel() for p in parameters if p.ndim == 2)
                if part in ("llm", "expert"):
                    layers += matrices
                elif part == "vision":  # one of two matrices is copied as LayerScale's product: an activation
                    vision = self.config.vision
                    layers += vision.layers * (3 * vision.width**2 + vision.width * vision.mlp_width)
                    others += sum(p.numel() for p in parameters if p.ndim == 4)
                else:
                    others += matrices
        return 2 * layers, 2 * others
