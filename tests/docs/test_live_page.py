"""docs/live-page.md runs, and the options that it names exist."""

import re
from pathlib import Path

from tests.docs.guide import DOCS, follow
from visuomotor.cli.play import Options

GUIDE = DOCS / "live-page.md"


def test_the_guide_runs(tmp_path: Path) -> None:
    follow(GUIDE, tmp_path)


def test_every_option_exists_and_is_named() -> None:
    options = {name for name in Options.__dataclass_fields__ if name not in ("checkpoint", "seed")}
    named = re.findall(r"--([a-z][\w-]*)", GUIDE.read_text().partition("## Beside a policy server")[0])
    assert {name.replace("-", "_") for name in named} == options
