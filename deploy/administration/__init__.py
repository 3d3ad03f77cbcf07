"""What operators do with policies, keys, persons, backups and dead letters."""
