"""The fixtures of a tiny DexVLA, whose backbone is a Qwen2-VL."""

from tests.models.dexvla.conftest import batch, dexvla, make_dexvla

__all__ = ["batch", "dexvla", "make_dexvla"]
