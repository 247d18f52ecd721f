"""What a robot's computer needs to be driven by a policy server: numpy, msgpack, websockets; Python 3.9 and newer."""

from visuomotor_client.client import PolicyClient, PolicyError, connect

__version__ = "0.1.0"

__all__ = ["PolicyClient", "PolicyError", "__version__", "connect"]
