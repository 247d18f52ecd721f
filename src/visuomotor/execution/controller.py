"""Executors by name, and the controller that drives one with a safety filter; see visuomotor_client."""

from visuomotor_client.controller import Controller
from visuomotor_client.executors import EXECUTORS, guidance_of, make_executor
from visuomotor_client.loop import SimulatedClock, SimulatedInference, SystemClock, ThreadedInference, run
from visuomotor_client.selection import medoid

__all__ = [
    "EXECUTORS", "Controller", "SimulatedClock", "SimulatedInference", "SystemClock", "ThreadedInference",
    "guidance_of", "make_executor", "medoid", "run",
]  # fmt: skip
