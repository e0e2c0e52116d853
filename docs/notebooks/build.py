"""Write the notebooks: each `.py` here (in jupytext's percent format) is executed.

python docs/notebooks/build.py [NAME ...]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

HERE = Path(__file__).parent
GUIDES = sorted(path for path in HERE.glob("*.py") if path != Path(__file__))
HOME = "/home/you"  # what a directory of this machine is called in the outputs
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
ENV = {"OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # the models are small
LIMIT_S = 180  # for one cell


def source(guide):
    """Return a notebook without outputs."""
    notebook = jupytext.read(guide, fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:02d}"
        cell.metadata = {}
    return notebook


def execute(guide, directory):
    """Return a notebook with the outputs that it has in an empty directory.

    Args:
        guide: The `.py`.
        directory: Where it runs, and a kernel that is the Python of this process gets its sockets.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = source(guide)
    work = Path(directory, "work")
    work.mkdir()
    client = NotebookClient(
        notebook,
        timeout=LIMIT_S,
        kernel_name=_kernel(Path(directory)),
        resources={"metadata": {"path": str(work)}},
        config=Config(KernelManager={"transport": "ipc", "ip": str(Path(directory, "ipc"))}),
    )
    client.execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _tidy(cell.outputs, str(work.resolve()))
    return notebook


def _kernel(directory):
    """Return the name of a kernel specification in a directory of its own."""
    spec = directory / "jupyter" / "kernels" / "here"
    spec.mkdir(parents=True)
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.joinpath("kernel.json").write_text(
        json.dumps({"argv": launch, "display_name": "here", "language": "python", "env": ENV})
    )
    os.environ["JUPYTER_PATH"] = str(directory / "jupyter")
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        os.environ[name] = str(directory / name.lower())
    return "here"


def _tidy(outputs, work):
    """Return outputs in which what was printed piece by piece is one, without our directories."""
    tidied = []
    for output in outputs:
        last = tidied[-1] if tidied else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            tidied.append(output)
    text = json.dumps(tidied).replace(json.dumps(work)[1:-1], HOME)
    return [nbformat.from_dict(output) for output in json.loads(text)]


def main(names):
    """Write the notebooks of these names, or all."""
    for guide in GUIDES:
        if not names or guide.stem in names:
            with tempfile.TemporaryDirectory(prefix="nb-") as directory:
                notebook = execute(guide, directory)
            nbformat.write(notebook, guide.with_suffix(".ipynb"))
            print(guide.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
