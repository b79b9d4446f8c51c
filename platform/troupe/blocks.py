"""What the live view's picture is made of: titled blocks of lines, bars, numbers in few places."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

GAP = 3
LABEL, TITLE, ACCENT, ALARM = "dim", "bold", "cyan", "bold red"


@dataclass(frozen=True, slots=True)
class Block:
    """A title and lines below it."""

    title: str
    rows: Table

    @property
    def height(self) -> int:
        """Lines that it takes."""
        return 1 + self.rows.row_count + self.rows.show_header

    def __rich__(self) -> RenderableType:
        return Group(Text(self.title, TITLE, no_wrap=True), self.rows)


def bar(share: float, width: int) -> ProgressBar:
    """A share of 1."""
    return ProgressBar(
        total=1.0, completed=share, width=width, complete_style=ACCENT, finished_style=ACCENT
    )


def lines(*justify: str, header: Sequence[str] = ()) -> Table:
    """Rows without rules, columns to the `left` or `right`."""
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        show_header=bool(header),
        header_style=LABEL,
    )
    for side, title in zip(justify, header or [""] * len(justify), strict=True):
        table.add_column(title, justify="right" if side == "right" else "left", no_wrap=True)
    return table


def figure(value: float, form: str) -> Text:
    """A number, which alarms where it is none."""
    return Text(format(value, form), "" if math.isfinite(value) else ALARM)


def clock_text(seconds: float) -> str:
    """`4:05`, `1:02:09`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def counted(count: int, noun: str) -> str:
    """`1 restart`, `2 restarts`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def short(count: float) -> str:
    """A count in few places: `912`, `48.2 k`, `1.49 M`."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            digits = 2 - min(2, int(math.log10(count / size + 0.0005)))
            return f"{count / size:.{digits}f} {sign}"
    return f"{count:,.0f}"
