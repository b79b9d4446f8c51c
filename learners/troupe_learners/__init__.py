"""Learners: what turns experience into new weights."""
