"""What operators do with policies, keys, feedback and dead letters."""
