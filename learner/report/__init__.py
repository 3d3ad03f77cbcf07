"""The report of a learning cycle, as data and as a Markdown page."""
