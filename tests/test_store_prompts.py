"""Prompts in the store: leased, answered exactly once, on every server this machine has."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prompt_run import FREE, SEED, SETTINGS, Run, commit, got, prompts, refused, save, tickets
from test_store_replay import Cutting, binaries

from troupe.errors import UserError
from troupe.prompts import Prompt
from troupe.prompts.order import Order
from troupe.store import StoreError, server
from troupe.store.connection import Store
from troupe.store.leases import Holder, Lease, Leases, Wait
from troupe.store.prompt_progress import PromptProgress
from troupe.store.prompts import PromptStore, Rule
from troupe.store.replay import START, Limits, Outcome, ReplayLog


@pytest.fixture(scope="module", params=binaries(), ids=lambda path: path.name)
def store_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("store")
    running = server.start(folder, password="p", memory_mb=64, binary=request.param)
    yield running.url
    running.stop()


@pytest.fixture
def store(store_url: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    store = Store.connect(store_url, request.node.name)
    yield store
    store.redis.flushdb()
    store.close()


@pytest.fixture
def run(store: Store) -> Run:
    return Run(store)


# Leasing.


def test_a_prompt_is_leased_with_all_that_is_known_of_it_and_answered_once(run: Run) -> None:
    actor, other = run.actor(0), run.actor(1)
    first, second = got(actor.lease(2, 5))
    assert first.prompt == Prompt(0, "sort 0", answer=[0], row={"level": 0})
    assert tickets(got(other.lease(2, 5))) == [2, 3]
    state = run.prompts.state()
    assert (state.ready, len(state.leased), state.done, state.epochs) == (4, 4, 0, 1)
    assert {lease.holder for lease in state.leased} == {"actor-0", "actor-1"}
    assert all(59 < lease.left <= 60 and lease.seconds < 5 for lease in state.leased)
    assert commit(actor, first, second) is Outcome.PUSHED
    assert commit(actor, first) is Outcome.LOST
    assert run.answered() == {0: 1, 1: 1}
    state = run.prompts.state()
    assert (state.ready, len(state.leased), state.waiting, state.done) == (4, 2, 2, 2)


def test_chats_and_answers_of_any_kind_come_back_as_they_were(store: Store) -> None:
    chat = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "\ud83d 你好"})
    asked = [Prompt(0, chat, answer={"n": [1.5, None]}), Prompt(1, "x\n", answer=None)]
    learner = PromptStore(store, SETTINGS, SEED)
    learner.load(asked, 0)
    learner.restore(0, FREE, 0)
    actor = Leases(store, ReplayLog(store), Holder("actor-0", 0))
    assert [lease.prompt for lease in got(actor.lease(9, 0))] == asked


def test_every_epoch_has_an_order_of_its_own_by_the_seed(store: Store) -> None:
    run = Run(store, using=replace(SETTINGS, shuffle=True, epochs=2))
    found = got(run.actor().lease(99, 5))
    ids = [lease.prompt.id for lease in found]
    order = Order(8, SEED, shuffle=True)
    assert ids == [order.place(ticket).prompt for ticket in range(16)]
    assert sorted(ids[:8]) == sorted(ids[8:]) == list(range(8))
    assert ids[:8] != ids[8:]
    assert ids[:8] != [Order(8, SEED + 1, shuffle=True).place(t).prompt for t in range(8)]
    assert [lease.epoch for lease in found] == [0] * 8 + [1] * 8


def test_without_a_limit_epochs_follow_one_another(store: Store) -> None:
    run = Run(store, count=3, using=replace(SETTINGS, epochs=None))
    actor = run.actor()
    for _ in range(4):
        assert commit(actor, *got(actor.lease(5, 5))) is Outcome.PUSHED
    state = run.prompts.state()
    assert (state.done, state.epoch, state.epochs, state.ready) == (20, 6, 0, 1)


def test_it_says_why_there_are_no_prompts(store: Store) -> None:
    actor = Leases(store, ReplayLog(store), Holder("actor-0", 1))
    assert refused(actor.lease(1, 5)).reason.startswith("the learner, which has not brought")
    run = Run(store, count=1)
    (lease,) = got(actor.lease(5, 5))
    waits = refused(run.actor(1).lease(1, 5))
    assert waits == Wait("every prompt is given out, and 1 are being answered", over=False)
    commit(actor, lease)
    assert refused(actor.lease(1, 5)) == Wait("every prompt is answered", over=True)


def test_a_lease_that_was_sent_twice_is_granted_once(run: Run) -> None:
    keys = run.actor()._keys
    versions = run.store.key("replay", 0, "versions")
    call = [1, "token", "actor-0", 0, 3, "agent", 5]
    first, again = (run.store.call("lease", [*keys, versions], call) for _ in range(2))
    assert first == again == [b"ok", b"0", b"1", b"2"]


# Silence, failure, death.


def test_a_silent_holder_loses_its_prompt_and_can_no_longer_answer_it(run: Run) -> None:
    silent, other = run.actor(0), run.actor(1)
    lost, kept = got(silent.lease(2, 5))
    run.expire(lost)
    (again,) = got(other.lease(1, 5))
    assert (again.ticket, again.prompt) == (lost.ticket, lost.prompt)
    assert silent.heartbeat([lost, kept]) == [lost]
    assert commit(silent, lost, kept) is Outcome.LOST
    assert commit(silent, lost) is Outcome.LOST
    assert commit(other, again) is Outcome.PUSHED
    assert commit(silent, kept) is Outcome.PUSHED
    assert run.answered() == {0: 1, 1: 1}


def test_a_sign_of_life_keeps_a_prompt(store: Store) -> None:
    run = Run(store, using=replace(SETTINGS, timeout=1.0))
    actor, other = run.actor(0), run.actor(1)
    mine = got(actor.lease(1, 5))
    for _ in range(4):
        time.sleep(0.4)
        assert actor.heartbeat(mine) == []
        assert tickets(got(other.lease(1, 5))) != tickets(mine)
    time.sleep(1.1)
    assert mine[0].ticket in tickets(got(other.lease(9, 5)))


def test_a_prompt_that_fails_again_and_again_is_put_aside_with_the_reason(run: Run) -> None:
    actor = run.actor()
    for time_ in range(3):
        (lease,) = got(actor.lease(1, 5))
        assert lease.ticket == 0
        assert actor.fail([lease], f"reward number\ntimed out ({time_})") == 1
    assert tickets(got(actor.lease(1, 5))) == [1]
    state = run.prompts.state()
    assert [dead[:2] for dead in state.dead] == [(0, 3)]
    assert state.dead[0].reason == "reward number timed out (2)"
    assert abs(state.dead[0].time - time.time()) < 60


def test_silence_counts_as_failing_and_giving_back_does_not(run: Run) -> None:
    actor = run.actor()
    for _ in range(9):
        actor.release(got(actor.lease(1, 5)))
    for _ in range(3):
        run.expire(*got(actor.lease(1, 5)))
    assert tickets(got(actor.lease(1, 5))) == [1]
    assert run.prompts.state().dead[0].reason == "actor-0 had it for 0 s and fell silent"


def test_what_kills_its_holder_takes_no_other_prompt_along(store: Store) -> None:
    """Four prompts travel together; the second kills whoever has it."""
    run = Run(store, count=4)
    for _ in range(20):
        actor = run.actor()
        actor.begin()
        leases = actor.lease(4, 5)
        if isinstance(leases, Wait):
            break
        if 1 not in tickets(leases):
            for lease in leases:
                assert commit(actor, lease) is Outcome.PUSHED
    assert run.answered() == {0: 1, 2: 1, 3: 1}
    state = run.prompts.state()
    assert [(dead.ticket, dead.deliveries, dead.reason) for dead in state.dead] == [
        (1, 3, "actor-0 ended while it had it")
    ]


def test_what_can_never_be_answered_is_put_aside_at_once(run: Run) -> None:
    actor = run.actor()
    first, second = got(actor.lease(2, 5))
    assert actor.bury([first], "longer than the context: 900 of 512 tokens") == 1
    assert actor.drop([first, second], "zero variance") == 1
    state = run.prompts.state()
    assert state.dead[0].deliveries == 1
    assert state.dropped == {"zero variance": 1}
    assert commit(actor, first) is commit(actor, second) is Outcome.LOST


# The staleness rule.


def test_nothing_is_begun_that_would_be_too_old(store: Store) -> None:
    run = Run(store, count=100, rule=Rule(groups=2, max_staleness=1))
    actor = run.actor()
    leases = got(actor.lease(9, 5))
    assert len(leases) == 4
    waits = refused(actor.lease(1, 5))
    assert waits.reason.startswith("4 of 4 groups under way")
    commit(actor, *leases[:3])
    assert refused(actor.lease(1, 5)) == waits
    run.publish(6)
    run.prompts.consumed(0, tickets(leases[:2]))
    assert "newer weights: ours are 1 versions old" in refused(actor.lease(9, 5)).reason
    assert len(got(actor.lease(9, 6))) == 2


def test_dropped_and_dead_prompts_make_room(store: Store) -> None:
    run = Run(store, count=100, rule=Rule(groups=2, max_staleness=0))
    actor = run.actor()
    first, second = got(actor.lease(9, 5))
    actor.drop([first], "zero variance")
    actor.bury([second], "too long")
    assert len(got(actor.lease(9, 5))) == 2


def test_each_rank_has_room_of_its_own(store: Store) -> None:
    learner = PromptStore(store, SETTINGS, SEED, shards=2)
    learner.load(prompts(8), 0)
    for shard in range(2):
        learner.restore(shard, Rule(1, 0), 0)
        actor = Leases(store, ReplayLog(store, shard), Holder(f"actor-{shard}", 0))
        assert tickets(got(actor.lease(9, 0))) == [shard]
        assert refused(actor.lease(9, 0)).reason.startswith("1 of 1 groups")


def test_a_block_that_is_too_old_gives_its_prompt_back(run: Run) -> None:
    actor = run.actor()
    leases = got(actor.lease(1, 5))
    run.publish(8)
    assert commit(actor, *leases, version=5) is Outcome.STALE
    (again,) = got(actor.lease(1, 8))
    assert commit(actor, again, version=8) is Outcome.PUSHED
    assert run.answered() == {0: 1}


# Lockstep.


def test_in_lockstep_an_actor_leases_exactly_its_own(store: Store) -> None:
    run = Run(store, count=8)
    second, first = run.actor(1), run.actor(0)
    assert tickets(got(second.lease_these([4]))) == [4]
    assert tickets(got(first.lease_these([0, 2]))) == [0, 2]
    assert tickets(got(first.lease_these([6, 8]))) == [6]
    assert tickets(got(second.lease_these([7]))) == [7]
    assert got(second.lease_these([10])) == []
    assert run.prompts.state().ready == 3


def test_in_lockstep_a_turn_played_again_changes_nothing(run: Run) -> None:
    actor = run.actor()
    before = got(actor.lease_these([0, 1, 2]))
    again = got(run.actor().lease_these([0, 1, 2]))
    assert commit(actor, *before) is Outcome.LOST
    assert run.actor().drop(again[2:], "zero variance") == 1
    assert commit(run.actor(), *again[:2]) is Outcome.PUSHED
    later = got(run.actor().lease_these([0, 1, 2]))
    assert [lease.closed for lease in later] == [True] * 3
    assert run.actor().drop(later[2:], "zero variance") == 0
    assert commit(run.actor(), *later[:2]) is Outcome.PUSHED
    assert run.answered() == {0: 1, 1: 1}
    assert run.prompts.state().dropped == {"zero variance": 1}


# Committing.


@pytest.mark.parametrize("after", [False, True])
def test_a_connection_that_breaks_in_a_commit_neither_loses_nor_doubles_the_answer(
    run: Run, after: bool, store_url: str
) -> None:
    way = Cutting(store_url, after=after)
    way.start()
    run.store, direct = Store.connect(way.url, run.store.run), run.store
    actor = run.actor()
    assert commit(actor, *got(actor.lease(2, 5))) is Outcome.PUSHED
    assert way.cuts == 1
    run.store.close()
    run.store = direct
    assert run.answered() == {0: 1, 1: 1}
    assert run.log.state().inserts == 12
    assert run.prompts.state().done == 2


def test_an_earlier_attempt_is_shut_out_and_its_prompts_are_free_at_once(run: Run) -> None:
    zombie, old = run.actor(), run.prompts
    leases = got(zombie.lease(2, 5))
    run.begin(attempt=2)
    assert refused(zombie.lease(1, 5)) == Wait("the run was started again since", over=True)
    assert commit(zombie, *leases) is Outcome.FENCED
    assert tickets(got(run.actor().lease(3, 5))) == [0, 1, 2]
    for call in (
        lambda: old.consumed(0, [0]),
        lambda: old.restore(0, FREE, 1),
        lambda: old.load(prompts(8), 1),
    ):
        with pytest.raises(StoreError, match="attempt 1 is over"):
            call()


def test_a_commit_waits_for_room_and_keeps_its_prompts(store: Store) -> None:
    run = Run(store, using=replace(SETTINGS, timeout=1.0))
    run.log.configure(Limits(capacity_steps=6, max_staleness=2))
    actor, other = run.actor(0), run.actor(1)
    first, second = got(actor.lease(2, 5))
    commit(actor, first)
    done: list[Outcome] = []
    thread = threading.Thread(target=lambda: done.append(commit(actor, second)))
    thread.start()
    for _ in range(4):
        time.sleep(0.4)
        assert second.ticket not in tickets(got(other.lease(1, 5)))
    run.log.sampled(6)
    thread.join(10)
    assert done == [Outcome.PUSHED]


def test_over_the_memory_limit_prompts_go_on_and_blocks_wait(run: Run) -> None:
    actor = run.actor()
    leases = got(actor.lease(2, 5))
    used = int(run.store.redis.info("memory")["used_memory"])
    try:
        run.store.redis.config_set("maxmemory", used - 1000)
        done: list[Outcome] = []
        thread = threading.Thread(target=lambda: done.append(commit(actor, leases[0])))
        thread.start()
        other = run.actor(1)
        assert other.release(got(other.lease(1, 5))) == 1
        assert other.heartbeat(leases) == []
        time.sleep(0.1)
        assert not done
    finally:
        run.store.redis.config_set("maxmemory", 64 * 2**20)
    thread.join(10)
    assert done == [Outcome.PUSHED]


# Loading, and going on.


def test_prompts_are_loaded_once_and_half_a_load_counts_for_nothing(store: Store) -> None:
    PromptStore(store, SETTINGS, SEED)._stage(store.key("prompts", "staged", "dead"), prompts(5))
    run = Run(store)
    leases = got(run.actor().lease(2, 5))
    run.begin(attempt=1)
    run.begin(attempt=1)
    assert commit(run.actor(), *leases) is Outcome.PUSHED
    staged = list(store.redis.scan_iter("*:staged:*"))
    assert len(staged) == 1
    assert 0 < store.redis.ttl(staged[0]) <= 3600


def test_other_prompts_than_before_are_a_mistake(run: Run) -> None:
    changed = [*prompts(7), Prompt(7, "sort something else")]
    other_order = PromptStore(run.store, replace(SETTINGS, shuffle=True), SEED)
    for call in (
        lambda: run.prompts.load(changed, 1),
        lambda: other_order.load(prompts(8), 1),
        lambda: run.prompts.load(prompts(8), 1, PromptProgress(fingerprint="another")),
    ):
        with pytest.raises(UserError, match=r"prompts\.jsonl: .*start a new run"):
            call()


def test_a_restarted_learner_finds_its_counters(store: Store) -> None:
    run = Run(store, count=100, rule=Rule(groups=2, max_staleness=1))
    actor = run.actor()
    leases = got(actor.lease(4, 5))
    commit(actor, leases[0])
    save(run)
    commit(actor, leases[1])
    run.prompts.consumed(0, [1])  # and dies before it is saved
    run.begin(attempt=1)
    assert run.prompts.state().waiting == 1
    assert len(got(actor.lease(9, 5))) == 1
    run.log.acknowledge(run.position)
    run.begin(attempt=1)
    assert run.prompts.state().waiting == 1
    assert (run.prompts.state().done, run.answered()) == (2, {1: 1})


def test_a_store_that_came_back_empty_goes_on_from_the_checkpoint(store: Store) -> None:
    run = Run(store, count=12)
    actor = run.actor()
    leases = got(actor.lease(8, 5))
    commit(actor, *leases[:2])
    actor.bury(leases[2:3], "too long")
    actor.drop(leases[3:4], "zero variance")
    actor.fail(leases[4:5], "timed out")
    save(run)
    assert run.saved is not None
    assert run.saved.open == (4, 5, 6, 7)
    commit(actor, *leases[5:6])
    store.redis.flushdb()
    store.renew()
    run.position = START
    run.begin(attempt=2)
    state = run.prompts.state()
    assert (state.done, len(state.dead), state.dropped) == (2, 1, {"zero variance": 1})
    assert tickets(got(run.actor().lease(99, 5))) == [4, 5, 6, 7, 8, 9, 10, 11]
    run.actor().fail([Lease(4, "", 0, prompts(1)[0])], "not ours")
    assert run.prompts.progress().deliveries == {"4": "1 timed out"}


def test_a_learner_that_lives_on_knows_what_it_consumed_since(store: Store) -> None:
    run = Run(store, count=6)
    actor = run.actor()
    leases = got(actor.lease(4, 5))
    commit(actor, leases[0])
    save(run)
    commit(actor, leases[2])
    run.prompts.consumed(0, [2])
    store.redis.flushdb()
    store.renew()
    run.position, run.saved = START, run.prompts.now()
    run.begin(attempt=1)
    assert tickets(got(run.actor().lease(99, 5))) == [1, 3, 4, 5]
    assert run.prompts.state().done == 2


def test_an_older_checkpoint_opens_again_what_was_answered_since(store: Store) -> None:
    run = Run(store, count=6)
    actor = run.actor()
    leases = got(actor.lease(5, 5))
    commit(actor, leases[0])
    save(run)
    older, at = run.saved, run.position
    commit(actor, leases[1])
    save(run)
    run.log.acknowledge(run.position)
    commit(actor, leases[2])
    run.saved, run.position = older, at
    run.begin(attempt=2)
    state = run.prompts.state()
    assert (state.done, state.waiting) == (2, 1)
    assert tickets(got(run.actor().lease(99, 5))) == [1, 3, 4, 5]


def test_a_store_that_lost_its_last_second_does_not_ask_again_what_is_trained_on(
    store: Store,
) -> None:
    run = Run(store, 4)
    actor = run.actor()
    first, second = got(actor.lease(2, 5))
    actor.fail([second], "timed out")
    held = {name: store.redis.dump(name) for name in store.redis.scan_iter()}
    assert commit(actor, first, *got(actor.lease(1, 5))) is Outcome.PUSHED
    save(run)
    assert run.saved is not None
    assert (run.saved.done, run.saved.deliveries) == (2, {})
    store.redis.flushdb()
    for name, value in held.items():
        store.redis.restore(name, 0, value or b"")
    run.begin(attempt=1)
    assert tickets(got(run.actor().lease(9, 5))) == [2, 3]
    assert run.prompts.state().done == 2
