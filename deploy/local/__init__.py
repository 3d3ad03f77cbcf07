"""Run all of Plaudit, and a Kafka broker, on one machine: `plaudit up` and `plaudit kafka`."""
