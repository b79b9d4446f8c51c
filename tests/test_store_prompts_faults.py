"""Whatever happens to whom, every prompt is answered exactly once or put aside with a reason."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prompt_run import SETTINGS, Run, commit, got, save, tickets
from test_store_replay import binaries

from troupe.prompts import PromptSettings
from troupe.store import server
from troupe.store.connection import Store
from troupe.store.leases import Lease, Leases, Wait
from troupe.store.prompts import Rule
from troupe.store.replay import Outcome

ACTOR = """
import sys, threading, time
sys.path[:0] = {path!r}
from prompt_run import block
from troupe.store.connection import Store
from troupe.store.leases import Holder, Leases, Wait
from troupe.store.replay import ReplayLog
store = Store.connect({url!r}, "faults")
actor = Leases(store, ReplayLog(store), Holder({name!r}, 1))
actor.begin()
print("begun", flush=True)
while True:
    leases = actor.lease(4, 5)
    if isinstance(leases, Wait):
        if leases.over:
            break
        time.sleep(0.005)
        continue
    for lease in leases:
        time.sleep(0.004)  # its group is being sampled
        actor.commit([lease], block([lease]), threading.Event())
        print(lease.ticket, flush=True)
"""


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("store")
    running = server.start(folder, password="p", memory_mb=64)
    yield running.url
    running.stop()


def start(url: str, name: str) -> "subprocess.Popen[str]":
    code = ACTOR.format(path=sys.path, url=url, name=name)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_actors_killed_in_mid_lease_lose_no_prompt_and_double_none(store_url: str) -> None:
    run = Run(Store.connect(store_url, "faults"), 300, using=replace(SETTINGS, deliveries=1000))
    actors = [start(store_url, f"actor-{slot}") for slot in range(2)]
    luck = random.Random(3)
    for _ in range(3):
        time.sleep(luck.uniform(0.05, 0.15))
        victim = luck.randrange(2)
        os.kill(actors[victim].pid, signal.SIGKILL)
        actors[victim].communicate()
        actors[victim] = start(store_url, f"actor-{victim}")
    for actor in actors:
        actor.communicate(timeout=60)
        assert actor.returncode == 0
    assert run.answered() == Counter(range(300))
    state = run.prompts.state()
    assert (state.done, state.ready, state.leased, state.dead) == (300, 0, (), ())
    run.store.redis.flushdb()
    run.store.close()


@pytest.mark.parametrize("binary", binaries(), ids=lambda path: path.name)
def test_a_store_killed_with_9_comes_back_with_leases_and_answers(
    tmp_path: Path, binary: Path
) -> None:
    port = server._free_port(server.HOST)
    first = server.start(
        tmp_path, password="p", memory_mb=32, port=port, binary=binary, append_only=True
    )
    run = Run(Store.connect(first.url, "restart"), 6)
    actor = run.actor()
    one, two, three = got(actor.lease(3, 5))
    assert commit(actor, one) is Outcome.PUSHED
    actor.fail([three], "timed out")
    os.kill(first.pid, signal.SIGKILL)
    first.stop()
    second = server.start(
        tmp_path, password="p", memory_mb=32, port=port, binary=binary, append_only=True
    )
    assert actor.heartbeat([one, two, three]) == [one, three]
    assert commit(actor, two) is Outcome.PUSHED
    assert tickets(got(actor.lease(9, 5))) == [2, 3, 4, 5]
    assert run.answered() == {0: 1, 1: 1}
    assert run.prompts.progress().deliveries == {"2": "1 timed out"}
    second.stop()


class Chance:
    """Lets things happen to a run in any order, and knows what must come of them."""

    def __init__(self, store: Store, data: st.DataObject) -> None:
        using = PromptSettings(path="p", epochs=2, deliveries=2)
        self.run = Run(store, 5, Rule(groups=3, max_staleness=1), using)
        self.data = data
        self.actors: list[Leases] = [self.run.actor(slot) for slot in range(3)]
        self.held: list[tuple[int, Lease]] = []
        self.trained: Counter[int] = Counter()
        self.saved: Counter[int] = Counter()
        self.alive = True

    def step(self) -> None:
        happenings = (self.lease, self.lease, self.commit, self.commit, self.beat, self.expire,
                      self.fail, self.train, self.save, self.kill_actor, self.kill_learner,
                      self.restart)  # fmt: skip
        self.data.draw(st.sampled_from(happenings))()

    def lease(self) -> None:
        slot = self.data.draw(st.integers(0, 2))
        leases = self.actors[slot].lease(self.data.draw(st.integers(1, 3)), self.run.version)
        if not isinstance(leases, Wait):
            self.held += [(slot, lease) for lease in leases]
            state = self.run.prompts.state()
            assert len(state.leased) + state.waiting <= 6

    def commit(self) -> None:
        """What is held may be lost to another, and is not forgotten after it was answered."""
        if not self.held:
            return
        slot, lease = self.data.draw(st.sampled_from(self.held))
        attempt = self.run.attempt
        version = self.run.version
        commit(self.actors[slot], lease, version=version, attempt=attempt)

    def beat(self) -> None:
        for slot, actor in enumerate(self.actors):
            mine = [lease for held, lease in self.held if held == slot]
            lost = actor.heartbeat(mine)
            if self.data.draw(st.booleans()):
                self.held = [one for one in self.held if one[0] != slot or one[1] not in lost]

    def expire(self) -> None:
        if self.held:
            self.run.expire(self.data.draw(st.sampled_from(self.held))[1])

    def fail(self) -> None:
        if self.held:
            slot, lease = self.data.draw(st.sampled_from(self.held))
            self.actors[slot].fail([lease], "the reward timed out")

    def kill_actor(self) -> None:
        slot = self.data.draw(st.integers(0, 2))
        self.actors[slot] = self.run.actor(slot)
        if self.data.draw(st.booleans()):
            self.actors[slot].begin()
            self.held = [one for one in self.held if one[0] != slot]

    def train(self) -> None:
        """The learner trains on what waits, up to a batch, and publishes."""
        behind = self.run.log.take(self.run.position, count=99, timeout=0)
        waiting = [int(t) for one in behind for t in {*one.block.group}]
        new = [ticket for ticket in waiting if ticket not in self.trained][:3]
        self.trained.update(new)
        self.run.publish(self.run.version + 1)
        self.run.prompts.consumed(0, new)

    def save(self) -> None:
        """All that waits is trained on, and a checkpoint has it."""
        if self.run.log.take(self.run.position, count=1, timeout=0):
            while True:
                before = len(self.trained)
                self.train()
                if len(self.trained) == before:
                    break
            save(self.run)
            self.saved = self.trained.copy()
            if self.data.draw(st.booleans()):
                self.run.log.acknowledge(self.run.position)

    def kill_learner(self) -> None:
        self.trained = self.saved.copy()
        self.run.begin(self.run.attempt)

    def restart(self) -> None:
        """All is over and goes on from the checkpoint; perhaps in a store that is empty."""
        if self.data.draw(st.booleans()):
            self.run.store.redis.flushdb()
            self.run.store.renew()
            self.run.position = "0-0"
        self.trained = self.saved.copy()
        self.run.begin(self.run.attempt + 1)
        self.actors = [self.run.actor(slot) for slot in range(3)]
        self.held = []

    def finish(self) -> None:
        """Nothing more goes wrong: all that is open is answered and trained on."""
        self.run.begin(self.run.attempt + 1)
        self.trained = self.saved.copy()
        actor = self.run.actor()
        while True:
            leases = actor.lease(2, self.run.version)
            if isinstance(leases, Wait) and leases.over:
                break
            if not isinstance(leases, Wait):
                for lease in leases:
                    commit(actor, lease, version=self.run.version, attempt=self.run.attempt)
            self.train()
        for _ in range(4):
            self.train()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_interleaving_answers_every_prompt_once_or_puts_it_aside(
    store_url: str, data: st.DataObject
) -> None:
    store = Store.connect(store_url, "chance")
    try:
        chance = Chance(store, data)
        for _ in range(data.draw(st.integers(0, 40))):
            chance.step()
        chance.finish()
        state = chance.run.prompts.state()
        dead = Counter(one.ticket for one in state.dead)
        assert chance.trained + dead == Counter(range(10))
        assert (state.done, state.waiting, state.leased) == (len(chance.trained), 0, ())
    finally:
        store.redis.flushdb()
        store.close()
