"""The live view's picture: a frame drawn for a terminal of a given size."""

import math
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from troupe import text_blocks
from troupe.blocks import (
    ACCENT,
    ALARM,
    GAP,
    LABEL,
    TITLE,
    Block,
    bar,
    clock_text,
    counted,
    lines,
    short,
)
from troupe.frame import Completions, Evaluation, Frame, Learned, Returns

WIDEST = 100
NARROW = 76
"""Columns below which all blocks stand below each other."""
HEADER, NOTES = 2, 3
FOOTER = 3 + NOTES
"""Lines below the blocks: one blank, one on the machine, one on waiting, and a few events."""
SCALE = "0        ½        1"
MOST_SCALARS = 6
"""Of an algorithm's numbers, in a block."""


class Happening(NamedTuple):
    """An event and its Unix time."""

    time: float
    text: str


def picture(
    run: str,
    game: str,
    frame: Frame | None,
    events: Iterable[Happening],
    width: int,
    height: int,
) -> RenderableType:
    """Everything there is to see, in about `height` lines of at most `width` columns."""
    width = min(width, WIDEST) - 2
    parts: list[RenderableType] = [_header(run, game, frame, width)]
    left = height - HEADER - FOOTER
    if frame is not None:
        for row in _rows(frame, width, left):
            needed = 1 + max(block.height for block in row)
            if needed <= left:
                left -= needed
                parts += ["", _beside(row, width)]
        parts += ["", _machine(frame), _reason(frame)]
    notes = list(events)[-(left + NOTES) :]
    parts += [_note(happening) for happening in notes]
    return Padding(Group(*parts), (0, 1), expand=False)


def _rows(frame: Frame, width: int, height: int) -> list[list[Block]]:
    if frame.completions is not None:
        return _text_rows(frame, frame.completions, width, height)
    if width + 2 < NARROW:
        return [
            [block]
            for block in (_throughput(frame), _play(frame), _learning(frame), _flow(frame, width))
        ]
    column = (width - GAP) // 2
    return [
        [_throughput(frame), _learning(frame)],
        [_flow(frame, column), _play(frame)],
    ]


def _text_rows(
    frame: Frame, completions: Completions, width: int, height: int
) -> list[list[Block]]:
    """Of a language model; what can be left out of a block is, where the terminal is low."""
    narrow = width + 2 < NARROW
    made = text_blocks.throughput(frame, completions)
    judged = text_blocks.rewards(frame, completions, height - text_blocks.FEWEST - 2)
    above = judged.height if narrow else max(judged.height, made.height)
    left = height - above - 2
    told = text_blocks.learning(next(iter(frame.learned), None), left)
    flow = text_blocks.flow(frame, completions, left)
    return [[judged], [told], [made], [flow]] if narrow else [[made, judged], [flow, told]]


