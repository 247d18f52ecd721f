"""What a robot's computer needs to be driven by a policy server: numpy, msgpack, websockets; Python 3.9 and newer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visuomotor_client.client import PolicyClient, PolicyError, connect

__version__ = "0.1.0"

__all__ = ["PolicyClient", "PolicyError", "__version__", "connect"]


def __getattr__(name: str) -> Any:
    """The client, on demand: executors and safety filter need numpy alone."""
    if name in ("PolicyClient", "PolicyError", "connect"):
        from visuomotor_client import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
