"""`visuomotor report DIR`: write the HTML report of a run's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from visuomotor.cli.console import PathOrNone, parse, say


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write one self-contained HTML file about a run: data, learning curves, success table, controls, videos."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A run's folder (with data/, train/ and eval/ in it)."""
    out: PathOrNone = None
    """Where to write (default: report.html in the folder)."""


def run(arguments: list[str]) -> int:
    options = parse("report", Options, arguments)
    from visuomotor.apps.report import write_report

    say(f"report: {write_report(options.folder, options.out)}")
    return 0
