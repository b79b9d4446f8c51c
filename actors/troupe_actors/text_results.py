"""What a trial of a language model has shown: means with their intervals, for people and programs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from troupe_actors.completions import REWARD
from troupe_actors.scoring import Scored
from troupe_actors.statistics import Interval, mean_interval, share_interval

_NOTHING = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What completions of N prompts have shown, one of each."""

    agent: str
    prompts: str
    """The name of their file."""
    held_out: bool
    """Whether these are other prompts than those that are trained on."""
    temperature: float
    """0 took the likeliest token."""
    seed: int
    scored: Scored
    lengths: NDArray[np.int64]
    """[N]: tokens, stop tokens included."""
    truncated: NDArray[np.bool_]
    """[N]: came to no end."""
    seconds: float

    @property
    def reward(self) -> Interval:
        """The mean reward with its 95 % confidence interval; completions that failed are left out."""
        return interval(self.scored.total)

    @property
    def components(self) -> dict[str, Interval]:
        """The same of each reward by its label, unweighted."""
        return {name: interval(values) for name, values in self.scored.components.items()}

    def gauges(self) -> dict[str, float]:
        """By name, for the metrics; what there is nothing of is left out."""
        told: dict[str, float] = {}
        for name, (mean, low, high) in self._intervals():
            if np.isfinite(mean):
                told |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        told["completion_length"] = float(self.lengths.mean())
        told["truncated"] = float(self.truncated.mean())
        told["reward_failed"] = float(self.scored.failed.mean())
        return told

    def data(self) -> dict[str, object]:
        """All of it as JSON can hold it."""
        return {
            "agent": self.agent,
            "prompts": self.prompts,
            "held_out": self.held_out,
            "completions": len(self.lengths),
            "temperature": self.temperature,
            "seed": self.seed,
            "reward": _told(self.reward, self.scored.total),
            "rewards": {
                name: _told(between, self.scored.components[name])
                for name, between in self.components.items()
            },
            "length": {
                "mean": float(self.lengths.mean()),
                "min": int(self.lengths.min()),
                "max": int(self.lengths.max()),
            },
            "truncated": float(self.truncated.mean()),
            "failed": int(self.scored.failed.sum()),
            "reasons": sorted({reason for reason in self.scored.reasons if reason}),
            "seconds": round(self.seconds, 3),
        }

    def table(self) -> Table:
        """For a person at a terminal."""
        table = Table(
            title=f"{self.agent} on {self.prompts}",
            title_justify="left",
            title_style="bold",
            caption=self._caption(),
            caption_justify="left",
            box=box.SIMPLE,
            pad_edge=False,
        )
        for heading in ("", "mean", "95 %", "min", "max"):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for name, (mean, low, high) in self._rows():
            values = self._values(name)
            sound = values[~np.isnan(values)]
            if not sound.size:
                table.add_row(_row(name), "failed")
                continue
            between = f"{low:.3f} to {high:.3f}" if np.isfinite(low) else ""
            ends = (f"{sound.min():.3f}", f"{sound.max():.3f}")
            table.add_row(_row(name), f"{mean:.3f}", between, *ends)
        shortest, longest = self.lengths.min(), self.lengths.max()
        table.add_row("tokens", f"{self.lengths.mean():,.1f}", "", f"{shortest:,}", f"{longest:,}")
        table.add_row("cut off", f"{self.truncated.mean():.1%}")
        if self.scored.failed.any():
            table.add_row("failed", f"{self.scored.failed.mean():.1%}")
        return table

    def _caption(self) -> str:
        which = "prompts" if self.held_out else "prompts it was trained on"
        drawn = f"temperature {self.temperature:g}, seed {self.seed}"
        how = "greedy" if self.temperature == 0 else drawn
        lines = [
            f"{len(self.lengths):,} {which}",
            f"{how}, {self.lengths.sum():,} tokens, {self.seconds:.0f} s",
            next((reason for reason in self.scored.reasons if reason), ""),
        ]
        return "\n".join(filter(None, lines))

    def _intervals(self) -> Iterator[tuple[str, Interval]]:
        """The reward, and its components by their names in the metrics."""
        yield "reward", self.reward
        for name, between in self.components.items():
            yield REWARD + name, between

    def _rows(self) -> list[tuple[str, Interval]]:
        """Those to be shown: a single reward that is the sum is there once."""
        whole, *parts = self._intervals()
        return [whole] if [between for _, between in parts] == [whole[1]] else [whole, *parts]

    def _values(self, name: str) -> NDArray[np.float32]:
        if name == "reward":
            return self.scored.total
        return self.scored.components[name.removeprefix(REWARD)]


def joined(parts: Sequence[Scored]) -> Scored:
    """The samples of several calls as one, in order; at least one call."""
    return Scored(
        np.concatenate([part.total for part in parts]),
        {
            name: np.concatenate([part.components[name] for part in parts])
            for name in parts[0].components
        },
        tuple(reason for part in parts for reason in part.reasons),
    )


def interval(values: NDArray[np.float32]) -> Interval:
    """The mean of [N] rewards with its 95 % confidence interval, NaN left out; NaN where all are.

    Where every reward is 0 or 1 it is Wilson's, which stays between them and takes N successes for no
    certainty; else the normal one of a mean.
    """
    sound = values[~np.isnan(values)].astype(np.float64)
    if not sound.size:
        return _NOTHING
    of = share_interval if np.isin(sound, (0.0, 1.0)).all() else mean_interval
    return of(sound)


def _row(name: str) -> str:
    return f"  {name.removeprefix(REWARD)}" if name.startswith(REWARD) else name


def _told(between: Interval, values: NDArray[np.float32]) -> dict[str, float | None]:
    sound = values[~np.isnan(values)]
    least, most = (sound.min(), sound.max()) if sound.size else (np.nan, np.nan)
    mean, low, high = between
    numbers = {"mean": mean, "low": low, "high": high, "min": least, "max": most}
    # JSON has no NaN and no infinity.
    return {n: float(value) if np.isfinite(value) else None for n, value in numbers.items()}
