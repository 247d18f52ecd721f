"""Text from the command line to plain values."""

import json
from typing import Any


def typed(text: str) -> Any:
    """'3' -> 3, 'true' -> True, '[1, 2]' -> list; anything that is not JSON stays text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
