#!/usr/bin/env python3
"""Run the notebooks and save them with what they show, ready to be read on a code-hosting site.

    python notebooks/execute.py [neural_style_transfer.ipynb] [explore.ipynb]
    python notebooks/execute.py --repository [https://github.com/NAME/PROJECT]

Both by default; it takes minutes. Kept are text and pictures. Of what needs a running notebook,
HTML that moves and widgets, the picture that comes with it is kept, or the one that the cell's
metadata name as its "still"; and of the metadata nothing that tells of the machine.

--repository runs nothing: it sets the address [that of the git remote origin] from which the
notebooks fetch the program on Colab, and the buttons, README.md's too, that open them there.
"""

import argparse
import base64
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
NOTEBOOKS = ["neural_style_transfer.ipynb", "explore.ipynb"]
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


def origin() -> str:
    """The address of the git remote of that name, empty where there is none."""
    command = ["git", "remote", "get-url", "origin"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False).stdout


def project_of(address: str) -> str:
    """NAME/PROJECT of a repository on GitHub, from any address that git takes. Raises ValueError
    for one elsewhere, which Colab would not open."""
    found = re.fullmatch(r".*\bgithub\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?/?", address.strip())
    if not found:
        raise ValueError(f"{address.strip() or 'nothing'} is no address of a repository on GitHub")
    return found[1]


def with_button(text: str, project: str, name: str) -> str:
    """A page in Markdown with a button below its title that opens the notebook on Colab."""
    colab = "https://colab.research.google.com"
    address = f"{colab}/github/{project}/blob/main/notebooks/{name}"
    button = f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({address})"
    title, below = re.sub(r"\[!\[Open in Colab\].*\n\n", "", text).split("\n\n", 1)
    return f"{title}\n\n{button}\n\n{below}"


def set_repository(project: str, root: Path) -> None:
    """Write NAME/PROJECT on GitHub into the notebooks and README.md of this folder."""
    for name in NOTEBOOKS:
        path = root / "notebooks" / name
        notebook = nbformat.read(path, as_version=4)
        title = notebook.cells[0]
        title.source = with_button(title.source, project, name)
        for cell in notebook.cells:
            field = f'REPOSITORY = "https://github.com/{project}"'
            cell.source = re.sub(r'^REPOSITORY = ".*?"', field, cell.source, flags=re.MULTILINE)
        nbformat.write(notebook, path)
    readme = root / "README.md"
    readme.write_text(with_button(readme.read_text("utf-8"), project, NOTEBOOKS[0]), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", default=NOTEBOOKS)
    parser.add_argument("--repository", nargs="?", const="", metavar="ADDRESS")
    args = parser.parse_args()
    if args.repository is None:
        for name in args.notebooks:
            execute(HERE / name)
        return
    try:
        set_repository(project_of(args.repository or origin()), HERE.parent)
    except ValueError as error:
        sys.exit(f"{error}; give --repository https://github.com/NAME/PROJECT")


if __name__ == "__main__":
    main()
