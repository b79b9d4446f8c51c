"""An actor of the learner's own: it plays a turn when it is asked to, and what it played is told here."""

from collections.abc import Sequence

from troupe.episodes import Columns, Episodes
from troupe.jobs.spec import Job
from troupe.metrics import Metrics
from troupe_actors import sources
from troupe_actors.beside import Beside, Here
from troupe_actors.recorder import Author
from troupe_actors.tally import Tally


class Stage:
    """What one actor plays; a `Stage` of the platform."""

    def __init__(
        self, job: Job, slot: int, attempt: int, incarnation: int, metrics: Metrics
    ) -> None:
        """As the actor in this slot: where the job has a lag, in a process beside this one.

        Raises:
            UserError, EnvironmentFaultError: as `sources.create`.
        """
        author = Author(f"{sources.ROLE}-{slot}", incarnation, attempt)
        self._actor = Beside(job, slot, author) if job.lag else Here(job, slot, author)
        self._tally = Tally(metrics)
        self._metrics = metrics

    def resume(self, state: bytes) -> None:
        self._actor.resume(state)

    def load(self, policy: str, version: int, tensors: Columns) -> None:
        self._actor.load(policy, version, tensors)
        self._metrics.set(f"version/{policy}", version)

    def begin(self, turn: int) -> None:
        self._actor.begin(turn)

    def played(self) -> Sequence[Episodes]:
        played = self._actor.played()
        self._tally.add(played)
        self._metrics.add("blocks", len(played.blocks))
        self._metrics.add("steps", sum(block.steps for block in played.blocks))
        return played.blocks

    def close(self) -> None:
        self._actor.close()
