#!/usr/bin/env python3
"""What Adam's betas do: how soon the classic loop's loss is reached, and the loss at the end.

    python benchmarks/betas.py [--quick]

Prints the table of benchmarks/README.md: of the 70 iterations at full size of `-n 210 -l 10`, those
until the loss with which 1000 steps of the classic loop (classic.py) end, and the last loss in
units of it.
"""

import argparse
from functools import partial

from speed import CLASSIC, PAIRS, losses_of_classic, plain_model
from tables import print_table

import nst
from nstlib.optimizers import OPTIMIZERS, adam

BETAS = [(0.9, 0.99), (0.9, 0.9), (0.8, 0.9), (0.9, 0.8), (0.8, 0.8), (0.8, 0.6), (0.9, 0.5)]
NAMES = [("temple", "wave"), ("cat", "flowers"), ("astronaut", "circles")]


def until(content, style, settings, betas, framed, target) -> str:
    """(iterations at full size until the target, loss at the end in units of it), as text."""
    beta_1, beta_2 = betas
    OPTIMIZERS["adam"] = partial(adam, beta_1=beta_1, beta_2=beta_2)
    found = []

    def on_step(step):
        if step.tensor.shape == framed.image.shape:
            found.append(float(framed.loss(step.tensor)))

    nst.stylize(content, style, settings, on_step)
    hit = next((f"{i}" for i, loss in enumerate(found, 1) if loss <= target), "never")
    return f"{hit}, {min(found) / target:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small pictures, in a minute")
    quick = parser.parse_args().quick
    size, steps, num_iter = (128, 100, 40) if quick else (512, 1000, 200)
    betas, names = (BETAS[::4], NAMES[:1]) if quick else (BETAS, NAMES)
    files = {path.stem: path for pair in PAIRS for path in pair}
    alike = {**CLASSIC, "size": size}
    settings = nst.Settings(**alike, num_iter=num_iter)
    exact = nst.Settings(**alike, precision="float32").resolved()
    model = plain_model(exact)
    columns = []
    for content, style in names:
        pair = files[content], files[style]
        _, framed, target, _ = losses_of_classic(*pair, exact, model, steps)
        columns.append([until(*pair, settings, x, framed, target) for x in betas])
    rows = [
        [f"{b1}, {b2}", *row]
        for (b1, b2), row in zip(betas, zip(*columns, strict=True), strict=True)
    ]
    print_table(["β₁, β₂", *(f"{content} x {style}" for content, style in names)], rows)


if __name__ == "__main__":
    main()
