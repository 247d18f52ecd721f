from collections.abc import Iterator

import torch
from torch import nn

from visuomotor.models.assign import assign, fill


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


def test_what_is_found_is_copied_and_the_rest_is_reported() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    own, ignored = module.state_dict(keep_vars=True), []

    def found() -> Iterator[tuple[str, torch.Tensor]]:
        yield "0.weight", torch.full((2, 3), 5.0)
        yield "0.bias", torch.ones(3)
        yield "other", torch.ones(1)
        ignored.append("head")  # known only when everything was read

    report = fill(own, found(), ignored)
    assert (report.loaded, report.unexpected, report.ignored) == (("0.weight",), ("other",), ("head",))
    assert report.missing == ("1.weight", "1.bias")
    assert report.mismatched == (("0.bias", (3,), (2,)),)
    assert (module[0].weight == 5).all()
    assert module[0].weight.requires_grad
