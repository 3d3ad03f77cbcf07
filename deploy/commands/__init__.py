"""The `plaudit` command line, one module for each command group."""
