"""Contradictory and careless settings are refused; keys; metrics' text."""

from pathlib import Path
from typing import Any

import pytest

from visuomotor.serving.access import authorised
from visuomotor.serving.config import Limits, ServeConfig, read_api_keys, read_safety_limits
from visuomotor.serving.metrics import Counter, Histogram

KEYS = frozenset({"0123456789abcdef"})
TLS: dict[str, Any] = {"certificate": Path("c.pem"), "private_key": Path("k.pem")}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert ServeConfig(host=host).tls() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "robot.example", ""])
@pytest.mark.parametrize("settings", [{}, {"api_keys": KEYS}, TLS])
def test_other_addresses_want_keys_and_tls(host: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="API keys and a TLS certificate"):
        ServeConfig(host=host, **settings)
    ServeConfig(host=host, insecure=True, **settings)
    ServeConfig(host=host, **{**TLS, "api_keys": KEYS})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"openpi_port": None, "vla_eval_port": None}, "No protocol"),
        ({"openpi_port": 8000, "vla_eval_port": 8000}, "different ones"),
        ({"max_batch_size": 0}, "at least 1"),
        ({"execute": 0}, "at least 1"),
        ({"max_wait": -1.0}, "at least 0"),
        ({"certificate": Path("c.pem")}, "both files"),
        ({"api_keys": frozenset({"short"})}, "shorter than 16"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ServeConfig(**settings)


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="send_seconds is 0"):
        Limits(send_seconds=0)


def test_keys_are_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# robots\none\n\n two \n")
    assert read_api_keys(path) == {"one", "two"}
    path.write_text("# none\n")
    with pytest.raises(ValueError, match="no API key"):
        read_api_keys(path)


def test_safety_limits_come_from_json(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"step_length": 0.02, "workspace": [[0, 0, 0], [1, 1, 1]]}')
    assert read_safety_limits(path).step_length == 0.02
    for text in ("{", '{"speed": 1}', "[]"):
        path.write_text(text)
        with pytest.raises(ValueError, match="they are velocity, acceleration"):
            read_safety_limits(path)


@pytest.mark.parametrize(
    ("header", "right"),
    [
        ("Api-Key one", True), ("api-key  two ", True), ("Basic cm9ib3Q6b25l", True),  # robot:one
        (None, False), ("", False), ("one", False), ("Api-Key", False), ("Api-Key onetwo", False),
        ("Bearer one", False), ("Basic one", False), ("Basic b25l", False), ("Api-Key \udc80", False),
    ],
)  # fmt: skip
def test_keys_are_shown_in_the_header(header: str | None, right: bool) -> None:
    assert authorised(header, ["one", "two"]) is right
    assert authorised(header, []) is True


def test_a_wrong_certificate_is_told(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("nonsense")
    with pytest.raises(ValueError, match="no certificate"):
        ServeConfig(certificate=tmp_path / "c.pem", private_key=tmp_path / "k.pem").tls()


def test_metrics_in_prometheus_text() -> None:
    counter = Counter("errors_total", "Errors.", "kind")
    counter.add('a "b"\n')
    counter.add('a "b"\n', amount=2)
    assert list(counter.lines()) == [
        "# HELP errors_total Errors.", "# TYPE errors_total counter", 'errors_total{kind="a \\"b\\"\\n"} 3',
    ]  # fmt: skip
    histogram = Histogram("seconds", "Time.", (0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 3.0):
        histogram.observe(value)
    assert list(histogram.lines())[2:] == [
        'seconds_bucket{le="0.1"} 2', 'seconds_bucket{le="1"} 3', 'seconds_bucket{le="+Inf"} 4', "seconds_sum 3.65",
        "seconds_count 4",
    ]  # fmt: skip
