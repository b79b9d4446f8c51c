"""Actors: what makes experience, and what judges it."""
