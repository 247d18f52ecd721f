"""What the server tells somebody who watches it, such as a page."""

from dataclasses import dataclass
from typing import Protocol

from visuomotor.contract import Observation
from visuomotor.serving.batching import Answer

__all__ = ["Exchange", "Watcher"]


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What a client saw and what the policy made of it, before the safety filter.

    client: its address, "127.0.0.1:51234".
    given: how many actions of the chunk it has got one by one (vla-eval); 0 where it gets the whole chunk.
    """

    client: str
    observation: Observation
    answer: Answer
    given: int = 0


class Watcher(Protocol):
    """Is told of every exchange on the event loop that serves: it must neither wait nor raise."""

    def answered(self, exchange: Exchange) -> None: ...
