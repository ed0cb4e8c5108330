"""The notebook in JupyterLab, in a real browser without a screen.

    python -m pytest -m browser

It needs Chromium and its driver (on Debian: apt install chromium chromium-driver), and writes the
screenshots rsc/notebook_live.jpg and rsc/notebook_play.jpg.
"""

import io
import os
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import ROOT, answers, free_port, wait_for
from PIL import Image
from test_notebooks import code_cells, load

pytestmark = pytest.mark.browser

SETTINGS = {
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "notebook-extension/tracker": '{"windowingMode": "none"}',  # keeps all cells in the page
}


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab that serves copies of the notebooks beside the program."""
    for name in ("nst.py", "nstlib", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    notebook = load("neural_style_transfer.ipynb", NETWORK="small", SIZE=384)
    for cell in code_cells(notebook).values():
        cell.update(outputs=[], execution_count=None)
    nbformat.write(notebook, tmp_path / "notebooks/neural_style_transfer.ipynb")
    for name, text in SETTINGS.items():
        path = tmp_path / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    port = free_port()
    folders = {
        "JUPYTERLAB_SETTINGS_DIR": tmp_path / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": tmp_path / "workspaces",
        "JUPYTER_CONFIG_DIR": tmp_path / "config",
        "IPYTHONDIR": tmp_path / "ipython",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", f"--ServerApp.root_dir={tmp_path}"]
    command += ["--IdentityProvider.token=", "--expose-app-in-browser"]
    with (tmp_path / "lab.log").open("wb") as log:
        env = os.environ | {name: str(folder) for name, folder in folders.items()}
        server = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    address = f"http://127.0.0.1:{port}"

    def served():
        assert server.poll() is None, (tmp_path / "lab.log").read_text()
        return answers(address + "/api")

    wait_for(served)
    yield address
    server.terminate()
    server.wait(30)


@pytest.fixture
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless=new", "no-sandbox", "window-size=1100,1400"):
        options.add_argument("--" + argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def save(element, name):
    picture = Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")
    picture.save(ROOT / "rsc" / name, quality=85)


def test_the_live_cell_and_the_sliders_change_their_pictures(lab, browser):
    from selenium.webdriver import ActionChains

    ids = [cell.id for cell in load("neural_style_transfer.ipynb").cells]
    browser.get(f"{lab}/lab/tree/notebooks/neural_style_transfer.ipynb")

    def cell(name):
        found = browser.find_elements("css selector", ".jp-Notebook .jp-Cell")
        return found[ids.index(name)] if len(found) == len(ids) else None

    def inside(name, selector):
        return cell(name).find_elements("css selector", selector)

    def prompt(name):
        return inside(name, ".jp-InputPrompt")[0].text

    def pictures_while(busy, name):
        """The pictures that a cell shows one after the other in its one place, by their address.

        The third, if there are as many, is saved as a screenshot of the cell.
        """
        seen = []
        all_sources = "return [...arguments[0].querySelectorAll('img')].map(x => x.src)"
        more = True
        while more:
            more = busy()  # asked first, so that the last picture is seen too
            sources = browser.execute_script(all_sources, cell(name))
            assert len(sources) <= 1
            if sources and sources[0] not in seen:
                seen.append(sources[0])
                if len(seen) == 3:
                    save(cell(name), f"notebook_{name}.jpg")
            time.sleep(0.1)
        return seen

    wait_for(lambda: cell("live"))
    session = "window.jupyterapp.shell.currentWidget.sessionContext.session"
    wait_for(lambda: browser.execute_script(f"return {session}?.kernel?.status") == "idle")
    for command in ("application:toggle-left-area", "notebook:run-all-cells"):
        browser.execute_script(f"window.jupyterapp.commands.execute('{command}')")
    wait_for(lambda: prompt("live") == "[*]:" and prompt("features") not in ("[*]:", "[ ]:"))
    browser.execute_script("arguments[0].scrollIntoView()", cell("live"))
    assert len(pictures_while(lambda: prompt("live") == "[*]:", "live")) >= 3

    wait_for(lambda: prompt("play") not in ("[*]:", "[ ]:"))
    [slider] = inside("compare", "input[type=range]")
    above = inside("compare", ".jp-OutputArea img")[1]
    browser.execute_script("arguments[0].scrollIntoView()", cell("compare"))
    ActionChains(browser).move_to_element_with_offset(slider, 140, 0).click().perform()
    share = slider.get_attribute("value")
    assert 70 < int(share) < 80
    assert above.value_of_css_property("clip-path") == f"inset(0px 0px 0px {share}%)"

    [button] = inside("play", "button")
    [picture] = inside("play", "img")
    browser.execute_script("arguments[0].scrollIntoView()", cell("play"))
    before = picture.screenshot_as_png
    style = inside("play", ".noUi-handle")[1]
    style.send_keys(*["\ue014"] * 6)  # arrow to the right
    button.click()
    wait_for(lambda: not button.is_enabled())
    assert len(pictures_while(lambda: not button.is_enabled(), "play")) >= 2
    assert picture.screenshot_as_png != before
    [whole] = inside("play", ".widget-vbox")
    browser.execute_script("arguments[0].scrollIntoView()", whole)
    save(whole, "notebook_play.jpg")
