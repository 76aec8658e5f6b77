"""How Sphinx builds the pages; `docs/make.py` gathers them and calls it."""

from d90._version import __version__

project = "d90"
author = "The d90 developers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "d90"
html_extra_path = ["extra"]
html_show_sphinx = html_show_copyright = False

default_role = "code"  # docstrings write `names` as Markdown does
myst_heading_anchors = 3
highlight_language = "none"  # a block without a language is output, a tree or the grammar

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Class attributes", "params_style")]
