"""Logs: every field that was given is in the line, as JSON and as text."""

import json
import logging

import pytest

from visuomotor.serving.logs import configure


@pytest.mark.parametrize("json_lines", [True, False])
def test_fields_and_tracebacks_are_in_the_line(json_lines: bool, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("visuomotor.serving")
    before = logger.handlers, logger.propagate, logger.level
    try:
        configure(json_lines=json_lines, level="warning")
        logger.info("not shown")
        try:
            raise KeyError("weights")
        except KeyError:
            logger.exception("request refused", extra={"protocol": "openpi", "count": 3, "path": {1}})
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])
    out = capsys.readouterr().err
    assert "not shown" not in out
    if json_lines:
        line = json.loads(out)
        assert (line["level"], line["event"], line["protocol"], line["count"]) == (
            "error",
            "request refused",
            "openpi",
            3,
        )
        assert "KeyError: 'weights'" in line["traceback"]
        assert set(line) == {"time", "level", "event", "protocol", "count", "path", "traceback"}
    else:
        assert "ERROR   request refused  protocol=openpi  count=3" in out
        assert "KeyError: 'weights'" in out
