"""docs/serving.md runs, with the policy that comes with the package."""

import os
import signal
from pathlib import Path

from tests.docs.guide import DOCS, follow

CHECKPOINT = DOCS.parent / "src" / "visuomotor" / "checkpoints" / "tabletop-nano"


def test_the_guide_runs_and_the_server_stops_in_good_order(tmp_path: Path) -> None:
    (tmp_path / "my-policy").symlink_to(CHECKPOINT)
    try:
        follow(DOCS / "serving.md", tmp_path)
    finally:
        pid = int((tmp_path / "serve.pid").read_text())
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pid = 0
    log = (tmp_path / "serve.log").read_text()
    assert "request refused" in log
    assert "has 3 numbers but embodiment 'tabletop_arm' has 7" in log
