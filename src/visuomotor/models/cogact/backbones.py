"""Public weights into a fresh CogACT or DAM-VLA: DINOv2 with registers, SigLIP, LLaMA-2.

Projector and action model stay as they were initialised. A whole vision-language model, of a Prismatic or OpenVLA run,
comes in through `run_folder.read_run`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.models.assign import fill
from visuomotor.models.cogact.tensors import NAMES
from visuomotor.models.files import read_json, read_safetensors
from visuomotor.models.hub import TOKENIZER_FILES, find_weights
from visuomotor.models.report import TensorReport
from visuomotor.nn.decoder import Decoder
from visuomotor.nn.vit import ViT
from visuomotor.nn.vit_names import from_transformers

__all__ = ["load_backbones"]

TOWERS = ("dinov2", "siglip")
VISION_FILES = ("*.safetensors", "config.json")
LLM_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", *TOKENIZER_FILES)


def load_backbones(backbone: DecoderBackbone, sources: Mapping[str, str]) -> TensorReport:
    """Fill parts of `backbone` from `sources`, {"dinov2", "siglip" or "llm": folder or name on the Hugging Face Hub}.

    Towers may have timm's names or transformers', and positions of another grid, which are resized. Rows of the
    embedding behind the public vocabulary become the mean of the others: padding has one of them, which nobody reads.

    Raises:
        FileNotFoundError: a source is not there. ValueError: it is of another architecture or size, or damaged.
    """
    unknown = set(sources) - {*TOWERS, "llm"}
    if unknown:
        raise ValueError(f"Public weights fill 'dinov2', 'siglip' and 'llm', not {sorted(unknown)}.")
    reports = []
    for part in TOWERS:
        if part in sources:
            folder = find_weights(sources[part], VISION_FILES, option=f"weights.{part}")
            tower = backbone.vision.get_submodule(part)
            assert isinstance(tower, ViT)
            found, unused = from_transformers(dict(read_safetensors(folder)), tower.config)
            if not any(".ls1." in tensor for tensor in found):  # a tower without gains has gains of 1
                found |= {n: t.new_ones(t.shape) for n, t in tower.state_dict().items() if n.endswith(".gamma")}
            reports.append(_fill(tower, iter(found.items()), f"backbone.vision.{part}.", folder, list(unused)))
    if "llm" in sources:
        folder = find_weights(sources["llm"], LLM_FILES, option="weights.llm")
        _require_same(backbone.llm, folder)
        ignored: list[str] = []
        tensors = _llama(folder, backbone.llm.embed_tokens.weight.shape[0], ignored)
        reports.append(_fill(backbone.llm, tensors, "backbone.llm.", folder, ignored))
    return TensorReport(
        loaded=tuple(name for report in reports for name in report.loaded),
        unexpected=tuple(name for report in reports for name in report.unexpected),
        ignored=tuple(name for report in reports for name in report.ignored),
    )


def _fill(
    module: nn.Module, found: Iterator[tuple[str, Tensor]], stem: str, folder: Path, ignored: list[str]
) -> TensorReport:
    own = {NAMES.published(stem + name): tensor for name, tensor in module.state_dict(keep_vars=True).items()}
    report = fill(own, ((NAMES.published(stem + name), tensor) for name, tensor in found), ignored)
    if report.missing or report.mismatched:
        raise ValueError(f"The weights in {folder} do not fit this model: {report}.")
    return report


def _llama(folder: Path, rows: int, ignored: list[str]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in read_safetensors(folder):
        bare = name.removeprefix("model.")
        if bare == "lm_head.weight" or bare.endswith("rotary_emb.inv_freq"):
            ignored.append(name)
            continue
        if bare == "embed_tokens.weight" and len(tensor) < rows:
            known = tensor.float()
            tensor = known.mean(0).repeat(rows, 1)
            tensor[: len(known)] = known
        yield bare, tensor


def _require_same(llm: Decoder, folder: Path) -> None:
    """ValueError naming what config.json says and the tensors' shapes do not."""
    public, config = read_json(folder / "config.json"), llm.config
    rope = public.get("rope_parameters") or public.get("rope_scaling") or {}
    heads = public.get("num_attention_heads")
    theirs = {
        "model_type": public.get("model_type"),
        "num_attention_heads": heads,
        "num_key_value_heads": public.get("num_key_value_heads", heads),
        "rope_theta": rope.get("rope_theta", public.get("rope_theta", 1e4)),
        "rope_type": rope.get("rope_type", "default"),
        "rms_norm_eps": public.get("rms_norm_eps"),
        "convolution": 0,
    }
    ours = {
        "model_type": "llama", "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads,
        "rope_theta": config.rope_theta, "rope_type": "default", "rms_norm_eps": config.norm_eps,
        "convolution": config.convolution,
    }  # fmt: skip
    wrong = [f"{name} is {theirs[name]}, the model's {ours[name]}" for name in ours if theirs[name] != ours[name]]
    if wrong:
        raise ValueError(f"The language model in {folder} is another one than this model's: {'; '.join(wrong)}.")
