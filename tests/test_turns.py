"""Turns in lockstep: whole before they are learned from, in the order of actors, each block once."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from troupe.checkpoint import Position
from troupe.episodes import Ending, Episodes
from troupe.errors import TroupeError
from troupe.store.replay import Taken
from troupe_learners.turns import Turns


def taken(number: int, slot: int, turn: int, policy: str = "a", steps: int = 2) -> Taken:
    fragments = min(steps, 1)
    block = Episodes(
        policy=policy,
        actor=f"actor-{slot}",
        incarnation=0,
        attempt=1,
        observation={},
        action={},
        reward=np.full(steps, 10 * turn + slot, np.float32),
        log_prob=np.zeros(steps, np.float32),
        version=np.full(steps, turn, np.uint32),
        length=np.full(fragments, steps, np.int32),
        seat=np.zeros(fragments, np.uint8),
        group=np.zeros(fragments, np.int64),
        ending=np.full(fragments, Ending.TERMINATED, np.uint8),
        turn=turn,
        resume=b"%d behind %d" % (slot, turn),
    )
    return Taken(f"{number}-0", block, 100)


def turns(policies: str = "a", actors: int = 2, turn: int = 0) -> Turns:
    return Turns(policies, range(actors), turn, Position(generation="g"))


def test_a_turn_waits_for_every_actor_and_is_in_their_order() -> None:
    gathered = turns(actors=3)
    for number, slot in enumerate([2, 0]):
        assert gathered.put(taken(number, slot, 0), {}) == 0
    assert gathered.ready(0) == ()
    with pytest.raises(ValueError, match="a: turn 0 is not whole"):
        gathered.take("a")
    gathered.put(taken(2, 1, 0), {})
    assert gathered.ready(0) == ("a",)
    assert [piece.block.actor for piece in gathered.take("a")] == ["actor-0", "actor-1", "actor-2"]
    assert gathered.resume == {0: b"0 behind 0", 1: b"1 behind 0", 2: b"2 behind 0"}
    assert gathered.ready(0) == ()


def test_every_policy_takes_its_part_of_a_turn_before_the_next() -> None:
    gathered = turns("ba", actors=1)
    for number, (turn, policy) in enumerate([(0, "a"), (1, "a"), (1, "b"), (0, "b")]):
        assert gathered.ready(0) == ()
        gathered.put(taken(number, 0, turn, policy), {})
    for turn in (0, 1):
        assert gathered.ready(0) == ("b", "a")
        for policy in gathered.ready(0):
            assert [piece.block.turn for piece in gathered.take(policy)] == [turn]


def test_a_block_that_comes_again_is_left_out() -> None:
    gathered = turns()
    gathered.put(taken(1, 0, 0), {})
    assert gathered.put(taken(2, 0, 0), {}) == 2
    gathered.put(taken(3, 1, 0), {})
    assert [piece.id for piece in gathered.take("a")] == ["1-0", "3-0"]
    assert gathered.put(taken(4, 1, 0), {}) == 2
    assert gathered.put(taken(5, 1, 1), {}) == 0
    assert gathered.position() == Position(generation="g", after="4-0")


def test_the_position_stays_before_what_is_yet_to_be_learned_from() -> None:
    """Also where a block has no steps: it still says that its actor has played."""
    gathered = turns()
    gathered.put(taken(1, 1, 0), {})
    gathered.put(taken(2, 1, 1, steps=0), {})
    gathered.put(taken(3, 0, 0, steps=3), {})
    assert gathered.position() == Position(generation="g", after="0-0")
    gathered.take("a")
    saved = gathered.position()
    assert saved == Position(generation="g", after="1-0", rows={"3-0": 3})
    again = Turns("a", range(2), 1, saved)
    assert again.put(taken(2, 1, 1, steps=0), {}) == 0
    assert again.put(taken(3, 0, 0, steps=3), {}) == 3
    again.put(taken(4, 0, 1), {})
    assert [piece.id for piece in again.take("a")] == ["4-0", "2-0"]


def test_nothing_is_too_old_in_lockstep() -> None:
    gathered = turns(actors=1)
    gathered.put(taken(1, 0, 0), {})
    assert gathered.drop("a", older_than=5) == []
    assert gathered.ready(0) == ("a",)


def test_a_wait_ends_when_the_turn_is_whole() -> None:
    gathered = turns(actors=1)
    thread = threading.Thread(target=gathered.put, args=(taken(1, 0, 0), {}))
    thread.start()
    assert gathered.ready(30) == ("a",)
    thread.join()


def test_an_actor_that_the_run_does_not_have_is_refused() -> None:
    stray = taken(1, 0, 0)
    stray = stray._replace(block=replace(stray.block, actor="actor-7"))
    with pytest.raises(TroupeError, match="actor-7, where only those of actors 0, 1 belong"):
        turns().put(stray, {})
