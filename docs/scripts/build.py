"""Write the generated pages while mkdocs builds the site (mkdocs-gen-files runs this)."""

import sys
from pathlib import Path

import mkdocs_gen_files

sys.path.insert(0, str(Path(__file__).parents[2]))

from docs.scripts.pages import changelog, contributing, reference_pages

PAGES = {"changelog.md": changelog(), "contributing.md": contributing(), **reference_pages()}

for path, text in PAGES.items():
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)
