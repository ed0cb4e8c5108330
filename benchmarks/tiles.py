#!/usr/bin/env python3
"""How exact tiles are and what they cost: time per pixel beside the whole picture, peak memory,
and where the time goes.

    python benchmarks/tiles.py [--quick] [exact] [time] [content] [memory] [workers]

Prints the tables of benchmarks/README.md: hours of them without --quick.
"""

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from speed import PAIRS, ROOT, made_with, seconds, vgg19_weights
from tables import print_table, print_tables

import nst
from nstlib import images, networks, sources, tf, tiles

NETWORKS = ("small", "vgg19")


def weights_of(network: str) -> str:
    return str(vgg19_weights() if network == "vgg19" else networks.find_weights(network))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Some image, [1, H, W, 3]; what is on it makes no difference to the time."""
    return np.random.default_rng(seed).uniform(0, 255, (1, height, width, 3)).astype(np.float32)


# How exact they are


def half_masks(folder: str) -> tuple[str, str]:
    """Two masks, the left and the right of a picture, with a soft edge."""
    right = np.broadcast_to(np.linspace(0, 255, 96)[:, np.newaxis], [64, 96, 3])
    paths = f"{folder}/left.png", f"{folder}/right.png"
    for path, mask in zip(paths, (255 - right, right), strict=True):
        images.save(path, mask)
    return paths


def errors(settings, cuts, content, styles) -> list[list[str]]:
    """Of tiles against the whole, relative to it: of the loss, and of the gradient's norm."""
    settings, extractor = nst.load_network(settings)
    found = sources.load_sources(content, styles, settings).in_colors(settings).at(1.0)
    noisy = found[0] + np.random.default_rng(0).normal(0, 20, found[0].shape)
    image = tf.constant(noisy, tf.float32)
    targets = nst.take_targets(extractor, settings, *found)
    parts, gradient = nst.make_objective(extractor, settings)(targets, image)
    whole, gradient = float(parts["total"]), gradient.numpy()
    del targets, parts  # as many activations
    rows = []
    for tile in cuts:
        tiled = tiles.Tiled(settings, tile, tiles.Devices(), lambda *_: None)
        parts, other = tiled.objective(tiled.take_targets(*found), image)
        loss = abs(parts["total"] / whole - 1)
        error = np.linalg.norm(other - gradient) / np.linalg.norm(gradient)
        name = f"`{settings.network}`, {settings.size} pixels" + ", masks" * bool(settings.mask)
        rows.append([f"{name}, tiles of {tile}", f"{loss:.0e}", f"{error:.0e}"])
    return rows


