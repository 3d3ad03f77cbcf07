"""Running everything on one machine: `plaudit up` and `plaudit kafka`."""
