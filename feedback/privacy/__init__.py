"""Identities, lineage, and the erasure of a person's data."""
