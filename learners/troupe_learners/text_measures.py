"""What a batch of completions was like, to look at."""

import torch
from torch import Tensor

from troupe.episodes import REWARD, Ending
from troupe_learners import group_advantages
from troupe_learners.algorithms import Batch, Roles
from troupe_learners.sequences import sums


def measures(batch: Batch, roles: Roles) -> dict[str, Tensor]:
    """Means over a batch of all ranks, by name, scalars.

    `reward`, and each of its components as `reward/NAME`, over completions, failed ones left out;
    `completion_length`; `truncated`, the share that came to no end; `zero_variance`, the share of
    groups with equal rewards.
    """
    length, ending = batch.fragment["length"], batch.fragment["ending"]
    reward = sums(batch.step["reward"], length).double()
    alike, count = group_advantages.without_variance(reward, batch.fragment["group"])
    one = torch.ones_like(reward)
    parts = {
        "reward": (reward.sum(), one.sum()),
        "completion_length": (length.double().sum(), one.sum()),
        "truncated": ((ending == Ending.TRUNCATED).double().sum(), one.sum()),
        "zero_variance": (alike, count),
    }
    for name in sorted(batch.about):
        if name.startswith(REWARD):
            column = batch.about[name].double()
            parts[name] = (column.nansum(), (~column.isnan()).double().sum())
    totals = roles.add_up(torch.stack([torch.stack(pair) for pair in parts.values()]))
    means = totals[:, 0] / totals[:, 1].clamp(min=1.0)
    return dict(zip(parts, means.float().unbind(), strict=True))
