"""README's commands, pasted in their order into a shell in a fresh clone; its Python and links."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, answers, free_port, picture, wait_for

import nst
from nstlib import images

README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)\n```", README, re.MULTILINE | re.DOTALL)
LONG = "dask", "jupyter", "execute.py"  # each has a test of its own
SOME_TESTS = "tests/test_display.py"
SOME_TESTS += "".join(f" tests/test_{x}.py" for x in ("browser", "vgg19", "benchmarks"))
CONTENTS, STYLES = ("astronaut", "cat", "temple"), ("circles", "strokes")
SMALL = "--network small --size 32 -n 1 --style_layers level1_conv1"


@pytest.fixture
def clone(tmp_path):
    """The program with few examples, in a folder. What would set it up takes what is set up here:
    `python3 -m venv .venv`, all that this python3 can do, gives the programs beside this Python;
    pip only notes what it is to do, and the program is found from the start.
    """
    folder, tools, programs = (tmp_path / name for name in ("clone", "tools", "programs"))
    hidden = shutil.ignore_patterns("__pycache__", ".*", "rsc", "examples", "training")
    shutil.copytree(ROOT, folder, ignore=hidden)
    for name in (*(f"content/{x}" for x in CONTENTS), *(f"style/{x}" for x in STYLES)):
        path = folder / f"examples/{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / f"examples/{name}.jpg", path)
    here = Path(sys.executable).parent
    scripts = {
        tools / "python3": f'[ "$2" = venv ] && cp -R {programs} "$3"',
        programs / "bin/python": f'exec {sys.executable} "$@"',
        programs / "bin/pip": f'echo "$@" >>{tmp_path}/pip.log',
        programs / "bin/dask": f'exec {here}/dask "$@"',
        programs / "bin/jupyter": f'exec {here}/jupyter "$@"',
    }
    for path, script in scripts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return folder


def paste(clone, command, addition="", start=subprocess.run, **options):
    tools = f"{clone.parent / 'tools'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": tools, "PYTHONPATH": str(clone)}
    command = ["sh", "-c", f"{command} {addition}"]
    return start(command, cwd=clone, env=environment, text=True, **options)


FIRST = [*COMMANDS[:2], next(x for x in COMMANDS if "--show" in x)]


@pytest.mark.parametrize(
    "commands", [FIRST, pytest.param(COMMANDS, marks=pytest.mark.slow)], ids=["first", "all"]
)
def test_commands_work_as_pasted(clone, commands):
    """But for pictures that are small, and tests that are found but not run."""
    for command in commands:
        if any(word in command for word in LONG):
            continue
        added = SMALL if " -r " in command else ""
        if "-m pytest" in command:
            added = f"--collect-only -q -n 0 {SOME_TESTS}"
        done = paste(clone, command, added, capture_output=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if "--show" in command:
            shown = done.stdout
    assert images.image_size(clone / "out.jpg") == (32, 32)
    assert commands != COMMANDS or len(list((clone / "matrix").iterdir())) == 6
    assert {"nst.py", "out.jpg", "--size", "32"} < {*shlex.split(shown)}
    asked = shlex.split(clone.with_name("pip.log").read_text())
    for name in (x for x in asked if x.endswith(".txt")):
        assert (clone / name).is_file()


def test_each_command_is_tried():
    """Nothing of the page is for a shell that the tests here do not see."""
    assert len(COMMANDS) >= 10
    for line in re.findall(r"^\S*(?:python3?|pip|dask|jupyter) .*", README, re.MULTILINE):
        assert any(line in command for command in COMMANDS), line


def test_python_works_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images.save("photo.jpg", picture(32, 48))
    images.save("painting.jpg", picture(40, 40, 1))
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    names = {}
    exec(code.replace("size=384", "size=32, num_iter=2, style_layers=['level1_conv1']"), names)
    assert names["result"].image.shape == (21, 32, 3)
    assert names["result"].image.dtype == np.uint8
    assert set(names["result"].losses) == {"total", "content", "style", "tv"}


@pytest.mark.parametrize("network", ["vgg19", "small"])
def test_defaults_are_as_listed(network):
    """In the table of options, in which `small` has some of its own."""
    rows = dict(re.findall(r"^\| .*`--(\w+)` \| (.*?) \|", README, re.MULTILINE))
    settings = nst.Settings(network=network).resolved()
    for field in dataclasses.fields(settings):
        general, _, own = rows.pop(field.name).replace("`", "").partition(", of small ")
        value = getattr(settings, field.name)
        listed = own if own and network == "small" else general
        if field.name == "network":
            assert listed == field.default
        elif isinstance(value, tuple):
            last = value[-1].partition("=")[0]
            assert last in listed or listed.startswith("those of all levels")
        elif listed not in ("none", "even", "auto"):
            assert type(value)(listed) == value, field.name


def test_links_lead_somewhere():
    anchors = {re.sub("[^a-z -]", "", x.lower()).replace(" ", "-") for x in headings(README)}
    for target in re.findall(r"\]\(([^)]*)\)|src=\"([^\"]*)\"", README):
        target = "".join(target)
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("https:"):
            assert (ROOT / target).exists(), target


def headings(text):
    return re.findall("^#+ (.*)", text, re.MULTILINE)


def test_extras_are_what_the_requirements_say():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = {x for extra in extras.values() for x in extra if not x.startswith("nst[")}
    assert {*(ROOT / "requirements-dev.txt").read_text().split()[2:]} == listed


# What keeps running, or runs for minutes


@pytest.fixture
def started(clone):
    """Starts commands that keep running, and ends them."""
    running = []
    yield lambda *command: running.append(paste(clone, *command, start=subprocess.Popen))
    for process in running:
        process.terminate()
    for process in running:
        process.wait(30)


@pytest.mark.slow
def test_dask_as_pasted(clone, started):
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    port = str(free_port())
    paste(clone, "python3 -m venv .venv", check=True)
    install, scheduler, worker, gallery = (x for x in COMMANDS if "dask" in x)
    paste(clone, install, check=True)
    started("exec " + scheduler, f"--port {port} --no-dashboard")
    started("exec " + worker.replace("8786", port), "--no-dashboard")
    gallery = gallery.replace("8786", port)
    wait_for(lambda: not paste(clone, gallery, SMALL).returncode)
    assert len(list((clone / "matrix").iterdir())) == 6


@pytest.mark.slow
def test_jupyter_as_pasted(clone, started):
    """It serves the program and the examples, to which the notebooks link, beside them."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    port = str(free_port())
    paste(clone, "python3 -m venv .venv", check=True)
    (command,) = (x for x in COMMANDS if "jupyter" in x)
    before, lab = command.rsplit("&& ", 1)
    options = f"--no-browser --allow-root --port={port} --IdentityProvider.token="
    started(f"{before} && exec {lab}", options)
    for path in ("notebooks/explore.ipynb", "nst.py", "examples/content/cat.jpg"):
        wait_for(partial(answers, f"http://127.0.0.1:{port}/api/contents/{path}?content=0"))


@pytest.mark.slow
def test_notebooks_are_executed_as_pasted(clone):
    (command,) = (x for x in COMMANDS if "execute.py" in x)
    paste(clone, "python3 -m venv .venv", check=True)
    shutil.copytree(ROOT / "examples", clone / "examples", dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in clone.glob("notebooks/*.ipynb")}
    paste(clone, command, check=True)
    assert all(path.read_bytes() != content for path, content in before.items())
