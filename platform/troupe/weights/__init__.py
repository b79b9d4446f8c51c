"""Weights: a server that keeps the newest versions, and the client of those who learn and act."""
