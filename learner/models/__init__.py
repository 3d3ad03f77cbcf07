"""Language models: construction, adapters, checkpoints, several processes."""
