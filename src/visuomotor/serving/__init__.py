"""A policy behind a network: servers, and clients of platforms that own the robots."""
