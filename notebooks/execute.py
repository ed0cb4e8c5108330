#!/usr/bin/env python3
"""Run the notebooks and save them with what they show, ready to be read on a code-hosting site.

    python notebooks/execute.py [neural_style_transfer.ipynb] [explore.ipynb]

Both by default; it takes minutes. Kept are text and pictures. Of what needs a running notebook,
HTML that moves and widgets, the picture that comes with it is kept, or the one that the cell's
metadata name as its "still"; and of the metadata nothing that tells of the machine.
"""

import base64
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = {"image/png", "image/jpeg"}


def execute(path: Path) -> None:
    """Run a notebook in its folder, and save it in place once all of it has run."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, resources={"metadata": {"path": path.parent}})
    client.record_timing = False
    client.execute()
    strip(notebook, path.parent)
    nbformat.write(notebook, path)


def strip(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Leave of outputs and metadata what can be read anywhere; changes the notebook in place."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [x for x in cell.outputs if keep(x, cell.metadata.get("still"), folder)]


def keep(output: nbformat.NotebookNode, still: str | None, folder: Path) -> bool:
    """Reduce an output to a picture or else to text; False if neither is left of it."""
    if "data" not in output:
        return True
    output.metadata = {}
    if WIDGET in output.data and still and (folder / still).is_file():
        data = base64.b64encode((folder / still).read_bytes()).decode()
        output.data = {"image/jpeg": data}
    elif PICTURES & output.data.keys():
        output.data = {kind: output.data[kind] for kind in PICTURES & output.data.keys()}
    elif WIDGET in output.data or "text/html" in output.data:
        return False
    return True


if __name__ == "__main__":
    for name in sys.argv[1:] or ["neural_style_transfer.ipynb", "explore.ipynb"]:
        execute(HERE / name)
