"""Draw questions and requests, one module for each kind, with what an answer says."""
