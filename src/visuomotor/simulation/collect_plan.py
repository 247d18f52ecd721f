"""What to collect, where it stands, what came of it: the plain types of `collect`."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from visuomotor.codec import encode

SCENES_PER_EPISODE = 50


@dataclass(frozen=True, kw_only=True)
class CollectPlan:
    """What to collect. `scenes` > 0 records that many single frames for grounding instead of demonstrations.

    action_noise: standard deviation of the disturbances, as a share of half the action's range.
    options: of the world, e.g. {"vocabulary": "full", "tasks": ["push"]}; `max_attempts_factor` times `episodes`
    scenarios are tried at most.
    """

    environment: str
    out: Path
    episodes: int = 100
    seed: int = 0
    split: str = "train"
    workers: int = 2
    action_noise: float = 0.0
    render_quality: str = "fast"
    storage: Literal["video", "image"] = "video"
    codec: Literal["h264", "av1"] = "h264"
    options: dict[str, Any] = field(default_factory=dict)
    scenes: int = 0
    max_attempts_factor: int = 3

    def __post_init__(self) -> None:
        for name, value, least in (
            ("episodes", self.episodes, 1), ("workers", self.workers, 1), ("scenes", self.scenes, 0),
            ("action_noise", self.action_noise, 0), ("max_attempts_factor", self.max_attempts_factor, 1),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} must be at least {least}, but {value} was given.")

    @property
    def wanted(self) -> int:
        """Recordings to keep: demonstrations, or groups of scenes."""
        return -(-self.scenes // SCENES_PER_EPISODE) if self.scenes else self.episodes

    def identity(self) -> dict[str, Any]:
        """The fields that decide what the data set holds, as JSON values."""
        values = encode(self)
        for name in ("out", "workers", "max_attempts_factor", "episodes" if self.scenes else ""):
            values.pop(name, None)
        return values

    def hash(self) -> str:
        """16 hexadecimal digits of the identity."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class CollectProgress:
    """Where a collection stands: demonstrations (or scenes) done of `total`, attempts that failed, seconds."""

    done: int
    total: int
    failures: int
    seconds: float
    phase: Literal["recording", "assembling"] = "recording"


@dataclass(frozen=True, kw_only=True)
class CollectReport:
    """What was collected. `tasks`: {task: (kept, failed)}; `crashes`: worker processes that died on the way."""

    out: Path
    episodes: int
    frames: int
    failures: int
    tasks: dict[str, tuple[int, int]]
    seconds: float
    crashes: int = 0


Progress = Callable[[CollectProgress], None]
