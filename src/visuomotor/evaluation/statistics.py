"""Statistics of success rates: intervals, comparisons and what a study of a given size can detect.

Same scenarios for both policies (same task, initial state and seed): `compare_paired`, `compare_many`.
Different scenarios: `compare_independent`. Nothing here ranks: overlapping rates are reported as a set.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a rate or of a difference of rates, as fractions."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Rate:
    """`successes` of `n` trials with its 95 % Wilson interval; prints as "72.5 % [57, 84] (29/40)"."""

    successes: int
    n: int

    json_properties: ClassVar = ("value", "low", "high")

    def __post_init__(self) -> None:
        _check_counts(self.successes, self.n)

    @property
    def value(self) -> float:
        return self.successes / self.n if self.n else math.nan

    @property
    def interval(self) -> Interval:
        return wilson(self.successes, self.n)

    @property
    def low(self) -> float:
        return self.interval.low

    @property
    def high(self) -> float:
        return self.interval.high

    def __str__(self) -> str:
        if not self.n:
            return "no episodes"
        interval = f"[{100 * self.low:.0f}, {100 * self.high:.0f}]"
        return f"{100 * self.value:.1f} % {interval} ({self.successes}/{self.n})"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A against B: difference of the rates (A - B), its 95 % interval and the p-value of an exact test."""

    difference: float
    interval: Interval
    p_value: float
    method: str


@dataclass(frozen=True, kw_only=True)
class ManyComparison:
    """Cochran's Q over all, Holm-adjusted pairwise p-values, and who cannot be told apart from the best."""

    p_value: float
    pairs: dict[tuple[str, str], float]
    best: tuple[str, ...]


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a rate; [0, 1] without trials."""
    return _one_rate(successes, n, confidence, "wilson")


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact (conservative) interval of a rate, preferred near 0 and 1; [0, 1] without trials."""
    return _one_rate(successes, n, confidence, "exact")


def newcombe(a: Rate, b: Rate, confidence: float = 0.95) -> Interval:
    """Newcombe's hybrid score interval of a.value - b.value for independent samples."""
    if not a.n or not b.n:
        return Interval(-1.0, 1.0)
    from statsmodels.stats.proportion import confint_proportions_2indep

    alpha = 1 - confidence
    found: Any = confint_proportions_2indep(
        a.successes, a.n, b.successes, b.n, compare="diff", method="newcomb", alpha=alpha
    )
    return Interval(float(found[0]), float(found[1]))


def boschloo(a: Rate, b: Rate) -> float:
    """Two-sided p-value of Boschloo's exact test for independent samples."""
    from scipy.stats import boschloo_exact

    table = [[a.successes, b.successes], [a.n - a.successes, b.n - b.successes]]
    return float(boschloo_exact(table).pvalue)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar p-value from the discordant pairs (A alone succeeded, B alone succeeded)."""
    from scipy.stats import binomtest

    discordant = only_a + only_b
    return float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


def tango(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> Interval:
    """Tango's score interval of the difference (A - B) of paired rates over `n` pairs (Tango 1998, eq. 3-5)."""
    if only_a < 0 or only_b < 0 or only_a + only_b > n or n < 1:
        raise ValueError(f"Of {n} pairs, {only_a} and {only_b} cannot be the discordant ones.")
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf(0.5 + confidence / 2))
    estimate = (only_a - only_b) / n
    edge = 1 - 1e-12

    def bound(side: int) -> float:
        def excess(delta: float) -> float:
            return side * _tango_score(only_a, only_b, n, delta) + z

        start, end = estimate, side * edge
        if side * estimate >= edge or excess(end) > 0:
            return float(side)
        low, high = sorted((start, end))
        root: Any = brentq(excess, low, high, xtol=1e-12)
        return float(root)

    return Interval(bound(-1), bound(1))


def compare_independent(a: Rate, b: Rate) -> Comparison:
    """Two policies measured on different scenarios."""
    return Comparison(
        difference=a.value - b.value,
        interval=newcombe(a, b),
        p_value=boschloo(a, b),
        method="Newcombe interval, Boschloo's exact test",
    )


