"""The store between actors and learners: a Redis-protocol server and what Troupe keeps in it."""

from troupe.errors import TroupeError


class StoreError(TroupeError):
    """The store is gone, full or not what it should be. The message never holds a password."""


class StoreEmptiedError(StoreError):
    """The store came back without what it held: counters must be restored before going on."""
