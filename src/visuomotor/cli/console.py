"""What the verbs share: the console, a progress bar, a table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

console = Console(highlight=False)

Number = Annotated[int | None, tyro.conf.arg(metavar="INT")]
PathOrNone = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


def parse(verb: str, options: Any, arguments: list[str], *, unknown: bool = False) -> Any:
    """Parse `arguments` into the dataclass `options`; with `unknown` also returns what was not recognised."""
    return tyro.cli(options, args=arguments, prog=f"visuomotor {verb}", return_unknown_args=unknown)


def say(text: str) -> None:
    """Print text as it is: no markup, and lines are not cut to the width of the window, so that paths stay whole."""
    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(description: str, *, transient: bool = False) -> Iterator[Any]:
    """A progress bar; yields `update(completed, total, note="")`. The bar itself gives way, so that words stay whole.

    A `transient` one disappears when it ends, and is not shown at all where the output is no terminal.
    """
    whole = Column(no_wrap=True)
    columns = (
        TextColumn("{task.description}", table_column=whole),
        BarColumn(None, table_column=Column(ratio=1, min_width=4)),
        MofNCompleteColumn(table_column=whole),
        TextColumn("{task.fields[note]}", table_column=whole),
        TimeElapsedColumn(table_column=whole),
        TextColumn("<", table_column=whole),
        TimeRemainingColumn(compact=True, table_column=whole),
    )
    hidden = transient and not console.is_terminal
    with Progress(*columns, console=console, transient=transient, disable=hidden, expand=True) as progress:
        task = progress.add_task(description, total=None, note="")

        def update(completed: int, total: int, note: str = "") -> None:
            progress.update(task, completed=completed, total=total, note=note)

        yield update


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; the first column is text, the others are aligned to the right. No cell is ever cut."""
    out = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for index, name in enumerate(columns):
        out.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        out.add_row(*(escape(str(cell)) for cell in row))
    wide = console.options.update(width=10_000)
    out.width = Measurement.get(console, wide, out).maximum
    console.print(out, crop=False)
