import torch

from visuomotor.nn.convolution import TokenConvolution


@torch.no_grad()
def test_token_convolution_is_a_causal_depthwise_convolution() -> None:
    torch.manual_seed(0)
    layer = TokenConvolution(6, 4)
    x = torch.randn(2, 9, 6)
    kernel = layer.weight.T[:, None]  # [W, 1, tokens]
    expected = x + torch.nn.functional.conv1d(x.mT, kernel, padding=3, groups=6)[..., :9].mT
    torch.testing.assert_close(layer(x, None)[0], expected)
