#!/usr/bin/env python3
"""How long a picture takes: the whole command, and an iteration of `small` beside one of `vgg19`.

    python benchmarks/speed.py [--size 512]

The two networks take turns within one run, so that a machine whose speed drifts does not favour
one. VGG19 gets random weights, with which it takes as long as with its own.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CONTENT = ROOT / "examples/content/temple.jpg"
STYLE = ROOT / "examples/style/circles.jpg"
sys.path.insert(0, str(ROOT))

import nst  # noqa: E402 (after the path)
from nstlib import networks  # noqa: E402


def random_weights(path: Path) -> Path:
    """A weights file of VGG19's shapes whose activations neither vanish nor explode."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, shape in networks.NETWORKS["vgg19"].shapes.items():
            deviation = np.sqrt(2 / np.prod(shape[:3]))
            file[f"{name}/kernel"] = rng.normal(0, deviation, shape).astype(np.float32)
            file[f"{name}/bias"] = np.zeros(shape[-1], np.float32)
    return path


def seconds_per_iteration(settings: nst.Settings) -> float:
    """The median over a run's iterations, its first ones (tracing) left out."""
    times = []
    nst.stylize(CONTENT, STYLE, settings, lambda step: times.append(time.perf_counter()))
    return float(np.median(np.diff(times)[3:]))


def seconds_of_command(size: int) -> float:
    """From command to file, as README.md's first command but with the bundled network."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = ["-c", CONTENT, "-s", STYLE, "-r", Path(folder, "out.jpg")]
        command = [sys.executable, ROOT / "nst.py", "--network", "small", "--size", str(size)]
        start = time.perf_counter()
        subprocess.run([*command, *pictures], check=True)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="longest side in pixels [512]")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each network [3]")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        common = {"size": args.size, "scales": 1, "num_iter": 10}
        vgg19 = nst.Settings(weights=str(random_weights(Path(folder, "vgg19.h5"))), **common)
        small = nst.Settings(network="small", **common)
        times = [
            (seconds_per_iteration(vgg19), seconds_per_iteration(small)) for _ in range(args.rounds)
        ]
    of_vgg19, of_small = np.median(times, axis=0)
    ratio = np.median([a / b for a, b in times])
    print(f"{platform.processor() or platform.machine()}, {date.today()}, {args.size} pixels\n")
    print("| | seconds |\n| --- | --- |")
    print(f"| an iteration of `vgg19` | {of_vgg19:.3f} |")
    print(f"| an iteration of `small` | {of_small:.3f} ({ratio:.1f} times faster) |")
    print(f"| `--network small`, from command to file | {seconds_of_command(args.size):.0f} |")


if __name__ == "__main__":
    main()
