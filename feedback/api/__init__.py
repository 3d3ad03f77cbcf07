"""The feedback API over HTTP."""
