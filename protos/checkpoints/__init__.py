"""The checkpoint registry: a local folder, or any fsspec URL."""
