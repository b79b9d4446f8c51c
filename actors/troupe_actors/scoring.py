"""Several rewards as one: a weighted sum, and what becomes of samples that one of them fails on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from troupe.jobs.spec import RewardSettings
from troupe_actors import rewards
from troupe_actors.rewards import Sample, label
from troupe_actors.rewards._apart import Apart
from troupe_actors.rewards._failures import Failures
from troupe_actors.rewards._verdicts import CallError, Here, Judge, Verdict


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What n samples are worth."""

    total: NDArray[np.float32]
    """[n]: the weighted sum of the components; NaN where one of them failed."""
    components: Mapping[str, NDArray[np.float32]]
    """By label, [n]: each reward as it was given, unweighted; NaN where it failed."""
    reasons: tuple[str, ...]
    """[n]: why a sample failed, the reward's label first; empty where nothing failed."""

    @property
    def failed(self) -> NDArray[np.bool_]:
        """[n]: samples without a total. A reward of weight 0 costs none."""
        return np.isnan(self.total)

    def take(self, samples: NDArray[np.int64]) -> "Scored":
        """Some of them, in the order given."""
        return Scored(
            self.total[samples],
            {name: values[samples] for name, values in self.components.items()},
            tuple(self.reasons[i] for i in samples),
        )


class Rewards:
    """Judges samples by all rewards of a job; used by one thread at a time.

    A reward is called with one group at a time. Where a call fails, it is called again with each
    sample of the group alone, so that only those samples fail that it fails on.
    """

    def __init__(self, settings: Sequence[RewardSettings]) -> None:
        """Make all of them, those in processes of their own side by side.

        Raises:
            UserError: a reward does not exist, or cannot be made from its options.
            FatalError: making it failed in another way.
        """
        rewards.check(settings)
        self._settings = tuple(settings)
        self._failures = [Failures(label(one), one.max_failed) for one in settings]
        self._judges: list[Judge] = []
        try:
            self._judges += [_judge(one) for one in settings]
            for judge in self._judges:
                if isinstance(judge, Apart):
                    judge.wait()
        except BaseException:
            self.close()
            raise

    def __call__(self, samples: Sequence[Sample]) -> Scored:
        """What they are worth.

        Raises:
            RewardFaultError: a reward failed on too many of the newest samples.
        """
        total = np.zeros(len(samples), np.float64)
        components: dict[str, NDArray[np.float32]] = {}
        reasons: list[list[str]] = [[] for _ in samples]
        groups = _groups(samples)
        for place, one in enumerate(self._settings):
            values = np.full(len(samples), np.nan, np.float64)
            for row, verdict in self._ask(place, samples, groups):
                if isinstance(verdict, str):
                    reasons[row].append(f"{label(one)}: {verdict}")
                else:
                    values[row] = verdict
            components[label(one)] = values.astype(np.float32)
            if one.weight:
                total += one.weight * values
        told = tuple("; ".join(parts) for parts in reasons)
        return Scored(total.astype(np.float32), components, told)

    @property
    def failures(self) -> dict[str, int]:
        """By label, on how many samples it failed so far."""
        return {
            label(one): failures.total
            for one, failures in zip(self._settings, self._failures, strict=True)
        }

    def close(self) -> None:
        """End the processes; may be called twice."""
        for judge in self._judges:
            judge.close()

    def __enter__(self) -> "Rewards":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(
        self, place: int, samples: Sequence[Sample], groups: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, Verdict]]:
        """The verdict of one reward on each sample, with the sample's row; failures are counted."""
        judge, failures = self._judges[place], self._failures[place]
        whole = self._settings[place].whole_groups
        for rows in groups:
            for row, verdict in _verdicts(judge, samples, rows, whole):
                if isinstance(verdict, str):
                    failures.failed(verdict)
                else:
                    failures.sound()
                yield row, verdict


def _judge(settings: RewardSettings) -> Judge:
    return Apart(settings) if rewards.is_apart(settings) else Here(rewards.create(settings))


def _verdicts(
    judge: Judge, samples: Sequence[Sample], rows: Sequence[int], whole: bool
) -> Iterator[tuple[int, Verdict]]:
    try:
        yield from zip(rows, judge.ask([samples[row] for row in rows]), strict=True)
    except CallError as error:
        if whole or len(rows) == 1:
            yield from ((row, str(error)) for row in rows)
        else:
            for row in rows:
                yield from _verdicts(judge, samples, [row], whole)


def _groups(samples: Sequence[Sample]) -> list[list[int]]:
    """The rows of each group, in the order in which groups appear."""
    rows: dict[int, list[int]] = {}
    for row, sample in enumerate(samples):
        rows.setdefault(sample.group, []).append(row)
    return list(rows.values())
