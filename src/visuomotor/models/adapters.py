"""LoRA adapters that a file keeps beside the matrices that they change, under peft's names."""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["merged_adapters"]


def merged_adapters(tensors: Mapping[str, Tensor], *, largest_alpha: int = 16) -> dict[str, Tensor]:
    """The tensors with their adapters of linears and convolutions added, under the names of a model without adapters.

    The product of rank r is scaled by min(r, largest_alpha) / r, as OpenVLA and its successors train it.
    """
    merged = {}
    for name, tensor in tensors.items():
        stem, adapted, last = name.rpartition(".base_layer.")
        if ".lora_A." in name or ".lora_B." in name:
            continue
        if adapted and last == "weight":
            down, up = (tensors[f"{stem}.lora_{part}.default.weight"].float() for part in "AB")
            product = (up.flatten(1) @ down.flatten(1)).view(tensor.shape)  # of a convolution, `up` is 1 x 1
            tensor = (tensor.float() + min(len(down), largest_alpha) / len(down) * product).to(tensor.dtype)
        merged[f"{stem}.{last}" if adapted else name] = tensor
    return merged
