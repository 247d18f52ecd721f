"""Ensembles over time; see visuomotor_client.ensemble."""

from visuomotor_client.ensemble import AdaptiveEnsemble, TemporalEnsemble

__all__ = ["AdaptiveEnsemble", "TemporalEnsemble"]
