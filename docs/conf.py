"""The documentation site: `make docs`. The pages are Markdown that reads well on GitHub, too."""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

os.environ.setdefault(
    "KERAS_BACKEND", "torch"
)  # the API pages import the package, and with it Keras
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "keras-ratchet"
author = "The keras-ratchet developers"
copyright = author
release = installed_version("keras-ratchet")
version = release.split("+")[0]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "sphinx_copybutton",
    "docstrings",
    "repository",
    "sitecheck",
]
exclude_patterns = ["_*"]

# Pages

repository_url = "https://github.com/keras-ratchet/keras-ratchet"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # links such as resume.md#custom-loops, as on GitHub
smartquotes_action = "D"  # dashes, but not quotes: "min" is a value
nb_execution_mode = "off"  # the notebooks are committed with their output, and a test runs them

# API pages

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"  # long signatures are unreadable with types in them
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_mock_imports = [  # the clients of integrations, which are installed apart
    "huggingface_hub",
    "keras_tuner",
    "mlflow",
    "optuna",
    "ray",
    "tensorboardX",
    "wandb",
]
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of a class as a list, as they stand in its docstring
default_role = "name"  # `x` in a docstring: see _ext/docstrings.py

# What it looks like

github = (Path(__file__).parent / "_pictures" / "github.svg").read_text()
html_theme = "furo"
html_title = f"keras-ratchet {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "source_repository": repository_url,
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["view", "edit"],
    "footer_icons": [{"name": "GitHub", "url": repository_url, "html": github, "class": ""}],
}
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
