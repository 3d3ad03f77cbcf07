"""Votes in files: `plaudit feedback export` and `import`, and the shapes that they take."""
