"""Language models: loading, forward passes, adapters, training state, several processes."""
