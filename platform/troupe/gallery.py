"""What `troupe samples` prints: a run's best and worst completions beside prompts and rewards."""

import json
import math
import statistics
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from troupe import samples
from troupe.blocks import ALARM, GAP, LABEL, TITLE, counted
from troupe.errors import UserError
from troupe.runs import RunFolder
from troupe.samples import Entry, plain, ranked

WIDEST = 120
NARROWEST = 60
LINES = 12
"""Of a text that are shown; the middle of a longer one is left out."""
FIGURE = 6
"""Columns of a reward, such as `-0.250`."""
LONGEST_LABEL = 14


def show(run: RunFolder, version: int | None, best: int, worst: int, *, as_json: bool) -> int:
    """Print samples of the newest weights, or of those after `version` updates.

    Raises:
        UserError: there are none, or a number is below 0.
    """
    for flag, count in (("--best", best), ("--worst", worst)):
        if count < 0:
            raise UserError(f"{flag}: {count} is below 0")
    entries = samples.read(run.samples, version)
    if not entries:
        raise _nothing(run)
    first, last = _ends(entries, best, worst)
    if as_json:
        data = {"version": entries[0].version, "samples": len(entries)}
        shown = {"best": [plain(e) for e in first], "worst": [plain(e) for e in last]}
        print(json.dumps({**data, **shown}))
        return 0
    console = Console()
    console.print(picture(run.name, entries, first, last, console.width))
    return 0


def picture(
    run: str,
    entries: Sequence[Entry],
    best: Sequence[Entry],
    worst: Sequence[Entry],
    width: int,
) -> RenderableType:
    """Everything there is to see, in at most `width` columns."""
    width = min(max(width, NARROWEST), WIDEST) - 2
    parts: list[RenderableType] = [_header(run, entries), _means(entries, width)]
    for title, chosen in (("best", best), ("worst", worst)):
        if chosen:
            parts += ["", _table(title, chosen, width)]
    return Padding(Group(*parts), (0, 1), expand=False)


def _ends(entries: Sequence[Entry], best: int, worst: int) -> tuple[list[Entry], list[Entry]]:
    """The best, the best first, and the worst, the worst first; none is in both."""
    order = ranked(entries)
    first = order[:best]
    rest = order[len(first) :]
    return first, rest[::-1][:worst]


def _nothing(run: RunFolder) -> UserError:
    there = samples.versions(run.samples)
    if there:
        return UserError(f"--step: the oldest samples of {run.name} are of step {there[0]}")
    return UserError(
        f"{run.name}: has no samples; runs of language models keep them once completions are judged"
    )


def _header(run: str, entries: Sequence[Entry]) -> Text:
    groups = len({entry.group for entry in entries})
    said = f"{counted(len(entries), 'sample')} of {counted(groups, 'prompt')}"
    after = f"after {counted(entries[0].version, 'update')}"
    return Text.assemble((run, f"{TITLE} cyan"), "  ", said, " ", (after, LABEL))


def _means(entries: Sequence[Entry], width: int) -> Text:
    """Means over all samples there are, by component, and how many were cut off or failed."""
    parts = [("reward", _mean([entry.reward for entry in entries]))]
    names = entries[0].rewards
    if len(names) > 1:
        parts += [(n, _mean([e.rewards.get(n, math.nan) for e in entries])) for n in names]
    parts.append(("tokens", f"{statistics.fmean(entry.tokens for entry in entries):.1f}"))
    cut = sum(entry.finish == "length" for entry in entries)
    parts.append(("cut off", f"{cut / len(entries):.0%}"))
    failed = sum(bool(entry.reason) for entry in entries)
    if failed:
        parts.append(("failed", str(failed)))
    return _filled([Text.assemble((name, LABEL), " ", value) for name, value in parts], width)


def _filled(parts: Sequence[Text], width: int) -> Text:
    """Parts side by side, none of them broken, in as many lines as that takes."""
    lines = [Text()]
    for part in parts:
        if lines[-1] and len(lines[-1]) + GAP + len(part) > width:
            lines.append(Text())
        lines[-1].append(" " * GAP if lines[-1] else "").append_text(part)
    return Text("\n").join(lines)


def _mean(values: Sequence[float]) -> str:
    sound = [value for value in values if not math.isnan(value)]
    return f"{statistics.fmean(sound):.3f}" if sound else "none"


def _table(title: str, entries: Sequence[Entry], width: int) -> Table:
    labels = max((len(name) for entry in entries for name in entry.rewards), default=0)
    labels = min(max(labels, len("reward")), LONGEST_LABEL)
    scores = labels + 1 + FIGURE
    prompt = (width - scores - 2 * GAP) * 2 // 5
    completion = width - scores - 2 * GAP - prompt
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style=LABEL)
    for name, columns in (
        (Text(title, TITLE), scores),
        ("prompt", prompt),
        ("completion", completion),
    ):
        table.add_column(name, width=columns)
    for place, entry in enumerate(entries):
        if place:
            table.add_row("")
        table.add_row(
            _scores(entry, labels), _asked(entry, prompt), _block(entry.completion, completion)
        )
    return table


def _scores(entry: Entry, labels: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column(width=labels, no_wrap=True, overflow="ellipsis")
    grid.add_column(width=FIGURE, justify="right", no_wrap=True)
    grid.add_row(Text("reward", TITLE), _figure(entry.reward, TITLE))
    if len(entry.rewards) > 1 or math.isnan(entry.reward):
        for name, value in entry.rewards.items():
            grid.add_row(Text(name, LABEL), _figure(value, ""))
    grid.add_row(Text("tokens", LABEL), Text(str(entry.tokens), LABEL))
    if entry.finish == "length":
        grid.add_row(Text("cut off", LABEL), "")
    return Group(grid, Text(visible(entry.reason), ALARM)) if entry.reason else grid


def _figure(value: float, style: str) -> Text:
    return Text("failed", ALARM) if math.isnan(value) else Text(f"{value:.3f}"[:FIGURE], style)


def _asked(entry: Entry, width: int) -> RenderableType:
    asked = _block(entry.prompt, width)
    if entry.answer is None:
        return asked
    answer = entry.answer if isinstance(entry.answer, str) else json.dumps(entry.answer)
    beside = len(answer) + len("answer ") <= width and "\n" not in answer
    label = Text("answer " if beside else "answer\n", LABEL)
    return Group(asked, label.append_text(_block(answer, width)))


def _block(text: str, width: int) -> Text:
    """A text wrapped to a width, in `LINES` lines: a long one without its middle."""
    if not text.strip():
        return Text("nothing", LABEL)
    lines = Text(visible(text)).wrap(Console(width=width), width)
    if len(lines) > LINES:
        head = LINES // 3
        tail = LINES - head - 1
        gap = Text(f"⋯ {len(lines) - head - tail} lines ⋯", LABEL)
        return Text("\n").join([*lines[:head], gap, *lines[-tail:]])
    return Text("\n").join(lines)


def visible(text: str) -> str:
    """A text that does nothing to a terminal: what would is shown as a sign."""
    return "".join(c if c == "\n" or c.isprintable() else _sign(c) for c in text.expandtabs(4))


def _sign(character: str) -> str:
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"
