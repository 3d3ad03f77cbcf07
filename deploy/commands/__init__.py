"""The `plaudit` command line: `main` holds the app, the other modules its commands."""
