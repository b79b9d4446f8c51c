"""Which groups are left out for their rewards, and until when."""

import numpy as np

from troupe_actors.alike import Spare, different
from troupe_actors.completions import Answered
from troupe_actors.scoring import Scored

REWARDS = [[1, 1], [0, 1], [0, 0], [2, 2], [1, 0, 1]]


def groups() -> tuple[list[Answered], Scored]:
    read = np.zeros(1, np.int32)
    answered = [Answered(n, read, "", [None] * len(own)) for n, own in enumerate(REWARDS)]  # type: ignore[list-item]
    total = np.concatenate(REWARDS).astype(np.float32)
    return answered, Scored(total, {}, ("",) * len(total))


def test_groups_of_one_reward_are_left_out_while_refills_last() -> None:
    kept, scored, alike = different(*groups(), Spare(2, 1).spend)
    assert [one.group for one in kept] == [1, 3, 4]
    assert scored.total.tolist() == [0, 1, 2, 2, 1, 0, 1]
    assert alike == 1


def test_groups_of_no_difference_at_all_leave_nothing() -> None:
    answered, scored = groups()
    kept, left, alike = different(answered[:1], scored.take(np.arange(2)), Spare(2, 1).spend)
    assert (kept, len(left.total), alike) == ([], 0, 0)


def test_every_batch_has_refills_of_its_own() -> None:
    spare = Spare(2, 2)
    assert [spare.spend() for _ in range(6)] == [True] * 4 + [False] * 2
    spare.keep()
    assert not spare.spend()
    spare.keep()
    assert [spare.spend() for _ in range(5)] == [True] * 4 + [False]
    spare.renew()
    assert spare.spend()
