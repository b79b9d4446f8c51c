"""The panels of a run's curves, drawn from the lines of its metrics over the steps trained on."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

from troupe.blocks import short
from troupe.journal import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def returns(panel: "Axes", lines: Sequence[Line]) -> None:
    """What episodes of an environment brought, while the policy played and as it was judged."""
    title(panel, "return, with 95 % interval")
    for series in find(lines, PLAYING):
        smoothed(panel, series, FAINT, "while it plays")
    judged(panel, lines, RETURN, COLOURS[0], "judged")


def play(panel: "Axes", lines: Sequence[Line]) -> None:
    """Games won against each opponent."""
    title(panel, "win rate, with 95 % interval")
    panel.set_ylim(0, 1)
    panel.axhline(0.5, color=FAINT, linewidth=0.8, linestyle=(0, (1, 3)), label="_half")
    for series, colour in zip(find(lines, EVALUATED, WON), cycle(COLOURS)):
        name = f"{EVALUATED}{series.name}{WON}"
        judged(panel, lines, name, colour, f"against {series.name}")


def judged(panel: "Axes", lines: Sequence[Line], name: str, colour: str, label: str) -> None:
    """A result over the steps of the weights that were judged, with its interval."""
    at = {line["evaluator/eval/step"]: line for line in lines if name in line}
    if not at:
        return
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


def loss(panel: "Axes", lines: Sequence[Line]) -> None:
    """One loss for each policy, or for each group of its parameters that has one of its own."""
    title(panel, "loss")
    whole = [*find(lines, "learner/loss/")]
    parts = [s for s in find(lines, "learner/") if "_loss/" in s.name]
    for series, colour in zip(whole or parts, cycle(COLOURS)):
        smoothed(panel, series, colour, series.name.replace("_loss/", ", "))


def smoothed(panel: "Axes", series: Series, colour: str, label: str) -> None:
    """A number, faint, and its moving mean."""
    panel.plot(series.steps, series.values, color=colour, alpha=0.2, linewidth=0.8, label="_raw")
    smooth = _smooth(series.values)
    panel.plot(series.steps, smooth, color=colour, linewidth=1.6, label=label)


def speed(
    panel: "Axes", lines: Sequence[Line], made: str = "decisions", trained: str = "steps"
) -> None:
    """What is made and trained on a second; `made` is what actors make."""
    title(panel, "per second")
    plot(panel, lines, "decisions_per_second", made, COLOURS[0])
    plot(panel, lines, "steps_per_second", f"{trained} trained on", COLOURS[1])
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def staleness(panel: "Axes", lines: Sequence[Line]) -> None:
    """How old the weights were that made what is trained on."""
    title(panel, "staleness in updates")
    plot(panel, lines, "learner/staleness", "mean of a batch", COLOURS[0])
    plot(panel, lines, "learner/staleness_max", "most in a batch", FAINT)
    panel.set_ylim(bottom=0)


def plot(panel: "Axes", lines: Sequence[Line], name: str, label: str, colour: str) -> None:
    """A number as it is."""
    there = [line for line in lines if name in line]
    if not there:
        return
    steps, values = [line["step"] for line in there], [line[name] for line in there]
    panel.plot(steps, values, color=colour, linewidth=1.4, label=label)


def title(panel: "Axes", text: str) -> None:
    """What the panel shows."""
    panel.set_title(text, loc="left", color=INK, fontsize=10)


def plain(panel: "Axes") -> None:
    """Without frame and ticks: a rule for each number of the axis."""
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(FAINT)
    panel.grid(axis="y", color=RULE, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=FAINT, labelcolor=INK, labelsize=8.5, length=0)
    panel.xaxis.set_major_formatter(lambda value, _: short(value))


def find(lines: Sequence[Line], start: str, end: str = "") -> Iterator[Series]:
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
