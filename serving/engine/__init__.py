"""vLLM's engine: arguments, recording, and everything that relies on its internals."""
