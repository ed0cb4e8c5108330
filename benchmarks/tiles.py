#!/usr/bin/env python3
"""What tiles cost: time per pixel beside the whole picture, peak memory, and where the time goes.

    python benchmarks/tiles.py [--quick] [time] [memory] [workers]

Prints the tables of benchmarks/README.md: hours of them without --quick.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from speed import PAIRS, ROOT, seconds, vgg19_weights
from tables import print_table, print_tables

import nst
from nstlib import networks, tf, tiles

NETWORKS = ("small", "vgg19")


def weights_of(network: str) -> str:
    return str(vgg19_weights() if network == "vgg19" else networks.find_weights(network))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Some image, [1, H, W, 3]; what is on it makes no difference to the time."""
    return np.random.default_rng(seed).uniform(0, 255, (1, height, width, 3)).astype(np.float32)


# Time per pixel


def evaluations(settings, height: int, width: int, tile: int):
    """A function that evaluates some image, in tiles or, for 0, as a whole."""
    settings, extractor = nst.load_network(settings)
    pictures = noise(height, width), [noise(256, 256, 1)]
    if tile:
        tiled = tiles.Tiled(settings, tile, tiles.Devices(), lambda *_: None)
        targets, objective = tiled.take_targets(*pictures), tiled.objective
    else:
        targets = nst.take_targets(extractor, settings, *pictures)
        objective = nst.make_objective(extractor, settings)
    image = tf.constant(noise(height, width, 2))
    return lambda: objective(targets, image)[1].numpy()


def passes(settings, height: int, width: int, tile: int) -> tuple[float, float]:
    """Seconds of the second pass's beginning and of its end."""
    seen = []
    settings, _ = nst.load_network(settings)
    tiled = tiles.Tiled(settings, tile, tiles.Devices(), lambda *x: seen.append(x))
    targets = tiled.take_targets(noise(height, width), [noise(256, 256, 1)])
    for _ in range(2):
        seen.clear()
        tiled.objective(targets, tf.constant(noise(height, width, 2)))
    between = max(at for share, at in seen if share < 1 / (1 + tiles.BACK) + 1e-9)
    return between, seen[-1][1]


def per_pixel(quick: bool) -> None:
    print("## Time per pixel\n", flush=True)
    height, width, tile, rounds = (96, 128, 64, 1) if quick else (768, 1024, 1024, 3)
    rows = []
    for network in NETWORKS[:1] if quick else NETWORKS:
        for precision in ("float32", "auto"):
            settings = nst.Settings(
                network=network, weights=weights_of(network), precision=precision
            )
            large = 4 * tile - 32, 3 * tile - 32  # with the margin, 12 tiles
            whole = evaluations(settings, height, width, 0)
            tiled = evaluations(settings, *large, tile)
            times = [(seconds(whole), seconds(tiled)) for _ in range(rounds + 1)][1:]
            one, other = np.median(times, axis=0) / [height * width, large[0] * large[1]] * 1e6
            ratio = f"{other / one:.2f}"
            before, end = passes(settings, *large, tile)
            figures = f"{one:.2f}", f"{other:.2f}", ratio, f"{before / end:.0%}"
            rows.append([f"`{network}`, {settings.resolved().precision}", *figures])
    sizes = f"{width} x {height} whole", f"tiles of {tile}"
    print_table(["µs per pixel", *sizes, "times as long", "first pass"], rows)


# Peak memory


def command(*options: str, **popen) -> tuple[float, float, float]:
    """(seconds in all, seconds of an iteration, peak memory in GB) of nst.py."""
    script = (
        "import resource, subprocess, sys; run = subprocess.run(sys.argv[1:]); "
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
        "sys.exit(run.returncode)"
    )
    with tempfile.TemporaryDirectory() as folder:
        pictures = ["-c", PAIRS[0][0], "-s", PAIRS[0][1], "-r", Path(folder, "out.png")]
        argv = [sys.executable, ROOT / "nst.py", "-v", "-p", "1", "--scales", "1", *pictures]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, argv), *options],
            capture_output=True,
            text=True,
            check=True,
        )
        whole = time.perf_counter() - start
    ends = [
        float(x) for x in re.findall(r"^ +\d+  total .* ([\d.]+) s$", done.stderr, re.MULTILINE)
    ]
    return whole, (ends[-1] - ends[0]) / (len(ends) - 1), int(done.stdout.split()[-1]) / 1e6


def memory(quick: bool) -> None:
    print("## Peak memory\n", flush=True)
    cases = [("small", 256, "64", 1), ("small", 256, "0", 1)]
    if not quick:
        cases = [
            ("vgg19", 2048, "0", 2),
            ("vgg19", 2048, "1024", 2),
            ("vgg19", 4096, "1024", 2),
            ("vgg19", 8192, "1024", 1),
            ("small", 4096, "1024", 2),
            ("small", 16384, "512", 1),
        ]
    rows = []
    for network, size, tile, number in cases:
        options = ["--network", network, "--weights", weights_of(network), "--size", str(size)]
        options += ["--tile", tile, "-n", str(number), "--precision", "float32"]
        all_of_it, iteration, peak = command(*options)
        name = f"`--network {network} --size {size} --tile {tile}`"
        rows.append([name, f"{peak:.2f}", f"{iteration:.1f}", f"{all_of_it:.0f}"])
    print_table(["", "GB", "seconds an iteration", f"in all, {number} iterations"], rows)


# Workers of a cluster


def workers(quick: bool) -> None:
    print("## Dask workers of one thread\n", flush=True)
    size, tile, rows = (256, "96", []) if quick else (1024, "256", [])
    times = {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    dask = [sys.executable, "-m"]
    for number in (1, 2):
        port = 18786 + number
        start = partial(subprocess.Popen, env=environment, stderr=subprocess.DEVNULL)
        address = f"tcp://127.0.0.1:{port}"
        processes = [
            start([*dask, "distributed.cli.dask_scheduler", "--port", str(port), "--no-dashboard"])
        ]
        for _ in range(number):
            options = ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
            processes.append(start([*dask, "distributed.cli.dask_worker", address, *options]))
        time.sleep(10)
        try:
            options = ["--network", "small", "--size", str(size), "--tile", tile, "-n", "5"]
            times[number] = command(*options, "--precision", "float32", "--dask", address)[1]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        rows.append([f"{number}", f"{times[number]:.2f}", f"{times[1] / times[number]:.2f}"])
    print_table([f"workers, {size} pixels in tiles of {tile}", "s per step", "times as fast"], rows)


def main() -> None:
    tables = {"time": per_pixel, "memory": memory, "workers": workers}
    print_tables(tables, __doc__.splitlines()[0], f"TensorFlow {tf.__version__}")


if __name__ == "__main__":
    main()
