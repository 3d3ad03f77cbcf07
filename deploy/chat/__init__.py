"""Chat and votes in the terminal: `plaudit chat`."""
