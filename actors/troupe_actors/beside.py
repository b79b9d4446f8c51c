"""A colocated actor: in the learner's process, or in one beside it that plays while the learner learns."""

import os
import subprocess
import sys
from contextlib import closing, suppress
from multiprocessing.connection import Connection, Pipe

import torch

from troupe.episodes import Columns
from troupe.errors import TroupeError
from troupe.jobs.spec import Job
from troupe.jobs.stages import StageLostError
from troupe_actors import sources
from troupe_actors.recorder import Author
from troupe_actors.sources import Played

_PATIENCE = 2.0
"""Seconds that a process has to end by itself once nobody asks it any more."""
_BOOT = """
import sys
from multiprocessing.connection import Connection
link = Connection(int(sys.argv[1]))
sys.path[:] = link.recv()
from troupe_actors.beside import main
main(link)
"""


class Here:
    """One actor in this process. Turns are played when they are asked for."""

    def __init__(self, job: Job, slot: int, author: Author) -> None:
        """Raises UserError, EnvironmentFaultError: as `sources.create`."""
        self._source = sources.create(job, slot, author)
        self._players = {player.policy: player for player in self._source.players}
        self._turn = 0

    def resume(self, state: bytes) -> None:
        """See `Stage`."""
        self._source.resume(state)

    def load(self, policy: str, version: int, tensors: Columns) -> None:
        """See `Stage`."""
        player = self._players[policy]
        player.acting.load(tensors)
        player.version = version

    def begin(self, turn: int) -> None:
        """See `Stage`."""
        self._turn = turn

    def played(self) -> Played:
        """Play the turn that was begun."""
        return self._source.turn(self._turn)

    def close(self) -> None:
        """See `Stage`."""
        self._source.close()


class Beside:
    """The same in a process of its own, which ends with this one: it reads the end of the link."""

    def __init__(self, job: Job, slot: int, author: Author) -> None:
        """Start it; what goes wrong there is raised by `played`."""
        self._name = author.actor
        self._link, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._tell([path for path in sys.path if isinstance(path, str)])
        self._tell((job, slot, author))

    def resume(self, state: bytes) -> None:
        """See `Stage`."""
        self._tell((Here.resume.__name__, state))

    def load(self, policy: str, version: int, tensors: Columns) -> None:
        """See `Stage`."""
        self._tell((Here.load.__name__, policy, version, tensors))

    def begin(self, turn: int) -> None:
        """See `Stage`."""
        self._tell((Here.begin.__name__, turn))
        self._tell((Here.played.__name__,))

    def played(self) -> Played:
        """Wait for the turn that was begun.

        Raises:
            UserError, TroupeError: what was raised there.
            StageLostError: the process has ended.
        """
        try:
            answer: Played | TroupeError = self._link.recv()
        except (EOFError, ConnectionError):
            raise StageLostError(f"{self._name}: its process beside the learner ended") from None
        if isinstance(answer, TroupeError):
            raise answer
        return answer

    def close(self) -> None:
        """See `Stage`."""
        self._link.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._process.kill()
        self._process.wait()

    def _tell(self, message: object) -> None:
        with suppress(ConnectionError):  # it has ended; waiting for what it played says so
            self._link.send(message)


def main(link: Connection) -> None:
    """What runs in the process: an actor that does as it is told, until nobody tells it any more."""
    with suppress(EOFError, ConnectionError):
        job, slot, author = link.recv()
        os.setpriority(os.PRIO_PROCESS, 0, max(os.nice(0), job.actors.niceness))
        torch.set_num_threads(1)
        try:
            with closing(Here(job, slot, author)) as here:
                while True:
                    method, *arguments = link.recv()
                    answer = getattr(here, method)(*arguments)
                    if answer is not None:
                        link.send(answer)
        except TroupeError as error:
            link.send(error)
