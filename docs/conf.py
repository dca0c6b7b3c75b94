"""Sphinx: MyST pages beside the code, built with every warning an error (`make docs`)."""

import tomllib
from pathlib import Path

_project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = _project["name"]
release = version = _project["version"]
author = _project["authors"][0]["name"]
copyright = f"2026, {author}"  # Sphinx asks for this name

extensions = ["myst_parser", "sphinx.ext.doctest"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"agentaudit {release}"
# The pages are read in air-gapped places: nothing of them may come from elsewhere.
html_static_path: list[str] = []
