import torch

from visuomotor.training.muon import Muon, orthogonalised


def test_singular_values_become_about_one_and_vectors_stay() -> None:
    matrices = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrices)
    assert ((torch.linalg.svdvals(found) - 1).abs() < 0.4).all()
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(found.flatten(1), (u @ vh).flatten(1)).min() > 0.98
    torch.testing.assert_close(orthogonalised(matrices.mT), found.mT)


def test_updates_equal_torchs_muon_up_to_its_bfloat16() -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(24, 40, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    mine = Muon([{"params": [ours], "muon": True, "lr": 0.01, "weight_decay": 0.1}])
    oracle = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(24, 40, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step()
        oracle.step()
    moved, expected = ours.detach() - start, theirs.detach() - start
    assert ((moved - expected).norm() / expected.norm()) < 0.03


def test_other_groups_are_adamws_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(2)
    start, matrix = torch.randn(7, generator=generator), torch.nn.Parameter(torch.randn(16, 16, generator=generator))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    mine = Muon([{"params": [matrix], "muon": True, "lr": 0.1}, {"params": [ours], "muon": False, "lr": 0.1}])
    oracle = torch.optim.AdamW([theirs], lr=0.1)
    for _ in range(3):
        ours.grad = torch.randn(7, generator=generator)
        theirs.grad = ours.grad.clone()
        matrix.grad = torch.randn(16, 16, generator=generator)
        mine.step()
        oracle.step()
    assert torch.equal(ours, theirs)
    assert set(mine.state[matrix]) == {"momentum"}
