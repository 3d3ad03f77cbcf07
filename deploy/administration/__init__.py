"""Operators' commands on policies, keys, feedback and dead letters."""
