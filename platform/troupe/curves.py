"""How a run went, as one picture: `python -m troupe.curves RUN` writes RUN/curves.png.

Drawn from metrics.jsonl alone, so a run of any age and from any machine can be drawn again.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from troupe.errors import TroupeError
from troupe.journal import Line, read
from troupe.runs import RunFolder, writing
from troupe.screen import clock_text, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by colour-blind readers too (Okabe and Ito, 2008)."""
INK, FAINT, RULE = "#333333", "#8a8a8a", "#e6e6e6"
EVALUATED, WON = "evaluator/eval/", "/wp"
RETURN, PLAYING = "evaluator/eval/return", "actor/return/"
SMOOTHED = 0.05
"""Reach of a smoothed curve, as a share of the run."""


class Series(NamedTuple):
    """A number over steps."""

    name: str
    steps: list[float]
    values: list[float]


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
    """Four panels over the steps trained on: play or returns, loss, speed, staleness."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.2), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    figure.suptitle(_headline(name, lines), color=INK, fontsize=12, x=0.015, ha="left")
    panels = figure.subplots(2, 2, sharex=True).flat
    success = _returns if _is_solo(lines) else _play
    for panel, content in zip(panels, (success, _loss, _speed, _staleness), strict=True):
        _plain(panel)
        content(panel, lines)
        if panel.get_legend_handles_labels()[1]:
            panel.legend(frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.2)
    for panel in figure.axes[2:]:
        panel.set_xlabel("steps trained on", color=FAINT, fontsize=9)
    return figure


def _headline(name: str, lines: Sequence[Line]) -> str:
    if not lines:
        return f"{name}: nothing trained yet"
    last = lines[-1]
    trained = clock_text(last.get("learner/training_seconds", 0.0))
    return f"{name}: {short(last['step'])} steps in {trained}"


def _is_solo(lines: Sequence[Line]) -> bool:
    """Whether episodes of an environment were played, rather than games against someone."""
    names = {name for line in lines for name in line}
    against = any(name.startswith(EVALUATED) and name.endswith(WON) for name in names)
    return not against and any(name.startswith((RETURN, PLAYING)) for name in names)


def _returns(panel: "Axes", lines: Sequence[Line]) -> None:
    panel.set_title("return, with 95 % interval", loc="left", color=INK, fontsize=10)
    for series in _series(lines, PLAYING):
        _smoothed(panel, series, FAINT, "while it plays")
    _judged(panel, lines, RETURN, COLOURS[0], "judged")


def _play(panel: "Axes", lines: Sequence[Line]) -> None:
    panel.set_title("win rate, with 95 % interval", loc="left", color=INK, fontsize=10)
    panel.set_ylim(0, 1)
    panel.axhline(0.5, color=FAINT, linewidth=0.8, linestyle=(0, (1, 3)), label="_half")
    for series, colour in zip(_series(lines, EVALUATED, WON), cycle(COLOURS)):
        name = f"{EVALUATED}{series.name}{WON}"
        _judged(panel, lines, name, colour, f"against {series.name}")


def _judged(panel: "Axes", lines: Sequence[Line], name: str, colour: str, label: str) -> None:
    """A result over the steps of the weights that were judged, with its interval."""
    at = {line["evaluator/eval/step"]: line for line in lines if name in line}
    steps = sorted(at)
    low = [at[step].get(f"{name}_low", at[step][name]) for step in steps]
    high = [at[step].get(f"{name}_high", at[step][name]) for step in steps]
    panel.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.plot(
        steps,
        [at[step][name] for step in steps],
        color=colour,
        linewidth=1.6,
        marker="o",
        markersize=3,
        label=label,
    )


def _loss(panel: "Axes", lines: Sequence[Line]) -> None:
    """One loss for each policy, or for each group of its parameters that has one of its own."""
    panel.set_title("loss", loc="left", color=INK, fontsize=10)
    whole = [*_series(lines, "learner/loss/")]
    parts = [s for s in _series(lines, "learner/") if "_loss/" in s.name]
    for series, colour in zip(whole or parts, cycle(COLOURS)):
        _smoothed(panel, series, colour, series.name.replace("_loss/", ", "))


def _smoothed(panel: "Axes", series: Series, colour: str, label: str) -> None:
    panel.plot(series.steps, series.values, color=colour, alpha=0.2, linewidth=0.8, label="_raw")
    smooth = _smooth(series.values)
    panel.plot(series.steps, smooth, color=colour, linewidth=1.6, label=label)


def _speed(panel: "Axes", lines: Sequence[Line]) -> None:
    panel.set_title("per second", loc="left", color=INK, fontsize=10)
    _plot(panel, lines, "decisions_per_second", "decisions", COLOURS[0])
    _plot(panel, lines, "steps_per_second", "steps trained on", COLOURS[1])
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _staleness(panel: "Axes", lines: Sequence[Line]) -> None:
    panel.set_title("staleness in updates", loc="left", color=INK, fontsize=10)
    _plot(panel, lines, "learner/staleness", "mean of a batch", COLOURS[0])
    _plot(panel, lines, "learner/staleness_max", "most in a batch", FAINT)
    panel.set_ylim(bottom=0)


def _plot(panel: "Axes", lines: Sequence[Line], name: str, label: str, colour: str) -> None:
    there = [line for line in lines if name in line]
    steps, values = [line["step"] for line in there], [line[name] for line in there]
    panel.plot(steps, values, color=colour, linewidth=1.4, label=label)


def _plain(panel: "Axes") -> None:
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(FAINT)
    panel.grid(axis="y", color=RULE, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=FAINT, labelcolor=INK, labelsize=8.5, length=0)
    panel.xaxis.set_major_formatter(lambda value, _: short(value))


def _series(lines: Sequence[Line], start: str, end: str = "") -> Iterator[Series]:
    """The numbers whose names start and end so, each called by what stands between."""
    names = {name for line in lines for name in line if name.startswith(start)}
    for name in sorted(name for name in names if name.endswith(end)):
        there = [line for line in lines if name in line]
        called = name.removeprefix(start).removesuffix(end)
        yield Series(called, [line["step"] for line in there], [line[name] for line in there])


def _smooth(values: Sequence[float]) -> list[float]:
    """A moving mean over `SMOOTHED` of all values to either side."""
    reach = round(len(values) * SMOOTHED)
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


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
