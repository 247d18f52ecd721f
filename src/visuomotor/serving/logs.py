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
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(*, json_lines: bool, level: str = "info") -> None:
    """Send the server's log to standard error, as lines of JSON or as text."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if json_lines else text)
    logger = logging.getLogger("visuomotor.serving")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level.upper())
    logging.getLogger("visuomotor.serving.websockets").setLevel("WARNING")  # it tells of every handshake
