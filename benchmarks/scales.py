#!/usr/bin/env python3
"""How many iterations a large scale needs: the loss with which pictures end, and the seconds.

    python benchmarks/scales.py [--quick] [--size 2048] [--pictures FOLDER]

Prints a part of the table of benchmarks/README.md: of `small` and its 200 iterations, shared among
the scales by several laws; losses in units of that with as many iterations at all scales.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from speed import EXAMPLES
from tables import print_table

import nst
from nstlib import images, scales

PAIRS = [
    (EXAMPLES / "content/temple.jpg", EXAMPLES / "style/circles.jpg"),
    (EXAMPLES / "content/astronaut.jpg", EXAMPLES / "style/strokes.jpg"),
]
LAWS = {  # a scale's share of the iterations, by its size in pixels
    "as many": lambda size: 1.0,
    "half at each doubling beyond 1024": scales.share,
    "a quarter": lambda size: min(1.0, (1024 / size) ** 2),
    "an eighth": lambda size: min(1.0, (1024 / size) ** 3),
    "in proportion to size^-½ beyond 256": lambda size: min(1.0, (256 / size) ** 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small picture, in a minute")
    parser.add_argument("--size", type=int, default=2048, help="of the pictures [2048]")
    parser.add_argument("--pictures", type=Path, help="a folder to keep them in, to look at")
    args = parser.parse_args()
    quick = {"size": 256, "num_iter": 20} if args.quick else {"size": args.size}
    settings, first, rows = nst.Settings(network="small", **quick), [], []
    pairs = PAIRS[:1] if args.quick else PAIRS
    nst.stylize(*pairs[0], nst.Settings(network="small", size=64, num_iter=1))  # to load it
    for law, share in LAWS.items():
        scales.share, found, began = share, [], time.perf_counter()
        plan = scales.plan_scales(settings.resolved(), 1.0)
        for content, style in pairs:
            result = nst.stylize(content, style, settings)
            found.append(result.losses["total"][-1])
            if args.pictures:
                args.pictures.mkdir(parents=True, exist_ok=True)
                images.save(args.pictures / f"{content.stem}_{style.stem}, {law}.png", result.image)
        seconds, first = (time.perf_counter() - began) / len(found), first or found
        numbers = ", ".join(f"{number}" for _, number in plan)
        rows.append([law, numbers, f"{np.mean(np.divide(found, first)):.2f}", f"{seconds:.0f}"])
    print_table(["beyond 1024 pixels", "iterations", "loss", "seconds a picture"], rows)


if __name__ == "__main__":
    main()
