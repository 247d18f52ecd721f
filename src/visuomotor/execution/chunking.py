"""Chunks, executors and their requests; see visuomotor_client.chunking, which also runs without this library."""

from visuomotor_client.chunking import ChunkError, ChunkExecutor, ChunkRequest, RecedingHorizon, check_chunk

__all__ = ["ChunkError", "ChunkExecutor", "ChunkRequest", "RecedingHorizon", "check_chunk"]
