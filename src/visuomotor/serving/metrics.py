"""Counters, gauges and histograms in Prometheus' text format (version 0.0.4).

Only the event loop writes and reads them, so they need no lock.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator

__all__ = ["Counter", "Gauge", "Histogram", "ServingMetrics"]

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Counter:
    """Numbers that only grow, one for each combination of labels."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.values: dict[tuple[str, ...], float] = defaultdict(float)

    def add(self, *labels: str, amount: float = 1.0) -> None:
        self.values[labels] += amount

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.text, "counter")
        for values, number in self.values.items():
            yield f"{self.name}{_labels(self.labels, values)} {number:g}"


class Gauge:
    """A number that is asked for when it is shown."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.name, self.text, self.read = name, text, read

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.text, "gauge")
        yield f"{self.name} {self.read():g}"


class Histogram:
    """How often a value was at most each of `bounds`."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> None:
        self.name, self.text, self.bounds, self.labels = name, text, bounds, labels
        self.counts: dict[tuple[str, ...], list[int]] = {}
        self.sums: dict[tuple[str, ...], float] = defaultdict(float)

    def observe(self, value: float, *labels: str) -> None:
        counts = self.counts.setdefault(labels, [0] * (len(self.bounds) + 1))
        counts[bisect_left(self.bounds, value)] += 1
        self.sums[labels] += value

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self.text, "histogram")
        for values, counts in self.counts.items():
            total = 0
            for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
                total += count
                limit = "+Inf" if bound == float("inf") else f"{bound:g}"
                yield f"{self.name}_bucket{_labels((*self.labels, 'le'), (*values, limit))} {total}"
            yield f"{self.name}_sum{_labels(self.labels, values)} {self.sums[values]:g}"
            yield f"{self.name}_count{_labels(self.labels, values)} {total}"


class ServingMetrics:
    """What a policy server counts; `text` is the page that Prometheus reads."""

    def __init__(
        self, *, connections: Callable[[], float], waiting: Callable[[], float], ready: Callable[[], float]
    ) -> None:
        self.requests = Counter("visuomotor_requests_total", "Answered requests.", "protocol", "outcome")
        self.latency = Histogram("visuomotor_request_seconds", "From frame to answer.", SECONDS, "protocol")
        self.inference = Histogram("visuomotor_inference_seconds", "One forward pass of the policy.", SECONDS)
        self.batches = Histogram("visuomotor_batch_size", "Requests of one forward pass.", SIZES)
        self.errors = Counter("visuomotor_errors_total", "Requests that got an error.", "protocol", "kind")
        self.interventions = Counter(
            "visuomotor_interventions_total", "Actions changed by the safety filter.", "reason"
        )
        self.refused = Counter("visuomotor_refused_total", "Connections that were refused.", "reason")
        self._all = [
            self.requests, self.latency, self.inference, self.batches, self.errors, self.interventions, self.refused,
            Gauge("visuomotor_connections", "Connected clients.", connections),
            Gauge("visuomotor_waiting", "Requests that wait for the policy.", waiting),
            Gauge("visuomotor_ready", "1 when requests are answered.", ready),
        ]  # fmt: skip

    def text(self) -> str:
        return "\n".join(line for metric in self._all for line in metric.lines()) + "\n"


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    if not names:
        return ""
    escaped = (v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for v in values)
    return "{" + ",".join(f'{n}="{v}"' for n, v in zip(names, escaped, strict=True)) + "}"
