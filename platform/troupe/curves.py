"""How a run went, as one picture: `python -m troupe.curves RUN` writes RUN/curves.png.

Drawn from metrics.jsonl alone, so a run of any age and from any machine can be drawn again.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from troupe import panels, text_panels
from troupe.blocks import clock_text, counted, short
from troupe.errors import TroupeError
from troupe.journal import Line, read
from troupe.panels import EVALUATED, FAINT, INK, PLAYING, RETURN, WON
from troupe.runs import RunFolder, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Content: TypeAlias = "Callable[[Axes, Sequence[Line]], None]"
"""Fills a panel from the lines of a run's metrics."""


def draw(run_folder: Path) -> Path:
    """Draw a run's curves; returns the path of the picture.

    Raises:
        UserError, RunFolderError: the picture cannot be written.
    """
    folder = RunFolder(run_folder)
    figure = picture(folder.name, read(folder.metrics))
    aside = folder.curves.with_name(f".curves.{os.getpid()}.png")
    with writing(folder.curves):
        try:
            figure.savefig(aside)
            aside.replace(folder.curves)
        finally:
            aside.unlink(missing_ok=True)
    return folder.curves


def picture(name: str, lines: Sequence[Line]) -> "Figure":
    """Panels over the steps trained on: play, returns or rewards, loss, speed, staleness."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    contents = _contents(lines)
    rows = len(contents) // 2
    figure = Figure(
        figsize=(10, 0.8 + 2.7 * rows), dpi=120, facecolor="white", layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    figure.suptitle(_headline(name, lines), color=INK, fontsize=12, x=0.015, ha="left")
    axes = figure.subplots(rows, 2, sharex=True).flat
    for panel, content in zip(axes, contents, strict=True):
        panels.plain(panel)
        content(panel, lines)
        if panel.get_legend_handles_labels()[1]:
            panel.legend(frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.2)
    unit = "tokens" if text_panels.is_text(lines) else "steps"
    for panel in figure.axes[-2:]:
        panel.set_xlabel(f"{unit} trained on", color=FAINT, fontsize=9)
    return figure


def _contents(lines: Sequence[Line]) -> Sequence[Content]:
    """What fills the panels, an even number of them."""
    if text_panels.is_text(lines):
        return text_panels.CONTENTS
    success = panels.returns if _is_solo(lines) else panels.play
    return (success, panels.loss, panels.speed, panels.staleness)


def _headline(name: str, lines: Sequence[Line]) -> str:
    if not lines:
        return f"{name}: nothing trained yet"
    last = lines[-1]
    trained = clock_text(last.get("learner/training_seconds", 0.0))
    if text_panels.is_text(lines):
        updates = counted(int(last.get("updates", 0)), "update")
        return f"{name}: {short(last['step'])} tokens, {updates} in {trained}"
    return f"{name}: {short(last['step'])} steps in {trained}"


def _is_solo(lines: Sequence[Line]) -> bool:
    """Whether episodes of an environment were played, rather than games against someone."""
    names = {name for line in lines for name in line}
    against = any(name.startswith(EVALUATED) and name.endswith(WON) for name in names)
    return not against and any(name.startswith((RETURN, PLAYING)) for name in names)


def main() -> int:
    """Draw the run named on the command line."""
    try:
        print(draw(RunFolder.find(sys.argv[1] if len(sys.argv) > 1 else "").path))
    except TroupeError as error:
        print(f"troupe: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
