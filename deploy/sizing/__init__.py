"""Whether a model can be used here, and what it needs of the machine."""
