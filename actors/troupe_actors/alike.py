"""Dynamic sampling: which groups are left out because all their rewards are alike (Yu et al., "DAPO",
2025, arXiv:2503.14476, section 3.2), and how many may be."""

from collections.abc import Callable, Sequence

import numpy as np

from troupe_actors.completions import Answered
from troupe_actors.scoring import Scored


class Spare:
    """How many groups more may be left out before batches are to be filled with what there is.

    Without a limit, a job whose prompts are all too hard would ask forever and never learn.

    Args:
        groups: of a batch, those that this actor brings.
        refills: prompts that may be asked in place of each of them.
    """

    def __init__(self, groups: int, refills: int) -> None:
        self._groups = max(groups, 1)
        self._most = self._groups * refills
        self.renew()

    def renew(self) -> None:
        """A batch begins."""
        self._left = self._most
        self._kept = 0

    def spend(self) -> bool:
        """Whether one more may be left out, which then is."""
        self._left -= 1
        return self._left >= 0

    def keep(self) -> None:
        """One more was brought; with the last of a batch the next one begins."""
        self._kept += 1
        if self._kept == self._groups:
            self.renew()


def different(
    answered: Sequence[Answered], scored: Scored, spend: Callable[[], bool]
) -> tuple[list[Answered], Scored, int]:
    """Groups whose rewards are not all alike, and of the others those that `spend` has no room for.

    Returns:
        What is kept, in order, its rewards, and how many groups of it are alike.
    """
    kept: list[Answered] = []
    rows: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    start = alike = 0
    for one in answered:
        own = np.arange(start, start + len(one.completions))
        start += len(own)
        same = not np.ptp(scored.total[own]) > 0.0
        if same and spend():
            continue
        kept.append(one)
        rows.append(own)
        alike += same
    return kept, scored.take(np.concatenate(rows) if rows else np.empty(0, np.int64)), alike
