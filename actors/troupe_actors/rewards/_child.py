"""The process that a reward is called in: makes it, then answers until nobody asks any more."""

import faulthandler
import json
import sys
from multiprocessing.connection import Connection

from troupe.config import parse
from troupe.errors import UserError
from troupe.jobs.spec import RewardSettings
from troupe_actors.rewards import Reward, Sample, create
from troupe_actors.rewards._apart import START_SECONDS
from troupe_actors.rewards._verdicts import CallError, Verdict, call, told

_GRACE = 2.0
"""Seconds past its time at which a process ends itself; whoever asked kills it before, if alive."""


def main(link: Connection) -> None:
    """Read the settings, make the reward, answer: `[]` once it is made, then verdicts.

    Instead of those, one string says what went wrong.
    """
    try:
        settings = parse(RewardSettings, json.loads(link.recv_bytes()))
        reward = _make(settings, link)
        while reward is not None:
            question = link.recv_bytes()
            _answer(link, _verdicts(reward, question, settings.timeout + _GRACE))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # whoever asked has gone


def _make(settings: RewardSettings, link: Connection) -> Reward | None:
    faulthandler.dump_traceback_later(START_SECONDS + _GRACE, exit=True)
    try:
        reward = create(settings)
    except UserError as error:
        _answer(link, str(error))
        return None
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        _answer(link, f"reward {settings.name!r}: cannot be made: {told(error)}")
        return None
    finally:
        faulthandler.cancel_dump_traceback_later()
    _answer(link, [])
    return reward


def _verdicts(reward: Reward, question: bytes, seconds: float) -> list[Verdict] | str:
    # A thread of the interpreter's own, which needs no lock: it also ends what hangs within C.
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        return call(reward, [Sample(**sample) for sample in json.loads(question)])
    except CallError as error:
        return str(error)
    finally:
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.flush()


def _answer(link: Connection, answer: list[Verdict] | str) -> None:
    link.send_bytes(json.dumps(answer).encode())
