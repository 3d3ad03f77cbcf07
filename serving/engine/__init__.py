"""vLLM's engine, wrapped: arguments, recording, and everything that touches its internals."""