def _beside(blocks: Sequence[Block], width: int) -> RenderableType:
    if len(blocks) == 1:
        return blocks[0]
    grid = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    for _ in blocks:
        grid.add_column(width=(width - GAP) // 2)
    grid.add_row(*blocks)
    return grid


def _header(run: str, game: str, frame: Frame | None, width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True, ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    grid.width = width
    name = Text.assemble((run, f"{TITLE} {ACCENT}"), "  ", (game, LABEL))
    if frame is None:
        grid.add_row(name, Text("starting", LABEL))
        return Group(grid, _line(bar(0.0, width)))
    if frame.attempt > 1:
        name.append(f", attempt {frame.attempt}", LABEL)
    grid.add_row(name, _clock(frame))
    return Group(grid, _line(bar(frame.progress or 0.0, width)))


def _clock(frame: Frame) -> Text:
    text = Text(clock_text(frame.elapsed))
    if not frame.training:
        return text.append("  starting", LABEL)
    if frame.progress is not None:
        text.append(f"   {frame.progress:.0%}")
    if frame.seconds_left is not None:
        text.append("   ").append(clock_text(frame.seconds_left), TITLE).append(" left", LABEL)
    return text


def _throughput(frame: Frame) -> Block:
    rows = lines("left", "right", "right")
    rows.columns[1].min_width = 10
    rows.columns[2].min_width = 9
    for name, rate, total in (
        (frame.played, f"{frame.decisions_per_second:,.0f}", frame.decisions),
        ("trained steps", f"{frame.steps_per_second:,.0f}", frame.step),
        ("updates", f"{frame.updates_per_second:.1f}", frame.updates),
    ):
        rows.add_row(
            Text(name, LABEL), Text.assemble(rate, (" /s", LABEL)), Text(short(total), LABEL)
        )
    return Block("Throughput", rows)


def _learning(frame: Frame) -> Block:
    if frame.returns is not None:
        return _scalars(frame.learned[0]) if frame.learned else Block("Learning", lines("left"))
    rated = any(policy.elo is not None for policy in frame.learned)
    header = ("", "loss", "updates", "lag", *(("Elo",) if rated else ()))
    rows = lines("left", *("right" for _ in header[1:]), header=header)
    for column, width in zip(rows.columns[1:], (7, 7, 3, 4), strict=False):
        column.min_width = width
    for policy in frame.learned:
        loss = "" if policy.loss is None else f"{policy.loss:.4f}"
        rows.add_row(
            Text(policy.policy, LABEL, overflow="ellipsis"),
            Text(loss, "" if math.isfinite(policy.loss or 0.0) else ALARM),
            f"{policy.updates:,}",
            "" if policy.lag is None else str(policy.lag),
            *(("" if policy.elo is None else f"{policy.elo:.0f}",) if rated else ()),
        )
    return Block("Learning", rows)


def _scalars(learned: Learned) -> Block:
    """What the algorithm tells of its one policy: losses first, then the rest."""
    rows = lines("left", "right")
    rows.columns[1].min_width = 9
    losses = [name for name in learned.scalars if name.endswith("_loss")]
    others = [name for name in learned.scalars if name not in ("loss", *losses)]
    for name in (losses + others)[:MOST_SCALARS]:
        value = learned.scalars[name]
        shown = Text(f"{value:.4g}", "" if math.isfinite(value) else ALARM)
        rows.add_row(Text(name.replace("_", " "), LABEL), shown)
    behind = "" if learned.lag is None else f", actors {learned.lag} behind"
    return Block(f"Learning{behind}", rows)


def _flow(frame: Frame, width: int) -> Block:
    rows = lines("left", "left")
    if frame.capacity:
        filled = Table.grid(padding=(0, 1, 0, 0))
        filled.add_row(bar(frame.queue_fill, max(width - 20, 8)), f"{frame.queue_fill:>4.0%}")
        rows.add_row(Text("queue", LABEL), filled)
        rows.add_row("", Text(f"{frame.backlog:,} of {frame.capacity:,} steps", LABEL))
    else:
        rows.add_row(Text("queue", LABEL), f"{frame.backlog:,} steps")
    if frame.staleness is not None:
        stale = f"{frame.staleness:.1f} updates, at most {frame.staleness_max or 0:.0f}"
        rows.add_row(Text("staleness", LABEL), stale)
    for phrase in frame.waits.phrases():
        rows.add_row(Text("waiting", LABEL), phrase)
    return Block("Flow", rows)


def _play(frame: Frame) -> Block:
    if frame.returns is not None:
        return _returns(frame, frame.returns)
    if not frame.evaluations:
        rows = lines("left")
        rows.add_row(Text("no evaluation yet", LABEL))
        return Block("Play", rows)
    rows = lines("left", "right", "left", header=("", "WP", SCALE))
    for evaluation in frame.evaluations:
        opponent = Text(evaluation.opponent, LABEL, overflow="ellipsis")
        rows.add_row(opponent, f"{evaluation.wp:.3f}", interval(evaluation))
    if frame.nash_conv is not None:
        rows.add_row(Text("NashConv", LABEL), f"{frame.nash_conv:.3f}", "")
    return Block(f"Play, after {short(frame.evaluated)} steps", rows)


def _returns(frame: Frame, returns: Returns) -> Block:
    rows = lines("left", "right", "left", "right", header=("", "return", "95 %", "length"))
    playing, judged = returns.playing, returns.judged
    rows.add_row(Text("playing", LABEL), _figure(playing), "", _figure(returns.playing_length))
    spread = ""
    if judged is not None and returns.judged_high is not None:
        spread = f"± {returns.judged_high - judged:.1f}"
    length = _figure(returns.judged_length)
    rows.add_row(Text("judged", LABEL), _figure(judged), Text(spread, LABEL), length)
    after = "" if judged is None else f", judged after {short(frame.evaluated)} steps"
    return Block(f"Episodes{after}", rows)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def interval(evaluation: Evaluation, width: int = len(SCALE)) -> Text:
    """The win rate on a line from 0 to 1, with its confidence interval."""
    low, here, high = (
        round(min(max(share, 0.0), 1.0) * (width - 1))
        for share in (evaluation.wp_low, evaluation.wp, evaluation.wp_high)
    )
    text = Text()
    for place in range(width):
        inside = low <= place <= high
        sign = "●" if place == here else "━" if inside else "─"
        text.append(sign, ACCENT if inside or place == here else LABEL)
    return text


def _machine(frame: Frame) -> Text:
    saved = frame.reported.get("learner/checkpoint_step")
    parts = [
        counted(frame.workers, "worker"),
        f"{frame.memory_mb:,.0f} MB",
        counted(frame.restarts, "restart") if frame.restarts else "",
        f"saved at step {saved:,.0f}" if saved else "",
    ]
    return Text(" · ".join(filter(None, parts)), LABEL, no_wrap=True, overflow="ellipsis")


def _reason(frame: Frame) -> Text:
    reason = frame.waiting_for if frame.waits.noticeable else ""
    return Text(reason, LABEL, no_wrap=True, overflow="ellipsis")


def _note(happening: Happening) -> Text:
    at = time.strftime("%H:%M:%S", time.localtime(happening.time))
    note = Text(no_wrap=True, overflow="ellipsis")
    return note.append(f"{at}  ", LABEL).append(happening.text)


def _line(bar: RenderableType) -> Table:
    """The bar with the end of line that it lacks."""
    grid = Table.grid()
    grid.add_row(bar)
    return grid
