"""The rate limiter: its rule in Python and in the store agree, and no accepted setting stands still."""

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe.errors import UserError
from troupe.store import server
from troupe.store.connection import Store
from troupe.store.limiter import Counters, RateLimit, may_insert, may_sample
from troupe.store.replay import Limits, ReplayLog

steps = st.integers(1, 40)
diffs = st.integers(-40, 80) | st.floats(-40, 80).map(lambda x: round(x, 2))
rates = st.builds(
    RateLimit,
    samples_per_insert=st.sampled_from([0.25, 0.3, 1.0, 1.5, 4.0]),
    min_size=steps,
    min_diff=diffs,
    max_diff=diffs,
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplayLog]:
    folder = tmp_path_factory.mktemp("store")
    running = server.start(folder, password="p", memory_mb=32)
    yield ReplayLog(Store.connect(running.url, "limiter"))
    running.stop()


def counters(data: st.DataObject) -> Counters:
    inserts = data.draw(st.integers(0, 100))
    return Counters(inserts, data.draw(st.integers(0, 200)), data.draw(st.integers(0, inserts)))


@settings(max_examples=300, deadline=None)
@given(rates, steps, st.data())
def test_the_store_decides_as_the_rule_says(
    log: ReplayLog, rate: RateLimit, n: int, data: st.DataObject
) -> None:
    at = counters(data)
    fields = {
        "inserts": at.inserts,
        "samples": at.samples,
        "retained_steps": at.inserts - at.deletes,
        "samples_per_insert": rate.samples_per_insert,
        "min_size": rate.min_size,
        "min_diff": rate.min_diff,
        "max_diff": rate.max_diff,
        "max_staleness": 0,
        "max_bytes": 100,
    }
    keys = [log.store.key("test", name) for name in ("state", "versions", "reservations", "wait")]
    log.store.redis.delete(*keys)
    log.store.redis.hset(keys[0], mapping=fields)
    verdict = log.store.call("reserve", keys, ["token", 0, 1000, n, 10, "policy", 0])
    assert verdict == [b"ok" if may_insert(rate, at, n) else b"capacity"]
    sampled = log.store.call("may_sample", keys[:1], [n])
    assert bool(sampled) == may_sample(rate, at, n)


@st.composite
def accepted(draw: st.DrawFn) -> tuple[RateLimit, int, int]:
    """A setting that is just accepted or has a little more room, a block and a batch."""
    block, batch = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rate, slack = draw(rates), draw(st.integers(0, 3) | st.sampled_from([0.25, 0.5]))
    whole = all(float(x).is_integer() for x in (rate.samples_per_insert, rate.min_diff, slack))
    between = rate.min_diff + block * rate.samples_per_insert + batch - (1 if whole else 0)
    filling = (rate.min_size - 1 + block) * rate.samples_per_insert
    # Off a power of two, the sum may come out a rounding error too small.
    tiny = 0 if whole else 1e-9
    return dataclasses.replace(rate, max_diff=max(between, filling) + slack + tiny), block, batch


@settings(max_examples=200, deadline=None)
@given(accepted(), st.data())
def test_an_accepted_setting_never_stands_still(
    setting: tuple[RateLimit, int, int], data: st.DataObject
) -> None:
    """Whatever happens, one of the two sides may go on; steps are deleted once they were sampled."""
    rate, block, batch = setting
    rate.check(block=block, batch=batch)
    at = Counters(0, 0, 0)
    for _ in range(40):
        insert, sample = may_insert(rate, at, block), may_sample(rate, at, batch)
        assert insert or sample, at
        if insert and (not sample or data.draw(st.booleans())):
            at = at._replace(inserts=at.inserts + block)
        else:
            at = at._replace(samples=at.samples + batch)
        done = min(at.inserts, int(at.samples / rate.samples_per_insert))
        if done > at.deletes and data.draw(st.booleans()):
            at = at._replace(deletes=data.draw(st.integers(at.deletes, done)))


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        (RateLimit.queue(0), "raise the capacity"),
        (RateLimit(min_diff=5, max_diff=5), "may wait for ever"),
        (RateLimit(min_size=100, max_diff=50), "min_size=100"),
        (RateLimit(samples_per_insert=0, max_diff=50), "above 0"),
        (RateLimit(samples_per_insert=float("nan"), max_diff=50), "finite"),
        (RateLimit(max_diff=float("inf")), "finite"),
    ],
)
def test_settings_that_can_stand_still_are_refused(
    log: ReplayLog, rate: RateLimit, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        log.configure(Limits(capacity_steps=100, max_staleness=0, rate=rate))


def test_a_queue_needs_room_for_a_block_and_all_but_a_step_of_a_batch() -> None:
    RateLimit.queue(1).check()
    RateLimit.queue(99).check(block=20, batch=80)
    with pytest.raises(UserError, match=r"blocks of 20 steps and batches of 80 need 99"):
        RateLimit.queue(98).check(block=20, batch=80)
