"""An actor in the learner's own process: it plays a turn when it is asked to."""

from collections.abc import Sequence

from troupe.episodes import Columns, Episodes
from troupe.jobs.spec import Job
from troupe.metrics import Metrics
from troupe_actors import sources
from troupe_actors.recorder import Author
from troupe_actors.tally import Tally


class Stage:
    """What one actor plays; a `Stage` of the platform."""

    def __init__(
        self, job: Job, slot: int, attempt: int, incarnation: int, metrics: Metrics
    ) -> None:
        """As the actor in this slot.

        Raises:
            UserError, EnvironmentFaultError: as `sources.create`.
        """
        author = Author(f"{sources.ROLE}-{slot}", incarnation, attempt)
        self._source = sources.create(job, slot, author)
        self._players = {player.policy: player for player in self._source.players}
        self._tally = Tally(metrics)
        self._metrics = metrics

    def resume(self, state: bytes) -> None:
        self._source.resume(state)

    def load(self, policy: str, version: int, tensors: Columns) -> None:
        player = self._players[policy]
        player.acting.load(tensors)
        player.version = version
        self._metrics.set(f"version/{policy}", version)

    def play(self, turn: int) -> Sequence[Episodes]:
        played = self._source.turn(turn)
        self._tally.add(played)
        self._metrics.add("blocks", len(played.blocks))
        self._metrics.add("steps", sum(block.steps for block in played.blocks))
        return played.blocks

    def close(self) -> None:
        self._source.close()
