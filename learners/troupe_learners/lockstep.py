"""How a lockstep run begins: each actor finds what it needs for the first turn, then the word to go."""

from collections.abc import Mapping

from troupe.store.board import Board

DOCUMENT = "lockstep"
"""On the board: the attempt, and the turn that it begins with."""


def begun(board: Board, attempt: int) -> bool:
    """Whether this attempt at the run has begun: then actors are on their way, with states of their own."""
    document = board.get(DOCUMENT)
    return document is not None and document.get("attempt") == attempt


def begin(board: Board, attempt: int, turn: int, resume: Mapping[int, bytes], actors: int) -> None:
    """Let every actor go on at a turn, from the state that it had there.

    Args:
        board: where the word to go is put up.
        attempt: how often the run had been started before.
        turn: the first to be played; every version that it needs is published.
        resume: by actor, what it needs for that; nothing where it begins from nothing.
        actors: how many there are.
    """
    store = board.store
    with store.guard():
        pipe = store.redis.pipeline()
        for slot in range(actors):
            key = store.key(DOCUMENT, slot)
            pipe.delete(key)
            if slot in resume:
                pipe.hset(key, mapping={"turn": turn, "state": resume[slot]})
        pipe.execute()
    board.put(DOCUMENT, {"attempt": attempt, "turn": turn})
