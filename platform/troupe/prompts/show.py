"""What `troupe prompts` prints."""

import json
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import pydantic
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from troupe.errors import UserError
from troupe.prompts.record import FILE
from troupe.runs import RunFolder

Share = Annotated[int, pydantic.Field(ge=0)]
LABEL, TITLE, ALARM = "dim", "bold", "bold red"
_SOME = 5
"""Of the dead, unless all are asked for."""


class Leased(pydantic.BaseModel, frozen=True):
    """A prompt in somebody's hands."""

    prompt: Share
    epoch: Share
    holder: str
    seconds: float
    left: float


class Dead(pydantic.BaseModel, frozen=True):
    """A prompt that was put aside."""

    prompt: Share
    epoch: Share
    text: str
    deliveries: Share
    time: float
    reason: str


class Record(pydantic.BaseModel, frozen=True):
    """A run's prompts, as `troupe.prompts.record` wrote them down."""

    time: float
    prompts: Share
    epoch: Share
    epochs: Share
    ready: Share
    returned: Share
    leased: tuple[Leased, ...]
    waiting: int
    done: Share
    dropped: dict[str, int]
    dead_count: Share
    dead: tuple[Dead, ...]


def show(run: RunFolder, *, dead: bool, as_json: bool) -> int:
    """Print how a run stands with its prompts, or how it stood when it ended; the exit code.

    Raises:
        UserError: it has no prompts, or has not brought them yet.
    """
    record = read(run)
    running = run.status().state == "running"
    if as_json:
        document = record.model_dump(mode="json")
        chosen = document["dead"] if dead else {"state": run.status().state, **document}
        print(json.dumps(chosen))
        return 0
    console = Console()
    if dead:
        console.print(_dead(record.dead, record.dead_count))
        return 0
    console.print(Group(*_parts(record, run.name, running, time.time())))
    return 0


def read(run: RunFolder) -> Record:
    """What was written down last.

    Raises:
        UserError: nothing was, or it is not to be read.
    """
    path = run.path / FILE
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{run.path}: no prompts: this run has none, or has not brought them into the store yet"
        ) from None
    except (OSError, pydantic.ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read: {reason}; a running run writes it anew") from None


def _parts(record: Record, name: str, running: bool, now: float) -> Iterator[RenderableType]:
    ago = f"{now - record.time:.0f} s ago" if running else f"when it ended, {_clock(record.time)}"
    of = f" of {record.epochs}" if record.epochs else ""
    heading = f"{record.prompts:,} prompts, epoch {record.epoch + 1}{of}, as they were {ago}"
    yield Text.assemble((name, TITLE), "  ", (heading, LABEL))
    yield ""
    yield _counts(record)
    if record.leased:
        yield ""
        yield _holders(record.leased)
    if record.dead:
        yield ""
        yield _dead(record.dead[:_SOME], record.dead_count)


def _counts(record: Record) -> Table:
    table = _table(("", "left"), ("prompts", "right"), ("", "left"))
    came_back = f"{record.returned:,} came back unanswered" if record.returned else ""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in record.dropped.items())
    rows = (
        ("ready", record.ready, came_back),
        ("leased", len(record.leased), ""),
        ("done", record.done, f"{record.waiting:,} wait for the learner"),
        ("dropped", sum(record.dropped.values()), reasons),
    )
    for label, count, note in rows:
        table.add_row(label, f"{count:,}", Text(note, LABEL))
    style = ALARM if record.dead_count else ""
    table.add_row("dead", Text(f"{record.dead_count:,}", style), "")
    return table


def _holders(leased: Sequence[Leased]) -> Table:
    table = _table(("leased by", "left"), ("prompts", "right"), ("longest", "right"),
                   ("lost in", "right"))  # fmt: skip
    for holder in sorted({lease.holder for lease in leased}):
        own = [lease for lease in leased if lease.holder == holder]
        longest, left = max(o.seconds for o in own), min(o.left for o in own)
        table.add_row(holder, f"{len(own):,}", f"{longest:.0f} s", f"{max(left, 0):.0f} s")
    return table


def _dead(dead: Sequence[Dead], count: int) -> RenderableType:
    if not dead:
        return Text("no prompt is dead", LABEL)
    table = _table(("dead", "right"), ("tries", "right"), ("at", "left"), ("reason", "left"),
                   ("prompt", "left"))  # fmt: skip
    for one in dead:
        table.add_row(f"{one.prompt}", f"{one.deliveries}", _clock(one.time), Text(one.reason),
                      Text(one.text, no_wrap=True, overflow="ellipsis"))  # fmt: skip
    if count == len(dead):
        return table
    return Group(table, Text(f"and {count - len(dead):,} more: --dead shows them", LABEL))


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style=LABEL)
    for name, justify in columns:
        table.add_column(
            name, justify="right" if justify == "right" else "left", no_wrap=name != "reason"
        )
    return table


def _clock(at: float) -> str:
    return time.strftime("%m-%d %H:%M", time.localtime(at))
