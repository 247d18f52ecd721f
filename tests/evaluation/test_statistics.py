"""Golden values of the literature, and independent derivations of what no library offers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, chi2
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from visuomotor.evaluation.statistics import (
    Interval,
    Rate,
    boschloo,
    clopper_pearson,
    compare_independent,
    compare_many,
    compare_paired,
    holm,
    mcnemar,
    minimum_detectable_effect,
    newcombe,
    tango,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "score", "exact"),
    [
        (18, 20, (0.6990, 0.9721), (0.6830, 0.9877)),
        (48, 50, (0.8654, 0.9890), (0.8629, 0.9951)),
        (0, 10, (0.0, 0.2775), (0.0, 0.3085)),
        (500, 500, (0.9924, 1.0), (0.9926, 1.0)),
    ],
)
def test_intervals_of_one_rate(successes: int, n: int, score: tuple[float, float], exact: tuple[float, float]) -> None:
    for found, expected in ((wilson(successes, n), score), (clopper_pearson(successes, n), exact)):
        assert (found.low, found.high) == pytest.approx(expected, abs=6e-5)


def test_a_rate_reads_as_percent_interval_and_counts() -> None:
    assert str(Rate(29, 40)) == "72.5 % [57, 84] (29/40)"
    assert str(Rate(0, 0)) == "no episodes"
    assert wilson(0, 0) == Interval(0.0, 1.0)
    with pytest.raises(ValueError, match="5 successes of 4"):
        Rate(5, 4)


def test_independent_samples() -> None:
    found = compare_independent(Rate(17, 20), Rate(14, 20))
    assert found.difference == pytest.approx(0.15)
    assert (found.interval.low, found.interval.high) == pytest.approx((-0.111, 0.390), abs=6e-4)
    assert 0.2 < found.p_value < 0.5
    assert boschloo(Rate(20, 20), Rate(10, 20)) < 0.001
    flipped = newcombe(Rate(14, 20), Rate(17, 20))
    assert (-flipped.high, -flipped.low) == pytest.approx((found.interval.low, found.interval.high))


@given(st.integers(0, 30), st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_mcnemar_is_that_of_statsmodels(only_a: int, only_b: int) -> None:
    table = [[5, only_a], [only_b, 5]]
    expected = statsmodels_mcnemar(table, exact=True).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(min(1.0, float(expected)))


def likelihood_score(only_a: int, only_b: int, n: int, delta: float) -> float:
    """Tango's statistic squared, with the nuisance parameter from a numerical search of the likelihood."""

    def negative(rate_b: float) -> float:
        rates = np.array([rate_b + delta, rate_b, 1 - 2 * rate_b - delta])
        counts = np.array([only_a, only_b, n - only_a - only_b])
        return -float((counts * np.log(np.maximum(rates, 1e-300))).sum())

    low, high = max(0.0, -delta), (1 - delta) / 2
    rate_b = minimize_scalar(negative, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (only_a - only_b - n * delta) ** 2 / (n * (2 * rate_b + delta - delta**2))


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(12, 2, 50), (3, 9, 20), (1, 1, 40), (5, 0, 25), (7, 3, 10)])
def test_tango_ends_where_the_score_test_turns(only_a: int, only_b: int, n: int) -> None:
    found = tango(only_a, only_b, n)
    assert (only_a - only_b) / n in found
    for end in (found.low, found.high):
        assert likelihood_score(only_a, only_b, n, end) == pytest.approx(chi2.ppf(0.95, 1), rel=1e-3)
    swapped = tango(only_b, only_a, n)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), abs=1e-8)


def test_tango_without_discordant_pairs_and_at_the_edge() -> None:
    none = tango(0, 0, 30)
    assert none.low == pytest.approx(-none.high)
    assert 0 < none.high < 0.2
    assert tango(10, 0, 10).high == 1.0
    with pytest.raises(ValueError, match="cannot be the discordant"):
        tango(8, 8, 10)


def test_paired_outcomes() -> None:
    a, b = [True] * 12 + [False] * 8, [True] * 4 + [False] * 16
    found = compare_paired(a, b)
    assert found.difference == pytest.approx(0.4)
    assert found.p_value == pytest.approx(2 * 0.5**8)
    assert 0 not in found.interval
    with pytest.raises(ValueError, match="20 and 19"):
        compare_paired(a, b[1:])


def test_holm_and_the_set_that_cannot_be_told_apart() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    good = [True] * 40 + [False] * 5
    close = [True] * 39 + [False] * 6
    bad = [True] * 10 + [False] * 35
    found = compare_many({"good": good, "close": close, "bad": bad})
    assert found.p_value < 1e-6
    assert found.best == ("good", "close")
    assert found.pairs["good", "bad"] < 0.001
    same = compare_many({"one": good, "two": good})
    assert (same.p_value, same.best) == (1.0, ("one", "two"))


def test_minimum_detectable_effect_is_detected_at_its_power() -> None:
    effect = minimum_detectable_effect(100)
    assert 0.18 < effect < 0.21
    assert minimum_detectable_effect(400) < effect
    assert minimum_detectable_effect(100, baseline=0.8) == pytest.approx(minimum_detectable_effect(100, baseline=0.2))
    rng = np.random.default_rng(0)
    a = binom.rvs(100, 0.5, size=4000, random_state=rng) / 100
    b = binom.rvs(100, 0.5 + effect, size=4000, random_state=rng) / 100
    z = (b - a) / np.sqrt(np.maximum((a * (1 - a) + b * (1 - b)) / 100, 1e-9))
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.03)
