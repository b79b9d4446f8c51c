"""The workers of a run without Ray: each a process of its own, forked, and started again if killed."""

import faulthandler
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

from troupe.config import dump
from troupe.jobs.crew import PATHS
from troupe.jobs.resolve import resolve
from troupe.jobs.setting import WorkerSetting
from troupe.jobs.spec import Job
from troupe.store.board import Board
from troupe.store.connection import Store
from troupe.store.replay import ReplayLog

ROLES = ("weights", "learner", "actor")
PATIENCE = 60.0
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    # What takes seconds to import, and is imported late.
    [
        "torch._dynamo",
        "gymnasium",
        "troupe_actors.text",
        "transformers.models.llama.modeling_llama",
        *(PATHS[role].partition(":")[0] for role in ROLES),
    ]
)


def work(setting: WorkerSetting) -> None:
    log = os.open(
        setting.run_folder / f"{setting.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND
    )
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    faulthandler.enable()
    logging.basicConfig()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    module, _, name = PATHS[setting.role].partition(":")
    getattr(importlib.import_module(module), name)(setting).run()


class Crew:
    """One attempt at a run, until its learner is done."""

    def __init__(self, url: str, folder: Path, name: str, job: Mapping[str, object]) -> None:
        self.job: Job = resolve(job)
        self.url, self.name = url, name
        self.run, self.node = folder / name, folder / f"{name}-node-{time.monotonic_ns()}"
        self.run.mkdir(exist_ok=True)
        self.node.mkdir()
        self._store = Store.connect(url, name)
        self.board = Board(self._store)
        self.board.clear_stop()
        before = self.board.get("launch") or {"attempt": 0}
        attempt = int(str(before["attempt"])) + 1
        self.board.put("launch", {"job": dump(self.job), "attempt": attempt})
        slots = {
            "weights": 1,
            "learner": self.job.learner.count,
            "actor": 0 if self.job.actors.colocated else self.job.actors.count,
        }
        self.posts: dict[tuple[str, int], BaseProcess] = {}
        for role, count in slots.items():
            for slot in range(count):
                self.start(role, slot)

    def start(self, role: str, slot: int) -> None:
        setting = WorkerSetting(self.url, "token", self.name, self.run, self.node, role, slot)
        process = FORKING.Process(target=work, args=(setting,), daemon=True)
        process.start()
        self.posts[role, slot] = process

    def look_after(self) -> bool:
        """Start again what was killed; whether the learner is done."""
        for (role, slot), process in list(self.posts.items()):
            # Read once: it changes when the process ends between two looks.
            code = process.exitcode
            # 255: so early that nobody could see how it ended.
            if code in (-signal.SIGKILL, 255):
                self.start(role, slot)
            elif code:
                log = (self.run / f"{role}-{slot}.log").read_text()
                raise AssertionError(f"{role}-{slot} ended with {code}: {log}")
        return all(p.exitcode == 0 for (role, _), p in self.posts.items() if role == "learner")

    def wait(self, *kill: tuple[str, int], after: int = 0) -> None:
        """Until the learner is done; meanwhile kill workers one by one, each when `after` more updates
        were made."""
        deadline, left, seen = time.monotonic() + PATIENCE, list(kill), 0
        while not self.look_after():
            updates = self._published()
            if left and updates >= seen + after:
                seen = updates
                self.posts[left.pop(0)].kill()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.02)
        assert not left, f"done before {left} were killed"
        self.close()

    def _published(self) -> int:
        """The newest version of any policy: metrics, once a second, would come too late."""
        versions: list[bytes] = self._store.redis.hvals(ReplayLog(self._store, 0)._versions)
        return max(map(int, versions), default=0)

    def close(self) -> None:
        self.board.request_stop("done")
        for process in self.posts.values():
            process.join(5.0)
            process.kill()
            process.join()

    def told(self) -> str:
        return "\n".join(f"{log.name}: {log.read_text()}" for log in sorted(self.run.glob("*.log")))