def compare_paired(a: Sequence[bool], b: Sequence[bool]) -> Comparison:
    """Two policies (or conditions) measured on the same scenarios, in the same order."""
    if len(a) != len(b) or not len(a):
        raise ValueError(
            f"A paired comparison needs the same scenarios for both; given {len(a)} and {len(b)} outcomes."
        )
    only_a = sum(bool(x) and not y for x, y in zip(a, b, strict=True))
    only_b = sum(bool(y) and not x for x, y in zip(a, b, strict=True))
    return Comparison(
        difference=(only_a - only_b) / len(a),
        interval=tango(only_a, only_b, len(a)),
        p_value=mcnemar(only_a, only_b),
        method="Tango interval, exact McNemar test",
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values, in the given order."""
    if not len(p_values):
        return []
    from statsmodels.stats.multitest import multipletests

    adjusted: Any = multipletests(list(p_values), method="holm")[1]
    return [float(p) for p in adjusted]


def compare_many(outcomes: Mapping[str, Sequence[bool]], alpha: float = 0.05) -> ManyComparison:
    """Several policies on the same scenarios. `best` holds all that Holm cannot separate from the highest rate."""
    lengths = {name: len(values) for name, values in outcomes.items()}
    if len(outcomes) < 2 or len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"Comparing several policies needs two or more with the same scenarios; given {lengths}.")
    from statsmodels.stats.contingency_tables import cochrans_q

    table = np.array([list(map(int, values)) for values in outcomes.values()]).T
    identical = bool((table == table[:, :1]).all())  # Q is 0/0 there
    p_value = 1.0 if identical else float(cochrans_q(table).pvalue)
    names = list(combinations(outcomes, 2))
    adjusted = holm([compare_paired(outcomes[a], outcomes[b]).p_value for a, b in names])
    pairs = dict(zip(names, adjusted, strict=True))
    top = max(outcomes, key=lambda name: sum(map(bool, outcomes[name])))
    apart = {name for pair, p in pairs.items() if p < alpha and top in pair for name in pair} - {top}
    best = tuple(outcomes) if p_value >= alpha else tuple(name for name in outcomes if name not in apart)
    return ManyComparison(p_value=p_value, pairs=pairs, best=best)


def minimum_detectable_effect(n: int, baseline: float = 0.5, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest difference of rates that two independent samples of `n` each show with the given power.

    Arcsine approximation; measured from `baseline` towards 0.5 and beyond, the side with the larger variance.
    """
    if n < 2 or not 0 <= baseline <= 1:
        raise ValueError(f"Expected n >= 2 and a baseline within 0 and 1; given n={n}, baseline={baseline}.")
    from statsmodels.stats.power import NormalIndPower

    effect: Any = NormalIndPower().solve_power(nobs1=n, alpha=alpha, power=power, alternative="two-sided")
    angle = math.asin(math.sqrt(baseline))
    other = angle - float(effect) / 2 if baseline > 0.5 else angle + float(effect) / 2
    return abs(math.sin(min(max(other, 0.0), math.pi / 2)) ** 2 - baseline)


def _check_counts(successes: int, n: int) -> None:
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials is not a rate.")


def _one_rate(successes: int, n: int, confidence: float, method: str) -> Interval:
    _check_counts(successes, n)
    if not n:
        return Interval(0.0, 1.0)
    from scipy.stats import binomtest

    found = binomtest(int(successes), int(n)).proportion_ci(confidence, method=method)
    return Interval(float(found.low), float(found.high))


def _tango_score(only_a: int, only_b: int, n: int, delta: float) -> float:
    """Score of the difference `delta`, with its nuisance parameter at the restricted maximum likelihood."""
    a = 2 * n
    b = -only_a - only_b + (2 * n - only_a + only_b) * delta
    c = -only_b * delta * (1 - delta)
    rate_b = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * rate_b + delta * (1 - delta))
    distance = only_a - only_b - n * delta
    if variance <= 1e-15:
        return 0.0 if abs(distance) < 1e-12 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)
