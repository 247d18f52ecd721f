"""visuomotor: train, ablate, evaluate and serve vision-language-action robot policies."""

__version__ = "0.1.0"

_LAZY = {"load_policy": "visuomotor.policy", "Policy": "visuomotor.policy"}


def __getattr__(name: str) -> object:
    """Import the public names on first use, so that `import visuomotor` stays light."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'visuomotor' has no attribute {name!r}")
