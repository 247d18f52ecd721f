"""Logs as lines of JSON: time, level, event, and the fields that were given with it."""

import json
import logging
from typing import Any

__all__ = ["JsonFormatter", "configure"]

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object in each line; fields come from `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, event and fields for people."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f"  {key}={value}" for key, value in _fields(record).items())
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} {record.message}{fields}"


def configure(*, json_lines: bool, level: str = "info") -> None:
    """Send the server's log to standard error, as lines of JSON or as text."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if json_lines else TextFormatter())
    logger = logging.getLogger("visuomotor.serving")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level.upper())
    logging.getLogger("visuomotor.serving.websockets").setLevel("WARNING")  # it tells of every handshake


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
