"""Timing shared by the benchmarks: ways run in turn on one thread, in CPU time of the process."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from visuomotor.versions import commit

SAME = 0.05  # a ratio is believed when the fast way against itself is off by less than this
SYNCHRONISING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Medians in milliseconds by way; `ratio` of slow to fast, None when the A/A comparison `same` was off."""

    fast_ms: float
    slow_ms: float
    ratio: float | None
    same: float


def interleaved(fast: Callable[[], object], slow: Callable[[], object], pairs: int) -> Timed:
    """`pairs` times fast, slow, fast; one warm-up of each before."""
    if pairs < 1:
        raise SystemExit(f"{pairs} pairs of runs give no ratio; take at least 1.")
    fast(), slow()
    rows = [(_seconds(fast), _seconds(slow), _seconds(fast)) for _ in range(pairs)]
    same = statistics.median(a / b for a, _, b in rows)
    ratio = statistics.median(2 * b / (a + c) for a, b, c in rows)
    return Timed(
        fast_ms=1e3 * statistics.median(a for a, _, _ in rows),
        slow_ms=1e3 * statistics.median(b for _, b, _ in rows),
        ratio=ratio if abs(same - 1) < SAME else None,
        same=same,
    )


class Dispatched(TorchDispatchMode):
    """Counts operations that reach the dispatcher, and those among them that make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.synchronising = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self.operations += 1
        name = func.overloadpacket.__name__
        masked = name.startswith("index") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool
            for i in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        self.synchronising += masked or any(name.startswith(kind) for kind in SYNCHRONISING)
        return func(*args, **(kwargs or {}))


def count(run: Callable[[], object]) -> Dispatched:
    """What one call dispatches."""
    with Dispatched() as seen:
        run()
    return seen


def circumstances() -> dict[str, Any]:
    """Versions, machine and load, for the JSON line."""
    return {
        "torch": torch.__version__, "cpu": platform.processor() or platform.machine(), "load": os.getloadavg()[0],
        "commit": commit(),
    }  # fmt: skip


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start
