"""How the documentation is built: ``sphinx-build -n -W docs OUT``.  Nothing is fetched: inventories are vendored."""

import importlib.metadata
from pathlib import Path

HERE = Path(__file__).parent

project = "numbadense"
author = "the numbadense contributors"
copyright = author
release = version = importlib.metadata.version("numbadense")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]

exclude_patterns = ["_build", "examples", "inventories", "static", "templates"]
templates_path = ["templates"]
nitpicky = True
rst_prolog = r".. |x| replace:: \|x\|"  # in a docstring, the absolute value of x
show_warning_types = True

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say the types, with their shapes
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False  # a class's page lists its members in full
toc_object_entries_show_parents = "hide"

intersphinx_mapping = {
    "python": ("https://docs.python.org/3", str(HERE / "inventories" / "python.inv")),
    "numpy": ("https://numpy.org/doc/stable", str(HERE / "inventories" / "numpy.inv")),
    "numba": ("https://numba.readthedocs.io/en/stable", str(HERE / "inventories" / "numba.inv")),
    "scipy": ("https://docs.scipy.org/doc/scipy", str(HERE / "inventories" / "scipy.inv")),
}

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "plot_",
    "abort_on_example_error": True,
    "min_reported_time": 3600,
    "show_memory": False,
    "download_all_examples": False,
    "show_signature": False,
    "reference_url": {"numbadense": None},
}

html_theme = "pydata_sphinx_theme"
html_title = "numbadense"
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "numbadense"},
    "header_links_before_dropdown": 4,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
}
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_sidebars = {"architecture": [], "arrays": [], "gallery/*": [], "index": []}
