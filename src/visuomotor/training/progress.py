"""What a training run reports while it goes, and a progress bar for it."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Progress", "ProgressCallback", "Rate", "progress_bar"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """After a step: steps done and planned over all stages, total loss, rate, waiting share, estimated seconds left."""

    step: int
    total: int
    stage: str
    loss: float
    samples_per_second: float
    data_wait: float
    seconds_left: float
    fraction: float


ProgressCallback = Callable[[Progress], None]


class Rate:
    """Samples per second and share of time spent waiting for data, over the latest steps."""

    def __init__(self, window: int = 50) -> None:
        self._points: deque[tuple[float, int, float]] = deque(maxlen=window)

    def add(self, samples: int, waited: float) -> None:
        """Running totals of samples and of seconds waited."""
        self._points.append((time.perf_counter(), samples, waited))

    def value(self) -> tuple[float, float]:
        (start, first, waited), (end, last, total) = self._points[0], self._points[-1]
        seconds = end - start
        return ((last - first) / seconds, min(1.0, (total - waited) / seconds)) if seconds > 0 else (0.0, 0.0)


@contextmanager
def progress_bar(name: str) -> Iterator[ProgressCallback]:
    """A rich progress bar; yields the callback for `train(progress=...)`."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(16), TaskProgressColumn(), TextColumn("{task.fields[note]}"))
    with Bar(*columns) as bar:
        task = bar.add_task(name, total=1.0, note="")

        def update(state: Progress) -> None:
            note = (
                f"left {clock(state.seconds_left)}, loss {state.loss:.3f}, {state.samples_per_second:.0f} samples/s, "
                f"waiting {state.data_wait:.0%}, step {state.step}"
            )
            bar.update(task, completed=state.fraction, note=note)

        yield update


def clock(seconds: float) -> str:
    """75.2 -> "1:15", 3700 -> "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
