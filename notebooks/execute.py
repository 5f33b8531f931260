"""Runs quickstart.ipynb and stores it with its outputs: python notebooks/execute.py

What is stored holds nothing of the machine it ran on: no times, no paths, no name of a kernel.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent / "quickstart.ipynb"
ROOT = NOTEBOOK.parents[1]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(notebook, folder, timeout=900):
    """Runs all cells in a process of its own, with this Python, and puts their outputs into the notebook.

    Args:
        notebook: `nbformat.NotebookNode`.
        folder: path, where the notebook runs; Jupyter's own files are stored there too, not in the home directory.
        timeout: int, seconds for each cell.

    Returns:
        The notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    home = Path(folder) / ".jupyter"
    settings = {
        "IPYTHONDIR": home / "ipython",
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",  # hence no kernel of the user's: the one of this Python is taken
        "JUPYTER_RUNTIME_DIR": home / "runtime",
    }
    home.mkdir(parents=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    before = dict(os.environ)
    os.environ.update({name: str(value) for name, value in settings.items()}, PYTHONPATH=path)
    try:
        client = NotebookClient(
            notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        return client.execute()
    finally:
        os.environ.clear()
        os.environ.update(before)


def clean(notebook):
    """Removes what differs between runs and machines, and TensorFlow's own log."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        executed = execute(nbformat.read(NOTEBOOK, as_version=4), scratch)
    nbformat.write(clean(executed), NOTEBOOK)
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1000:.0f} kB", file=sys.stderr)
