"""Troupe: actors make experience, a store carries it, learners turn it into weights."""

__version__ = "0.1.0"
