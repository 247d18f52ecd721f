import torch

from tests.models.cogact.conftest import DINO, World, world
from visuomotor.models.damvla.attention import prefix_attention
from visuomotor.nn.vit import ViT
from visuomotor.nn.vit_names import from_transformers

__all__ = ["world"]


@torch.no_grad()
def test_maps_are_those_of_transformers(world: World) -> None:
    tower = ViT(DINO)
    tower.load_state_dict(from_transformers(world.dino.state_dict(), DINO)[0])
    images = torch.randn(2, 3, 28, 28)
    world.dino.set_attn_implementation("eager")
    for block in (-2, 0):
        expected = world.dino(images, output_attentions=True).attentions[block]  # [B, H, S, S]
        found = prefix_attention(tower, images, block)
        assert found.shape == (2, 5, 2, 4, 4)
        torch.testing.assert_close(found.flatten(3), expected[:, :, :5, 5:].transpose(1, 2), atol=1e-5, rtol=1e-5)
    assert not tower.blocks[-2].get_submodule("attn")._forward_pre_hooks
