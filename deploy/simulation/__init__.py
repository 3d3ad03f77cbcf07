"""Simulated raters: `plaudit simulate`."""
