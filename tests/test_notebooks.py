import asyncio
import json
import re
import runpy
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

FOLDER = ROOT / "notebooks"
NAMES = ["neural_style_transfer.ipynb", "explore.ipynb"]
TINY = {"SIZE": 48, "NUM_ITER": 3, "NETWORK": "small"}
# Graphs of each setting, and of all layers, would take longer than pictures of this size.
LIGHT = """
import dataclasses
from nstlib import networks
networks.compiled = lambda function: function
small = networks.NETWORKS["small"]
networks.NETWORKS["small"] = dataclasses.replace(small, style_layers=small.style_layers[:5])
"""


def load(name, **parameters):
    """A notebook with the parameters set in a cell of their own, after the one tagged so."""
    notebook = nbformat.read(FOLDER / name, as_version=4)
    [index] = [
        i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ())
    ]
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(source + LIGHT, id="injected"))
    return notebook


def client_of(notebook, folder=FOLDER, **options):
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=300, resources=resources, **options)


def code_cells(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def complaints(notebook):
    """What the cells wrote on standard error, and their errors."""
    outputs = [x for cell in code_cells(notebook).values() for x in cell.outputs]
    return [x for x in outputs if x.get("name") == "stderr" or x.output_type == "error"]


def text(cell):
    return "".join(x.text for x in cell.outputs if x.output_type == "stream")


def jpegs(cell):
    return [x.data["image/jpeg"] for x in cell.outputs if "image/jpeg" in x.get("data", ())]


@pytest.fixture
def website(tmp_path):
    """The address of a server on this machine that serves the example photographs."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(ROOT / "examples/content"))
    )
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_notebook_runs_from_top_to_bottom(website):
    """With the interrupt of the stop button in the live cell, once the picture has changed."""
    options = {"PLAY_SIZE": 32, "PLAY_ITER": 2, "NUM_ITER": 1_000_000}
    options["STYLE"] = str(ROOT / "examples/style/wave.jpg")
    notebook = load("neural_style_transfer.ipynb", **TINY | options, CONTENT=f"{website}/cat.jpg")
    check = "assert isinstance(result.cut_short, KeyboardInterrupt)\n"
    check += "assert result.image.shape == content.shape\n"
    check += "assert result.losses['total'][-1] < result.losses['total'][0]"
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    client = client_of(notebook)

    async def interrupt_after_a_change(cell):
        seen = set()
        while len(seen) < 3:
            seen.update(jpegs(cell))
            await asyncio.sleep(0.05)
        await client.km.interrupt_kernel()

    async def execute():
        async with client.async_setup_kernel():
            for index, cell in enumerate(notebook.cells):
                running = [client.async_execute_cell(cell, index)]
                if cell.id == "live":
                    running.append(interrupt_after_a_change(cell))
                await asyncio.wait_for(asyncio.gather(*running), 300)

    asyncio.run(execute())
    assert complaints(notebook) == []
    cells = code_cells(notebook)
    assert text(cells["look"]) == "content (32, 48, 3)  style (38, 48, 3)\n"  # the cat's and wave's
    assert text(cells["outcome"]).startswith("Stopped early: ")
    for cell, pictures in {
        "examples": 2,
        "look": 1,
        "shallow": 1,
        "deep": 1,
        "coarse": 1,
        "gram": 1,
        "gradient": 1,
        "live": 1,  # one picture that is refreshed in place
        "result": 1,
        "compare": 1,
        "grams-again": 1,
        "time-lapse": 1,
    }.items():
        assert len(jpegs(cells[cell])) == pictures, cell
    [download] = cells["download"].outputs
    assert "data:image/png" in download.data["text/html"]
    views = [x for x in cells["play"].outputs if "widget-view" in str(x.get("data"))]
    assert len(views) == 1


def test_exploring_runs_from_top_to_bottom():
    notebook = load(
        "explore.ipynb",
        **TINY | {"NUM_ITER": 2},
        CONTENT_WEIGHTS=(1e4, 1e5),
        STYLE_WEIGHTS=(1e-2,),
        TV_WEIGHTS=(1e2,),
        STEPS=(1, 2),
        NETWORKS=("small",),
    )
    client_of(notebook).execute()
    assert complaints(notebook) == []
    cells = code_cells(notebook)
    silent = {name for name, cell in cells.items() if not jpegs(cell)}
    assert silent == {"setup", "device", "parameters", "injected", "paint"}


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """Colab as far as the set-up can tell, in an empty folder, content.

    There are its Python modules, of which `files.upload` gives the next of the files in uploads,
    and a pip that only notes what it was asked for. The program is in source, with one more
    requirement that is not installed.
    """
    modules, source, uploads = (tmp_path / name for name in ("modules", "source", "uploads"))
    for folder in (source, uploads, tmp_path / "content"):
        folder.mkdir()
    for name, code in {
        "google/colab/__init__.py": "",
        "google/colab/files.py": f"""
            import shutil
            from pathlib import Path

            def upload():
                uploads = sorted(Path({str(uploads)!r}).iterdir())[:1]
                return {{shutil.move(path, path.name): b"" for path in uploads}}

            def download(name):
                print("downloads", name, Path(name).stat().st_size > 100)
            """,
        "pip/__init__.py": "",
        "pip/__main__.py": f"""
            import json, sys
            with open({str(tmp_path / "pip.log")!r}, "a") as log:
                print(json.dumps(sys.argv[1:]), file=log)
            """,
    }.items():
        path = modules / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub("^ {12}", "", code, flags=re.MULTILINE))
    shutil.copy(ROOT / "nst.py", source)
    for name in ("nstlib", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    requirements = (ROOT / "requirements.txt").read_text()
    (source / "requirements.txt").write_text(requirements + "nst-no-such-package>=1\n")
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_colab_clones_and_installs_only_what_is_missing(colab):
    git = ("git", "-c", "user.name=nst", "-c", "user.email=nst@example.org")
    for command in (["init"], ["add", "."], ["commit", "-m", "all"]):
        subprocess.run([*git, *command], cwd=colab / "source", check=True, capture_output=True)
    shutil.copy(ROOT / "examples/content/cat.jpg", colab / "uploads/1.jpg")
    shutil.copy(ROOT / "examples/content/cat.jpg", colab / "uploads/2.jpg")
    cells = code_cells(load("neural_style_transfer.ipynb", **TINY, UPLOAD=True))
    source = (colab / "source").as_uri()
    setup = cells["setup"].source.replace('REPOSITORY = ""', f"REPOSITORY = {source!r}")
    cells["setup"].source = setup
    look = nbformat.v4.new_code_cell(
        "from types import SimpleNamespace\n"
        "assert ROOT.name == FOLDER and ROOT.parent == Path.home() / 'content', ROOT\n"
        "assert nst.__file__ == str(ROOT / 'nst.py')\n"
        "result = SimpleNamespace(image=np.zeros((9, 9, 3), np.uint8))"
    )
    click = nbformat.v4.new_code_cell("button.click()")
    again = nbformat.v4.new_code_cell(setup)
    names = ("setup", "device", "parameters", "injected", "examples", "choose", "upload", "look")
    notebook = nbformat.v4.new_notebook(cells=[cells[name] for name in names])
    notebook.cells += [look, cells["download"], click, again]
    client_of(notebook, colab / "content").execute()
    assert complaints(notebook) == []
    assert "Choose a content picture:" in text(cells["upload"])
    assert text(cells["look"]) == "content (32, 48, 3)  style (32, 48, 3)\n"  # the uploaded cat
    assert text(click) == "downloads result.png True\n"
    asked = {tuple(json.loads(x)) for x in (colab / "pip.log").read_text().splitlines()}
    assert asked == {("install", "-q", "nst-no-such-package>=1")}


@pytest.mark.parametrize("address", ["", "file:///no/such/repository"])
def test_colab_takes_a_zip_where_there_is_nothing_to_clone(colab, address):
    """One sentence asks for it; as code-hosting sites pack it, all in one folder."""
    shutil.make_archive(colab / "uploads/project-main", "zip", colab, "source")
    setup = code_cells(load("explore.ipynb"))["setup"]
    setup.source = setup.source.replace('REPOSITORY = ""', f"REPOSITORY = {address!r}")
    look = nbformat.v4.new_code_cell("print(ROOT.relative_to(Path.home()), Path.cwd() == ROOT)")
    notebook = nbformat.v4.new_notebook(cells=[setup, look])
    client_of(notebook, colab / "content").execute()
    assert text(look) == "content/neural-style-transfer/source True\n"
    said = [line for line in text(setup).splitlines() if "fatal" not in line]
    [sentence] = [line for line in said if "Cloning" not in line]
    assert sentence.startswith("Enter the address of the program's repository as REPOSITORY")
    assert not [x for x in setup.outputs if x.output_type == "error"]


def test_the_repository_is_set_everywhere_at_once(tmp_path):
    """What fetches the program and the buttons that open the notebooks, and again when it moves."""
    (tmp_path / "notebooks").mkdir()
    for name in ("README.md", *(f"notebooks/{name}" for name in NAMES)):
        shutil.copy(ROOT / name, tmp_path / name)
    execute = SimpleNamespace(**runpy.run_path(str(FOLDER / "execute.py")))
    for address, project in {
        "git@github.com:ada/first.git\n": "ada/first",
        "https://github.com/ada/nst.paint": "ada/nst.paint",
    }.items():
        assert execute.project_of(address) == project
        execute.set_repository(project, tmp_path)
        colab = f"](https://colab.research.google.com/github/{project}/blob/main/notebooks/"
        for name in NAMES:
            notebook = nbformat.read(tmp_path / "notebooks" / name, as_version=4)
            assert notebook.cells[0].source.count("colab.research.google.com/github") == 1
            assert f"{colab}{name})" in notebook.cells[0].source
            setup = code_cells(notebook)["setup"].source
            assert f'\nREPOSITORY = "https://github.com/{project}"  # @param' in setup
        readme = (tmp_path / "README.md").read_text()
        assert f"{colab}{NAMES[0]})" in readme
        assert readme.count("colab.research.google.com/github") == 1
        assert readme.startswith("# Neural style transfer\n\n[![Open in Colab]")
    for address in ("", "https://gitlab.com/ada/nst.git", "https://notgithub.com/ada/nst"):
        with pytest.raises(ValueError, match="no address of a repository on GitHub"):
            execute.project_of(address)


def test_the_repository_is_that_of_the_remote(tmp_path):
    """Where none is named; without a remote, a sentence says what to give."""
    (tmp_path / "notebooks").mkdir()
    for name in ("README.md", *(f"notebooks/{name}" for name in (*NAMES, "execute.py"))):
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, tmp_path / "notebooks/execute.py", "--repository"]
    git = partial(subprocess.run, cwd=tmp_path, check=True)
    git(["git", "init", "-q"])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert done.stderr.endswith("; give --repository https://github.com/NAME/PROJECT\n")
    git(["git", "remote", "add", "origin", "git@github.com:ada/nst.git"])
    git(command)
    assert "/github/ada/nst/blob/main/notebooks/" in (tmp_path / "README.md").read_text()


def test_what_jupyter_leaves_is_ignored():
    assert ".ipynb_checkpoints/" in (ROOT / ".gitignore").read_text().split()


def test_both_set_up_alike():
    assert len({code_cells(load(name))["setup"].source for name in NAMES}) == 1


def as_committed(path):
    """A notebook as git holds it: opened in JupyterLab, the file changes by itself."""
    shown = subprocess.run(
        ["git", "show", f":./{path.name}"], cwd=path.parent, capture_output=True, check=False
    )
    return (path.read_bytes() if shown.returncode else shown.stdout).decode()


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_notebook_can_be_read_anywhere(name):
    """Run from top to bottom without a complaint, small, and without traces of the machine."""
    source = as_committed(FOLDER / name)
    assert len(source) < 3_000_000
    notebook = nbformat.reads(source, as_version=4)
    nbformat.validate(notebook)
    cells = list(code_cells(notebook).values())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert complaints(notebook) == []
    assert sum(len(jpegs(cell)) for cell in cells) >= 10
    assert set(notebook.metadata) == {"accelerator", "colab", "kernelspec", "language_info"}
    for cell in cells:
        assert set(cell.metadata) <= {"tags", "still"}
        for output in cell.outputs:
            kinds = set(output.get("data", ()))
            assert kinds <= {"image/jpeg"}, cell.id
    prose = re.sub(r'"image/jpeg": "[^"]*"', "", source)
    assert not re.search(r"(?<![\w.:/)])/[a-z]\w+/\w|[A-Z]:\\\\|0x[0-9a-f]{6}", prose)


def test_saving_keeps_pictures_for_what_only_moves_in_a_running_notebook(tmp_path):
    strip = runpy.run_path(str(FOLDER / "execute.py"))["strip"]
    (tmp_path / "still.jpg").write_bytes(b"a picture")
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "VBox()"}
    cells = []
    for data, still in (
        ({"text/html": "<b>", "image/jpeg": "eHg=", "text/plain": "<Rich at 0x1234567>"}, None),
        (view, "still.jpg"),
        (view, None),
        ({"text/html": "<a>", "text/plain": "<HTML>"}, None),
        ({"text/plain": "42"}, None),
    ):
        output = nbformat.v4.new_output("display_data", data, metadata={"of": "the machine"})
        cell = nbformat.v4.new_code_cell(outputs=[output], metadata={"still": still})
        cells.append(cell)
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {"state": {}}})
    strip(notebook, tmp_path)
    assert "widgets" not in notebook.metadata
    assert [[dict(x.data) for x in cell.outputs] for cell in cells] == [
        [{"image/jpeg": "eHg="}],
        [{"image/jpeg": "YSBwaWN0dXJl"}],
        [],
        [],
        [{"text/plain": "42"}],
    ]
    assert "machine" not in nbformat.writes(notebook)
