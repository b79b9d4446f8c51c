"""A reward in a process of its own, which is killed when it hangs and then started anew."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Pipe

from troupe.config import dump
from troupe.errors import FatalError, UserError
from troupe.jobs.spec import RewardSettings
from troupe_actors.rewards import Sample, label
from troupe_actors.rewards._verdicts import CallError, Verdict

START_SECONDS = 300.0
"""For imports and for loading a model."""
_PATIENCE = 2.0
"""Seconds that a process has to end by itself once nobody asks it any more."""
_BOOT = """
import json, os, sys
from multiprocessing.connection import Connection
os.dup2(2, 1)  # what a reward prints belongs in the log
link = Connection(int(sys.argv[1]))
sys.path[:] = json.loads(link.recv_bytes())
from troupe_actors.rewards._child import main
main(link)
"""


class Apart:
    """Calls a reward in a process that lives from call to call, one caller at a time.

    Questions and answers are JSON. The process ends with this one: it reads the end of the link,
    and while it is busy it has a clock of its own.
    """

    def __init__(self, settings: RewardSettings) -> None:
        """Start the process; `wait` says when it can be asked."""
        self._settings = settings
        self._label = label(settings)
        self._begin()

    def wait(self) -> None:
        """Wait until the reward is made.

        Raises:
            UserError: it cannot be made from its options.
            FatalError: making it failed in another way, or took too long.
        """
        try:
            self._welcome()
        except CallError as error:
            self._end()
            raise FatalError(f"reward {self._label!r}: {error}") from None

    def ask(self, samples: Sequence[Sample]) -> list[Verdict]:
        if self._process.returncode is not None:
            self._restart()
        question = json.dumps([asdict(sample) for sample in samples], default=str)
        answer = self._exchange(question.encode(), self._settings.timeout)
        if isinstance(answer, str):
            raise CallError(answer)
        return answer

    def close(self) -> None:
        self._link.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._end()

    def _restart(self) -> None:
        self._begin()
        try:
            self._welcome()
        except UserError as error:  # it could be made before: what it needs has gone since
            raise CallError(str(error)) from None

    def _begin(self) -> None:
        self._link, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C at the terminal is for us: what is under way is still judged.
                start_new_session=True,
            )

    def _welcome(self) -> None:
        """Say what to make, and wait for it."""
        with suppress(BrokenPipeError):  # it died at once; waiting for it says so
            self._link.send_bytes(json.dumps([p for p in sys.path if isinstance(p, str)]).encode())
        answer = self._exchange(json.dumps(dump(self._settings)).encode(), START_SECONDS)
        if isinstance(answer, str):
            self._end()
            raise UserError(answer)

    def _exchange(self, question: bytes, seconds: float) -> list[Verdict] | str:
        """What the process answers within `seconds`: verdicts, or what went wrong in words.

        Raises:
            CallError: it took longer, or died.
        """
        try:
            self._link.send_bytes(question)
            if self._link.poll(seconds):
                answer: list[Verdict] | str = json.loads(self._link.recv_bytes())
                return answer
        except (EOFError, OSError):
            self._end()
            raise CallError(f"its process ended with {self._process.returncode}") from None
        except BaseException:  # an answer that nobody read must not be taken for the next one
            self._end()
            raise
        self._end()
        raise CallError(f"took longer than {seconds:g} s")

    def _end(self) -> None:
        self._link.close()
        self._process.kill()
        self._process.wait()
