"""A table in the terminal, from one seat's side."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from troupe_actors.games.doudizhu.moves import PASS
from troupe_actors.games.doudizhu.names import describe, letters
from troupe_actors.games.doudizhu.view import View

SEATS: Final = ("landlord", "landlord_down", "landlord_up")


def render(view: View, seats: Sequence[str] = SEATS) -> RenderableType:
    """The table as `view.seat` sees it; `seats` are the names to show."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "seat", "cards", "latest move", "played so far"):
        table.add_column(
            heading, justify="right" if heading == "cards" else "left", style="default"
        )
    for seat, name in enumerate(seats):
        mark = Text("▶" if seat == view.mover and not view.over else " ", style="bold green")
        shown = Text(name, style="bold" if seat == view.seat else "")
        shown.append("  you" if seat == view.seat else "", style="dim")
        left = Text(str(view.left[seat]), style="bold red" if view.left[seat] <= 2 else "")
        table.add_row(mark, shown, left, _move(view, seat), cards(view.played[seat], "dim"))
    hand = Text.assemble(("hand    ", "dim"), cards(view.hand, "bold"))
    unseen = Text.assemble(("unseen  ", "dim"), cards(view.unseen, "dim"))
    title = f"deal {view.group} · {_situation(view, seats)}"
    return Panel(
        Group(table, Text(), hand, unseen),
        title=title,
        title_align="left",
        subtitle=_stake(view),
        subtitle_align="right",
        expand=False,
        padding=(1, 2),
    )


def text(view: View, seats: Sequence[str] = SEATS) -> str:
    """The same as plain text, 100 columns wide."""
    console = Console(width=100, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(view, seats))
    return capture.get()


def cards(word: int, style: str = "") -> Text:
    """A set of cards, ranks spaced and jokers in colour."""
    shown = Text(style=style)
    previous = ""
    for letter in letters(word):
        shown.append(" " if previous and letter != previous else "")
        shown.append(letter, style={"B": "cyan", "R": "red"}.get(letter))
        previous = letter
    return shown


def _move(view: View, seat: int) -> Text:
    move = view.latest[seat]
    if move is None:
        return Text("")
    on_table = move != PASS and seat == view.to_beat_by and move == view.to_beat
    return Text(describe(move), style="bold yellow" if on_table else "dim")


def _situation(view: View, seats: Sequence[str]) -> str:
    mover = "you" if view.mover == view.seat else seats[view.mover]
    if view.over:
        return f"{mover} played out"
    if view.to_beat == PASS:
        return f"{mover} lead" if mover == "you" else f"{mover} leads"
    beaten = "your" if view.to_beat_by == view.seat else f"{seats[view.to_beat_by]}'s"
    return f"{mover} to beat {beaten} {describe(view.to_beat)}"


def _stake(view: View) -> str | None:
    return f"{view.bombs} bomb{'s' * (view.bombs > 1)}" if view.bombs else None
