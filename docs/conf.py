"""The documentation site: Sphinx over these pages. `.ci/site` builds it, CONTRIBUTING.md says how to see it at home."""

import json
import os
import re
import sys
from datetime import date
from pathlib import Path

import genfw
from genfw.plugins import load_plugins
from genfw.recipes.schema import export

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/genfw/genfw"

project = "genfw"
author = "The genfw maintainers"
copyright = f"{date.today().year}, {author}"
version = release = genfw.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "jupyter_execute", "**/.ipynb_checkpoints"]

# -- pages in Markdown
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

# -- tutorials: notebooks that run when the site is built
# GENFW_DOCS=full runs them as a reader would (minutes); anything else takes a few steps of everything (seconds).
os.environ.setdefault("GENFW_DOCS", "smoke")
# Notebooks call the `genfw` of the environment that builds the site, also where that is not activated.
genfw_command = Path(sys.executable).parent / "genfw"
folders = [str(genfw_command.parent), os.environ.get("PATH", "")]
if os.environ["GENFW_DOCS"] != "full":
    # Commands stand on the pages as a reader types them: before the real genfw lies one that adds --smoke.
    shim = ROOT / "docs" / "_build" / "smoke" / "genfw"
    shim.parent.mkdir(parents=True, exist_ok=True)
    smoke = 'case "$1" in run|sweep) set -- "$@" --smoke ;; esac'
    shim.write_text(f'#!/bin/sh\n{smoke}\nexec "{genfw_command}" "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    folders.insert(0, str(shim.parent))
os.environ["PATH"] = os.pathsep.join(folders)
os.environ["COLUMNS"] = "88"
os.environ.pop("MPLBACKEND", None)  # figures would be drawn and not shown
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "docs" / "_build" / f"notebooks-{os.environ['GENFW_DOCS']}")
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_execution_in_temp = True
nb_merge_streams = True

# -- the reference of Python names, from their docstrings
autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say types and shapes in words
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Arguments", "params_style")]

# -- how it looks
html_theme = "furo"
html_title = "genfw"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#7db7f5", "color-brand-content": "#7db7f5"},
}
# Editors read the schema of recipes from here.
html_extra_path = ["_build/schema"]
SCHEMA = ROOT / "docs" / "_build" / "schema" / "recipe.schema.json"
SCHEMA.parent.mkdir(parents=True, exist_ok=True)
SCHEMA.write_text(json.dumps(export(load_plugins(enabled=False)), indent=1), encoding="utf-8")
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# -- links
# Anchors of pages that a script draws are no text of the page.
linkcheck_anchors_ignore_for_url = [re.escape(REPOSITORY) + ".*"]
linkcheck_timeout = 20
linkcheck_retries = 2
