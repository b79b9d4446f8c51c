"""The ring: exact batches, in order, each row once, also across crashes."""

import threading
from collections import Counter

import numpy as np
import pytest
import texts
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe.checkpoint import Position
from troupe.episodes import Ending, Episodes
from troupe.store.replay import Taken
from troupe_learners.batches import Piece
from troupe_learners.ring import Ring

BLOCK = tuple[str, str, int]
"""Id, policy, rows."""


def taken(id_: str, policy: str, rows: int, version: int = 0) -> Taken:
    """A block whose rewards say where its steps come from."""
    number = int(id_.partition("-")[0])
    block = Episodes(
        policy=policy,
        actor="actor-0",
        incarnation=0,
        attempt=1,
        observation={},
        action={},
        reward=(1000 * number + np.arange(rows)).astype(np.float32),
        log_prob=np.zeros(rows, np.float32),
        version=np.full(rows, version, np.uint32),
        length=np.array([rows], np.int32),
        seat=np.zeros(1, np.uint8),
        group=np.zeros(1, np.int64),
        ending=np.full(1, Ending.TERMINATED, np.uint8),
    )
    return Taken(id_, block, 100)


def put(ring: Ring, block: BLOCK, oldest: int = 0) -> int:
    """Append a block whose rows say where they come from."""
    return ring.put(taken(*block, oldest), {})


def rows_of(pieces: list[Piece]) -> list[int]:
    return [int(row) for piece in pieces for row in piece.cut(piece.block.reward)]


def test_blocks_are_split_and_joined_at_row_level() -> None:
    ring = Ring(["a", "b"], 4, Position())
    for block in [("1-0", "a", 3), ("2-0", "b", 9), ("3-0", "a", 3)]:
        put(ring, block)
    assert ring.ready(0) == ("b", "a")
    assert rows_of(ring.take("a")) == [1000, 1001, 1002, 3000]
    assert rows_of(ring.take("b")) == [2000, 2001, 2002, 2003]
    assert ring.position() == Position(after="1-0", rows={"2-0": 4, "3-0": 1})
    assert rows_of(ring.take("b")) == [2004, 2005, 2006, 2007]
    assert ring.ready(0) == ()
    with pytest.raises(ValueError, match="a: 2 steps of 4"):
        ring.take("a")


def test_batches_of_groups_are_of_whole_blocks_and_stale_groups_are_dropped_whole() -> None:
    ring = Ring(["agent"], 3, Position(), grouped=True)
    stale = texts.block(version=1)
    stale.version[1:] = 5  # only its first token is too old
    for number, one in enumerate(
        (stale, texts.block(version=5), texts.block(version=5, slot=1)), 1
    ):
        ring.put(Taken(f"{number}-0", one, 100), {})
    assert [piece.block for piece in ring.drop("agent", older_than=2)] == [stale]
    assert ring.ready(0) == ("agent",)
    pieces = ring.take("agent")
    assert [piece.block.actor for piece in pieces] == ["actor-0", "actor-1"]
    assert ring.ready(0) == ()
    with pytest.raises(ValueError, match="agent: 0 groups of 3"):
        ring.take("agent")
    assert ring.position() == Position(after="3-0")


def test_old_blocks_are_dropped_and_count_as_consumed() -> None:
    ring = Ring(["a"], 4, Position())
    put(ring, ("1-0", "a", 6), oldest=3)
    put(ring, ("2-0", "a", 6), oldest=5)
    ring.take("a")
    assert ring.drop("a", older_than=3) == []
    assert sum(piece.steps for piece in ring.drop("a", older_than=5)) == 2
    assert ring.position() == Position(after="1-0")
    assert rows_of(ring.take("a")) == [2000, 2001, 2002, 2003]


def test_a_wait_ends_when_a_batch_is_full() -> None:
    ring = Ring(["a"], 4, Position())
    thread = threading.Thread(target=put, args=(ring, ("1-0", "a", 4)))
    thread.start()
    assert ring.ready(30) == ("a",)
    thread.join()