def exactness(quick: bool) -> None:
    print("## Tiles beside the whole\n", flush=True)
    size, cuts = (128, (64,)) if quick else (1100, (256, 512, 1024))
    content, style = PAIRS[0]
    rows, levels = [], []
    with tempfile.TemporaryDirectory() as folder:
        masks = half_masks(folder)
        for network in NETWORKS[:1] if quick else NETWORKS:
            own = {"network": network, "weights": weights_of(network), "precision": "float32"}
            own = partial(nst.Settings, **own)
            rows += errors(own(size=size), cuts, content, [style])
            rows += errors(own(size=size, mask=masks), cuts, content, [style, style])
            short = own(size=size // 2, num_iter=20, scales=1)
            one, other = (nst.stylize(content, style, short, tile=x).image for x in (0, cuts[0]))
            most = np.abs(np.int32(one) - other).max()
            levels.append([f"`{network}`, {short.size} pixels, tiles of {cuts[0]}", f"{most}"])
    print_table(["relative error", "of the loss", "of the gradient"], rows)
    print_table(["after 20 iterations", "grey levels of difference at most"], levels)


# Time per pixel


def evaluations(settings, height: int, width: int, tile: int, see_tile=lambda *_: None):
    """A function that evaluates some image, in tiles or, for 0, as a whole."""
    settings, extractor = nst.load_network(settings)
    pictures = noise(height, width), [noise(256, 256, 1)]
    if tile:
        tiled = tiles.Tiled(settings, tile, tiles.Devices(), see_tile)
        targets, objective = tiled.take_targets(*pictures), tiled.objective
    else:
        targets = nst.take_targets(extractor, settings, *pictures)
        objective = nst.make_objective(extractor, settings)
    image = tf.constant(noise(height, width, 2))
    return lambda: np.asarray(objective(targets, image)[1])


def per_pixel(quick: bool) -> None:
    print("## Time per pixel\n", flush=True)
    height, width, tile, rounds = (96, 128, 64, 1) if quick else (768, 1024, 1024, 2)
    large = 4 * tile - 32, 3 * tile - 32  # with the margin, 12 tiles
    rows = []
    for network in NETWORKS[:1] if quick else NETWORKS:
        settings = nst.Settings(network=network, weights=weights_of(network))
        for precision in sorted({"float32", settings.resolved().precision}, reverse=True):
            own = dataclasses.replace(settings, precision=precision)
            seen: dict[float, float] = {}  # seconds by the share of an evaluation, of the last one
            whole = evaluations(own, height, width, 0)
            tiled = evaluations(own, *large, tile, seen.__setitem__)
            times = [(seconds(whole), seconds(tiled)) for _ in range(rounds + 1)][1:]
            one, other = np.median(times, axis=0) / [height * width, large[0] * large[1]] * 1e6
            before = max(seen[x] for x in seen if 0 < x < 1 / (1 + tiles.BACK) + 1e-9)
            figures = f"{one:.2f}", f"{other:.2f}", f"{other / one:.2f}"
            rows.append([f"`{network}`, {precision}", *figures, f"{before / seen[max(seen)]:.0%}"])
    sizes = f"{width} x {height} whole", f"tiles of {tile}"
    print_table(["µs per pixel", *sizes, "times as long", "first pass"], rows)


# Content targets


def from_disk(files: dict[str, Path]) -> dict[str, np.ndarray]:
    """Arrays that are read where they are looked at, from files of which no cache is left."""
    for path in files.values():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return {layer: np.load(path, mmap_mode="r") for layer, path in files.items()}


def content_targets(quick: bool) -> None:
    """An evaluation with the photograph's activations in memory, on disk, or computed again."""
    print("## Content targets\n", flush=True)
    height, width, tile, rounds = (96, 128, 64, 1) if quick else (992, 1504, 512, 3)
    pictures = noise(height, width), [noise(256, 256, 1)]
    image, rows = tf.constant(noise(height, width, 2)), []
    for network in NETWORKS[:1] if quick else NETWORKS:
        times, known = {"in memory": [], "on disk": [], "computed again": []}, {}
        for keeps in (True, False):
            own = {"network": network, "weights": weights_of(network), "precision": "float32"}
            settings = nst.Settings(**own, seed=keeps).resolved()  # compiled for each by itself
            tiled = tiles.Tiled(settings, tile, tiles.Devices(), lambda *_: None)
            tiled.keeps = keeps
            known[keeps] = tiled, tiled.take_targets(*pictures)
        kept = known[True][1]["content"]
        with tempfile.TemporaryDirectory() as folder:
            files = {layer: Path(folder, f"{layer}.npy") for layer in kept}
            for layer, path in files.items():
                np.save(path, kept[layer])
            for _ in range(rounds + 1):
                for way, found in times.items():
                    tiled, targets = known[way != "computed again"]
                    if way == "on disk":
                        targets = {**targets, "content": from_disk(files)}
                    found.append(seconds(partial(tiled.objective, targets, image)))
            del targets
        size = sum(x.nbytes for x in kept.values()) / (height * width)
        figures = (f"{np.median(x[1:]):.2f}" for x in times.values())  # the first is traced
        rows.append([f"`{network}`, {width} x {height}", *figures, f"{size:.0f}"])
    print_table(["seconds an evaluation", *times, "bytes a pixel"], rows)


# Peak memory


def command(*options: str, aspect: float = 1.0) -> tuple[float, float, float]:
    """(seconds in all, seconds of most iterations, peak memory in GB) of nst.py, on a photograph of
    this width by height."""
    script = (
        "import resource, subprocess, sys; run = subprocess.run(sys.argv[1:]); "
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
        "sys.exit(run.returncode)"
    )
    with tempfile.TemporaryDirectory() as folder:
        photograph, result = Path(folder, "photograph.png"), Path(folder, "out.png")
        square = images.load(PAIRS[0][0])
        images.save(photograph, square[: round(len(square) / aspect)])
        pictures = ["-c", photograph, "-s", PAIRS[0][1], "-r", result]
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
    return whole, float(np.median(np.diff(ends))), int(done.stdout.split()[-1]) / 1e6


def memory(quick: bool) -> None:
    print("## Peak memory\n", flush=True)
    cases = [("small", 256, 192, "64", 1), ("small", 256, 192, "0", 1)]
    if not quick:
        cases = [
            ("vgg19", 2048, 2048, "0", 2),
            ("vgg19", 2048, 2048, "1024", 2),
            ("vgg19", 4096, 4096, "1024", 2),
            ("vgg19", 8192, 6144, "1024", 1),
            ("small", 4096, 4096, "1024", 2),
            ("small", 16384, 12288, "512", 1),
        ]
    rows = []
    for network, width, height, tile, number in cases:
        options = ["--network", network, "--weights", weights_of(network), "--size", str(width)]
        options += ["--tile", tile, "-n", str(number), "--precision", "float32"]
        all_of_it, iteration, peak = command(*options, aspect=width / height)
        how = f"tiles of {tile}" if tile != "0" else "whole"
        name = f"`{network}`, {width} x {height}, {how}"
        rows.append([name, f"{peak:.2f}", f"{iteration:.1f}", f"{all_of_it:.0f}"])
    print_table(["", "GB", "seconds an iteration", f"in all, {number} iterations"], rows)


# Workers of a cluster


def seconds_a_step(number: int, network: str, size: int, tile: int) -> float:
    """Of a picture in tiles, on so many workers of one thread each; the program itself, and the
    scheduler, are on the same machine."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    start = partial(subprocess.Popen, env=environment, stderr=subprocess.DEVNULL)
    dask, port = [sys.executable, "-m"], str(18786 + number)
    address = f"tcp://127.0.0.1:{port}"
    scheduler = [*dask, "distributed.cli.dask_scheduler", "--port", port, "--no-dashboard"]
    worker = [*dask, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    processes = [start(scheduler), *(start([*worker, "--no-dashboard"]) for _ in range(number))]
    time.sleep(10)
    try:
        options = ["--network", network, "--weights", weights_of(network), "--size", str(size)]
        options += ["--tile", str(tile), "-n", "5", "--precision", "float32", "--dask", address]
        return command(*options)[1]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def workers(quick: bool) -> None:
    print("## Dask workers of one thread\n", flush=True)
    large, rows = [("small", 1024, 256), ("small", 2048, 512), ("vgg19", 512, 256)], []
    for case in [("small", 256, 96)] if quick else large:
        one, two = (seconds_a_step(number, *case) for number in (1, 2))
        network, size, tile = case
        name = f"`--network {network} --size {size} --tile {tile}`"
        rows.append([name, f"{one:.2f}", f"{two:.2f}", f"{one / two:.2f}"])
    print_table(["seconds a step", "one worker", "two", "times as fast"], rows)


def main() -> None:
    tables = {"exact": exactness, "time": per_pixel, "content": content_targets}
    tables |= {"memory": memory, "workers": workers}
    print_tables(tables, __doc__.splitlines()[0], made_with())


if __name__ == "__main__":
    main()
