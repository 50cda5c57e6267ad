"""The site: `sphinx-build -W docs build/site`, from the pages here and from jaxgen's docstrings."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

import jaxgen  # noqa: E402

project = "jaxgen"
release = version = jaxgen.__version__
html_title = f"jaxgen {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    *("mathml", "docstrings", "api_pages", "cross_references"),  # docs/extensions
]
exclude_patterns = ["notebooks"]

html_theme = "furo"
html_copy_source = False
templates_path: list[str] = []

myst_fence_as_directive = ["math"]  # GitHub's blocks of formulas
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]

default_role = "py:obj"  # `name` in a docstring
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "special-members": "__call__",
}
autodoc_typehints = "none"  # shapes stand in the docstrings, in words that a person can read
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
toc_object_entries = False
highlight_language = "text"  # literal blocks of docstrings are formulas more often than code
html_use_index = True
html_domain_indices = False
