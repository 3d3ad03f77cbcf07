"""The event log: one interface, on SQLite and on Kafka."""
