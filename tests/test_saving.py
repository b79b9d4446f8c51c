"""How far a run has come."""

import pytest

from troupe.jobs.spec import StopSettings
from troupe_learners.saving import Progress


def test_the_nearest_limit_says_how_much_of_a_run_is_done() -> None:
    progress = Progress()
    progress.restore(250, {"training_seconds": 45.0})
    stop = StopSettings(steps=1000, updates=100, minutes=1.0)
    assert progress.share(stop, 10, progress.seconds) == pytest.approx(0.75)
    assert progress.share(stop, 10, 0.0) == pytest.approx(0.25)
    assert progress.share(stop, 50, 0.0) == pytest.approx(0.5)
    assert progress.share(stop, 200, progress.seconds) == 1.0
    assert progress.share(StopSettings(minutes=1.0), 10, 0.0) == 0.0
    assert progress.share(StopSettings(), 10, progress.seconds) == 0.0
