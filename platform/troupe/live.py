"""What a person sees of a run while it runs: one calm screen, or plain lines in a file or pipe."""

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live

from troupe import text_blocks
from troupe.blocks import clock_text
from troupe.frame import Frame
from troupe.jobs.roles import title
from troupe.jobs.spec import Job
from troupe.runs import RunFolder
from troupe.screen import Happening, picture

EVERY = 10.0
"""Seconds between two plain lines."""
EVENTS = 50
STANDARD_HEIGHT = 24


class View(Protocol):
    """Whoever is shown a run."""

    def show(self, frame: Frame) -> None:
        """Show how the run stands, and the events of the frame."""
        ...

    def event(self, text: str) -> None:
        """Show that something happened."""
        ...


class OpenView(View, Protocol):
    """One that is shown a run within its context."""

    def __enter__(self) -> View: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_view(job: Job, folder: RunFolder, console: Console | None = None) -> OpenView:
    """The view that fits where standard output goes."""
    console = console or Console()
    capable = console.is_terminal and not console.is_dumb_terminal
    if capable and not console.options.ascii_only:
        return ScreenView(folder.name, title(job), console)
    return LineView(console)


class Views:
    """Several views of one run."""

    def __init__(self, *views: View) -> None:
        self._views = views

    def show(self, frame: Frame) -> None:
        """Show it in each."""
        for view in self._views:
            view.show(frame)

    def event(self, text: str) -> None:
        """Show it in each."""
        for view in self._views:
            view.event(text)


class SilentView:
    """Shows nothing."""

    def __enter__(self) -> "SilentView":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def show(self, frame: Frame) -> None:
        """Do nothing."""

    def event(self, text: str) -> None:
        """Do nothing."""


class ScreenView:
    """One screen that is redrawn in place. At the end the last picture stays above the prompt."""

    def __init__(
        self,
        run: str,
        game: str,
        console: Console,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._run, self._game = run, game
        self._console = console
        self._wall = wall
        self._frame: Frame | None = None
        self._events: deque[Happening] = deque(maxlen=EVENTS)
        self._live = Live(console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> "ScreenView":
        self._live.start()
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        self._console.print(self._picture(min(self._console.height, STANDARD_HEIGHT)))

    def show(self, frame: Frame) -> None:
        """Redraw."""
        self._frame = frame
        self._events.extend(Happening(frame.time, text) for text in frame.events)
        self._draw()

    def event(self, text: str) -> None:
        """Redraw with one more note."""
        self._events.append(Happening(self._wall(), text))
        self._draw()

    def _draw(self) -> None:
        self._live.update(self._picture(self._console.height), refresh=True)

    def _picture(self, height: int) -> RenderableType:
        width = self._console.width
        return picture(self._run, self._game, self._frame, self._events, width, height)


class LineView:
    """A line of key figures every ten seconds; events as lines of their own."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._due = 0.0
        self._elapsed = 0.0

    def __enter__(self) -> "LineView":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def show(self, frame: Frame) -> None:
        """Print the frame's events, and its figures where it is time to."""
        self._elapsed = frame.elapsed
        for text in frame.events:
            self.event(text)
        if frame.training and frame.elapsed >= self._due:
            self._due = frame.elapsed + EVERY
            self._print(line(frame))

    def event(self, text: str) -> None:
        """Print a note."""
        self._print(text)

    def _print(self, text: str) -> None:
        print(f"{clock_text(self._elapsed):>7}  {text}", file=self._console.file, flush=True)


def line(frame: Frame) -> str:
    """The key figures of a frame in one line of ASCII."""
    losses = [policy.loss for policy in frame.learned if policy.loss is not None]
    parts = [
        f"step {frame.step:,}" + (f" ({frame.progress:.0%})" if frame.progress is not None else ""),
        f"{frame.decisions_per_second:,.0f} {frame.played}/s",
        f"{frame.steps_per_second:,.0f} steps/s",
        f"{frame.updates_per_second:.1f} updates/s",
        f"queue {frame.queue_fill:.0%}" if frame.capacity else f"queue {frame.backlog:,}",
        f"waiting: {', '.join(frame.waits.phrases())}",
    ]
    if frame.staleness is not None:
        parts.append(f"staleness {frame.staleness:.1f}")
    if frame.completions is not None:
        parts += text_blocks.phrases(frame.completions, next(iter(frame.learned), None))
    elif losses:
        parts.append(f"loss {sum(losses) / len(losses):.3f}")
    parts += [f"Elo {policy.elo:.0f}" for policy in frame.learned if policy.elo is not None]
    parts += [f"WP {e.wp:.3f} against {e.opponent}" for e in frame.evaluations]
    if frame.nash_conv is not None:
        parts.append(f"NashConv {frame.nash_conv:.3f}")
    if frame.returns is not None and frame.returns.playing is not None:
        parts.append(f"return {frame.returns.playing:.1f}")
    if frame.returns is not None and frame.returns.judged is not None:
        parts.append(f"judged {frame.returns.judged:.1f}")
    parts.append(f"{frame.memory_mb:,.0f} MB")
    if frame.seconds_left is not None:
        parts.append(f"{clock_text(frame.seconds_left)} left")
    return ", ".join(parts)