def test_a_new_stream_starts_from_nothing() -> None:
    ring = Ring(["a"], 4, Position(generation="old", after="7-0", rows={"9-0": 2}))
    put(ring, ("9-0", "a", 8))
    ring.restart(Position(generation="new"))
    assert ring.ready(0) == ()
    assert ring.position() == Position(generation="new")
    assert put(ring, ("9-0", "a", 8)) == 0


def test_whole_blocks_make_a_batch_of_a_few_more_steps() -> None:
    ring = Ring(["a"], 5, Position(), whole=True)
    for block in [("1-0", "a", 3), ("2-0", "a", 4), ("3-0", "a", 4)]:
        put(ring, block)
    pieces = ring.take("a")
    assert [(piece.id, piece.rows, piece.steps) for piece in pieces] == [
        ("1-0", None, 3),
        ("2-0", None, 4),
    ]
    assert ring.ready(0) == ()
    assert ring.position() == Position(after="2-0")


def test_blocks_that_are_still_needed_come_again_and_count_once() -> None:
    ring = Ring(["a"], 4, Position(), whole=True, retained_bytes=1000)
    for number in range(1, 5):
        put(ring, (f"{number}-0", "a", 4))
    for _ in range(3):
        ring.take("a")
    saved = ring.position(["3-0", "2-0"])
    assert saved == Position(after="1-0", rows={"2-0": 4, "3-0": 4})
    again = Ring(["a"], 4, saved, whole=True, retained_bytes=1000)
    assert [put(again, (f"{number}-0", "a", 4)) for number in (2, 3, 4)] == [4, 4, 0]
    pieces = again.take("a")
    assert [(piece.id, piece.fresh) for piece in pieces] == [
        ("2-0", False),
        ("3-0", False),
        ("4-0", True),
    ]
    assert again.position(["3-0"]) == Position(after="2-0", rows={"3-0": 4, "4-0": 4})


def test_what_is_needed_keeps_no_more_than_its_share_of_the_store() -> None:
    ring = Ring(["a"], 4, Position(), whole=True, retained_bytes=250)
    for number in range(1, 5):
        put(ring, (f"{number}-0", "a", 4))
    for _ in range(4):
        ring.take("a")
    assert ring.position(["1-0"]).after == "2-0"


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 12)), max_size=40),
    batch=st.integers(1, 10),
    data=st.data(),
)
def test_nothing_is_lost_and_nothing_trained_twice(
    rows: list[tuple[str, int]], batch: int, data: st.DataObject
) -> None:
    """Random blocks, random turns, random crashes back to the last checkpoint."""
    blocks = [(f"{i + 1}-0", policy, count) for i, (policy, count) in enumerate(rows)]
    number = {id_: i + 1 for i, (id_, _, _) in enumerate(blocks)} | {"0-0": 0}
    trained: list[int] = []
    saved, saved_trained = Position(), list(trained)
    ring, following = Ring("abc", batch, saved), 0
    for _ in range(data.draw(st.integers(0, 60))):
        match data.draw(st.sampled_from(["put", "put", "train", "train", "save", "crash"])):
            case "put" if following < len(blocks):
                put(ring, blocks[following])
                following += 1
            case "train" if ready := ring.ready(0):
                policy, *_ = ready
                trained += rows_of(ring.take(policy))
            case "save":
                saved, saved_trained = ring.position(), list(trained)
                saved = Position.model_validate_json(saved.model_dump_json())
            case "crash":
                # The store kept everything behind the acknowledged id; weights go back too.
                ring, trained = Ring("abc", batch, saved), list(saved_trained)
                following = number[saved.after]
    for block in blocks[following:]:
        put(ring, block)
    while ready := ring.ready(0):
        policy, *_ = ready
        trained += rows_of(ring.take(policy))
    everything = {
        policy: [1000 * number[id_] + r for id_, p, count in blocks if p == policy for r in range(count)]
        for policy in "abc"
    }  # fmt: skip
    assert max(Counter(trained).values(), default=1) == 1
    for policy, expected in everything.items():
        mine = [row for row in trained if row in set(expected)]
        assert mine == expected[: len(expected) // batch * batch], policy
