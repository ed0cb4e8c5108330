"""The benchmark runs and its tables hold numbers; slow."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_quick_benchmark():
    command = [sys.executable, ROOT / "benchmarks/speed.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for heading in ("Seconds per step", "Time to the loss", "Peak memory", "From command to file"):
        table = done.stdout.partition(f"## {heading}")[2].partition("\n## ")[0]
        assert re.search(r"^\| .* \| [\d.]+ \|", table, re.MULTILINE), heading
    eager, compiled = (
        float(re.search(rf"^\| {name}, .*?\| ([\d.]+) \|", done.stdout, re.MULTILINE)[1])
        for name in ("classic loop", "compiled")
    )
    assert compiled < eager


@pytest.mark.slow
def test_quick_benchmark_of_tiles():
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    command = [sys.executable, ROOT / "benchmarks/tiles.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    errors = re.findall(r"tiles of 64 \| (\S+e\S+) \| (\S+) \|", done.stdout)
    assert len(errors) == 2
    assert all(float(loss) < 1e-5 and float(gradient) < 1e-4 for loss, gradient in errors)
    for heading in ("Time per pixel", "Content targets", "Peak memory", "Dask workers"):
        table = done.stdout.partition(f"## {heading}")[2].partition("\n## ")[0]
        assert re.search(r"^\| .* \| [\d.]+ \|", table, re.MULTILINE), heading


@pytest.mark.slow
def test_quick_laws_of_scales(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/scales.py", "--quick", "--pictures", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = r"^\| .* \| 10, 10 \| (\d\.\d\d) \| \d+ \|$"
    losses = re.findall(row, done.stdout, re.MULTILINE)
    assert len(losses) == len(list(tmp_path.glob("temple_circles, *.png"))) == 5
    assert losses[0] == "1.00"


@pytest.mark.slow
def test_quick_sweep_of_betas():
    command = [sys.executable, ROOT / "benchmarks/betas.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for betas in ("0.9, 0.99", "0.8, 0.8"):
        assert re.search(rf"^\| {betas} \| (\d+|never), \d\.\d+ \|$", done.stdout, re.MULTILINE)
