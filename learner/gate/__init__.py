"""Decide whether a candidate goes live: the gate before publication, the trial after it."""
