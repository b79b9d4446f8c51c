"""Workers as Ray actors that outlive their deaths."""

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

from troupe.jobs import node
from troupe.jobs.cluster import own_address
from troupe.jobs.setting import ATTEMPT, NODE_ADDRESS, NODE_FOLDER, RUN, WorkerSetting

_GARBAGE = 10_000
"""Objects made and not yet freed when the collector looks at the newest; Python has 700."""


class RayWorker:
    """A worker in a Ray actor. Killed, it is started again; failed, it tells why."""

    def __init__(
        self,
        path: str,
        role: str,
        slot: int,
        *,
        options: Mapping[str, object],
        variables: Mapping[str, str],
    ) -> None:
        """Start it, or have it wait for room.

        Args:
            path: of its class, `module:Class`.
            options: where Ray puts it, and on what resources.
            variables: put into its environment, where they are not in its node's. Only Ray and the
                worker see them.
        """
        import ray

        host: Any = ray.remote(_Host)
        made = host.options(**options, max_restarts=-1, max_task_retries=-1)
        self._actor = made.remote(path, role, slot, dict(variables))
        self._run = self._actor.run.remote()

    def start_again(self) -> None:
        """Run it once more after a failure."""
        self._run = self._actor.run.remote()

    def outcome(self) -> BaseException | Literal[True] | None:
        """True once it returned, its error once it failed, None while it runs."""
        import ray

        done, _ = ray.wait([self._run], timeout=0)
        if not done:
            return None
        try:
            ray.get(self._run)
        except ray.exceptions.RayTaskError as error:
            return error.cause if isinstance(error.cause, BaseException) else error
        except ray.exceptions.RayError as error:
            return error
        return True

    def end(self) -> None:
        """Kill it for good."""
        import ray

        ray.kill(self._actor)


class _Host:
    """What runs inside the Ray actor: the plain worker class, with its output in the run's logs."""

    def __init__(self, path: str, role: str, slot: int, variables: Mapping[str, str]) -> None:
        self._path, self._role, self._slot = path, role, slot
        os.environ.update(variables)
        if NODE_FOLDER not in os.environ:
            os.environ |= _of_this_node()

    def run(self) -> None:
        setting = WorkerSetting.from_environment(self._role, self._slot)
        logs = setting.run_folder / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{setting.name}.log").open("ab") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        module, _, name = self._path.partition(":")
        make: Callable[[WorkerSetting], Any] = getattr(importlib.import_module(module), name)
        _spare_collector()
        try:
            make(setting).run()
        except Exception:
            with suppress(OSError):  # a full disk, which the error may be about
                traceback.print_exc()  # the launcher tells one line; the log has the rest
            raise


def _of_this_node() -> dict[str, str]:
    """What only the node itself can tell: its address, and the folder that its workers share."""
    import ray

    here = ray.get_runtime_context().get_node_id()[:12]
    name = f"troupe-{os.environ[RUN]}-{os.environ[ATTEMPT]}-{here}"
    return {
        NODE_FOLDER: str(node.hold(name)),
        NODE_ADDRESS: own_address(),
    }


def _spare_collector() -> None:
    """Leave out of garbage collection what is never garbage: half a million objects of libraries.

    Going through them again and again is about a tenth of the time of a small network's updates.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)
