"""Several ranks, each a process, over gloo: one update of one batch, however it is divided."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks_worker

from troupe_learners.ranks import Ranks


def test_two_ranks_make_the_update_that_one_makes_of_the_whole_batch(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, ranks_worker.__file__, str(rank), "2", str(tmp_path)])
        for rank in range(2)
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    first, second = (dict(np.load(tmp_path / f"rank-{rank}.npz")) for rank in range(2))
    alone = ranks_worker.trained(Ranks(), ranks_worker.ALGORITHM)
    for name, tensor in alone.weights().items():
        np.testing.assert_allclose(first[f"whole.{name}"], tensor, rtol=1e-4, atol=1e-6, err_msg=name)  # fmt: skip
    for name, value in alone.scalars.items():  # type: ignore[attr-defined]
        assert float(first[f"scalar.{name}"]) == pytest.approx(value, rel=1e-3, abs=1e-6), name
    # However minibatches fall, all ranks have the same weights, to the bit.
    for name, tensor in first.items():
        if not name.startswith("scalar."):
            np.testing.assert_array_equal(second[name], tensor, name)


@pytest.mark.parametrize(("count", "size"), [(7, 1), (7, 2), (7, 3), (2, 3)])
def test_shares_sum_to_the_whole(count: int, size: int) -> None:
    shares = []
    for rank in range(size):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, size
        shares.append(ranks.share(count))
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1
