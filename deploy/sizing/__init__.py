"""What a model needs, and whether it can be used on this machine."""
