import torch
from torch import nn

from visuomotor.models.assign import assign


def test_tensors_are_shared_and_the_rest_is_reported() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    tensors = {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(3), "1.bias": torch.ones(1), "other": torch.ones(1)}
    report = assign(module, tensors, ignored=("head",))
    assert report.loaded == ("0.weight", "1.bias")
    assert report.missing == ("1.weight",)
    assert report.unexpected == ("other",)
    assert report.ignored == ("head",)
    assert report.mismatched == (("0.bias", (3,), (2,)),)
    assert module[0].weight.data_ptr() == tensors["0.weight"].data_ptr()
    assert module[0].weight.requires_grad
    assert module[1].weight.is_meta
