"""The panels of a language model's curves: the steps that they are drawn over are sampled tokens."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from troupe import panels
from troupe.journal import Line
from troupe.panels import COLOURS, FAINT, find, judged, plot, smoothed, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REWARD, LENGTH = "reward", "completion_length"
TRAINED, SAMPLED, JUDGED = "learner/", "actor/", "evaluator/eval/"


def is_text(lines: Sequence[Line]) -> bool:
    """Whether completions were sampled, rather than games or episodes played."""
    starts = (f"{SAMPLED}{LENGTH}", f"{TRAINED}{LENGTH}/")
    return any(name.startswith(starts) for line in lines for name in line)


def rewards(panel: "Axes", lines: Sequence[Line]) -> None:
    """The reward of what was trained on, or sampled, and of held-out prompts."""
    title(panel, "reward, with 95 % interval")
    of_batches = [*find(lines, f"{TRAINED}{REWARD}/")]
    whole = [series for series in of_batches if "/" not in series.name]
    sampled = [series for series in find(lines, f"{SAMPLED}{REWARD}") if not series.name]
    for series in whole or sampled:
        smoothed(panel, series, FAINT, "as sampled")
    judged(panel, lines, f"{JUDGED}{REWARD}", COLOURS[0], "judged")


def components(panel: "Axes", lines: Sequence[Line]) -> None:
    """Each reward by its label, unweighted: as sampled, and dots as judged."""
    title(panel, "rewards, unweighted")
    for series, colour in zip(find(lines, f"{SAMPLED}{REWARD}/"), cycle(COLOURS), strict=False):
        smoothed(panel, series, colour, series.name)
        at = [line for line in lines if f"{JUDGED}{REWARD}/{series.name}" in line]
        steps = [line[f"{JUDGED}step"] for line in at]
        values = [line[f"{JUDGED}{REWARD}/{series.name}"] for line in at]
        panel.plot(steps, values, ".", color=colour, markersize=4, label="_judged")


def lengths(panel: "Axes", lines: Sequence[Line]) -> None:
    """Tokens of a completion."""
    title(panel, "tokens of a completion")
    _learned(panel, lines, LENGTH, "as sampled", COLOURS[0])
    plot(panel, lines, f"{JUDGED}{LENGTH}", "judged", FAINT)
    panel.set_ylim(bottom=0)


def shares(panel: "Axes", lines: Sequence[Line]) -> None:
    """Of completions cut off, of groups that teach nothing, of tokens clipped or rejected."""
    title(panel, "shares")
    named = {
        "truncated": "cut off",
        "zero_variance": "groups without variance",
        "clip_fraction": "clipped",
        "rejected": "rejected as stale",
    }
    for (name, label), colour in zip(named.items(), COLOURS, strict=False):
        _learned(panel, lines, name, label, colour)
    panel.set_ylim(0, 1)


def entropy(panel: "Axes", lines: Sequence[Line]) -> None:
    """Of the policy, a token."""
    title(panel, "entropy of a token")
    _learned(panel, lines, "entropy", "entropy", COLOURS[0])
    panel.set_ylim(bottom=0)


def divergence(panel: "Axes", lines: Sequence[Line]) -> None:
    """How far the policy moves, and what it is compared with."""
    title(panel, "divergence")
    named = {
        "approx_kl": "approx KL",
        "kl": "KL to reference",
        "log_prob_gap": "trainer-sampler gap",
    }
    for (name, label), colour in zip(named.items(), COLOURS, strict=False):
        _learned(panel, lines, name, label, colour)
    drawn = [series for name in named for series in find(lines, f"{TRAINED}{name}/")]
    if any(value > 0 for series in drawn for value in series.values):
        panel.set_yscale("log")
        panel.minorticks_off()


def speed(panel: "Axes", lines: Sequence[Line]) -> None:
    """Tokens sampled and trained on a second."""
    panels.speed(panel, lines, "tokens sampled", "tokens")


def _learned(panel: "Axes", lines: Sequence[Line], name: str, label: str, colour: str) -> None:
    for series in find(lines, f"{TRAINED}{name}/"):
        smoothed(panel, series, colour, label)


CONTENTS = (rewards, components, lengths, shares, entropy, divergence, speed, panels.staleness)
