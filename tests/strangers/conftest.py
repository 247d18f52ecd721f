"""The command line as its own tests use it."""

from tests.cli.conftest import command, own_cache

__all__ = ["command", "own_cache"]
