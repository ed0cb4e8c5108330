#!/usr/bin/env python3
"""How fast this program is, beside the classic loop (classic.py) and, if installed, PyTorch.

    python benchmarks/speed.py [--quick] [steps] [loss] [memory] [command]

Prints the tables of benchmarks/README.md. What is compared takes turns within one run, so that a
machine whose speed drifts favours neither. Where VGG19's ImageNet weights are not in Keras's cache
it gets random ones, with which an iteration takes as long, but no loss falls as it would.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from tables import print_table, print_tables

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PAIRS = list(
    zip(sorted(EXAMPLES.glob("content/*.jpg")), sorted(EXAMPLES.glob("style/*.jpg")), strict=True)
)
CLASSIC = {"network": "small", "colors": "style"}  # pictures in their own colours
sys.path.insert(0, str(ROOT))

import nst  # noqa: E402 (after the path)
from nstlib import images, networks, scales, tf  # noqa: E402

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
chosen = ONEDNN in os.environ
tf.use_onednn()  # as the program does for `small`
tf.constant(0)  # imported quietly here, for classic.py
if not chosen:
    del os.environ[ONEDNN]  # commands choose by themselves
from classic import Classic  # noqa: E402

RANDOM = Path(tempfile.mkdtemp(), "vgg19.h5")


def vgg19_weights() -> Path:
    """ImageNet's, or random ones with which activations neither vanish nor explode."""
    name = networks.NETWORKS["vgg19"].weights.rpartition("/")[2]
    cached = Path(os.environ.get("KERAS_HOME", "~/.keras"), "models", name).expanduser()
    if cached.exists():
        return cached
    if not RANDOM.exists():
        rng = np.random.default_rng(0)
        with h5py.File(RANDOM, "w") as file:
            for name, shape in networks.NETWORKS["vgg19"].shapes.items():
                deviation = np.sqrt(2 / np.prod(shape[:3]))
                file[f"{name}/kernel"] = rng.normal(0, deviation, shape).astype(np.float32)
                file[f"{name}/bias"] = np.zeros(shape[-1], np.float32)
    return RANDOM


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def made_with() -> str:
    return f"TensorFlow {tf.__version__} {'with' if tf.has_onednn() else 'without'} oneDNN"


# Seconds per step


def gflop(network: str, size: int, settings: nst.Settings) -> float:
    """Of a step's convolutions: two operations a multiplication, forward and back as many."""
    layers, shapes = networks.used_layers(settings), networks.NETWORKS[network].shapes
    if network == "small":  # at each level, what is wanted and what comes before it
        numbers = [(int(x[5]), int(x[-1])) for x in layers]
        deepest = {level: max(c for at, c in numbers if at == level) for level, _ in numbers}
        passes = [(f"conv{c}", k - 1) for k, most in deepest.items() for c in range(1, most + 1)]
    else:
        names = list(shapes)
        last = max(names.index(layer) for layer in layers)
        passes = [(name, networks.VGG.block(name) - 1) for name in names[: last + 1]]
    total = sum(
        (size * 3 // 4 // 2**halvings) * (size // 2**halvings) * np.prod(shapes[name])
        for name, halvings in passes
    )
    return 2 * 2 * total / 1e9


def matmul_rates() -> str:
    rates = []
    for dtype in (tf.float32, tf.bfloat16):
        a = tf.cast(tf.random.normal([2048, 2048]), dtype)
        product = tf.function(lambda a=a: tf.matmul(a, a)[0, 0])
        fastest = min(seconds(lambda f=product: f().numpy()) for _ in range(10))
        rates.append(f"{2 * 2048**3 / fastest / 1e9:.0f} in {dtype.name}")
    return " and ".join(rates)


def textured(size: int) -> "tf.Tensor":
    """Some image, [1, H, W, 3]; what is on it makes no difference to the time."""
    return tf.constant(images.load(PAIRS[0][0], size)[np.newaxis, : size * 3 // 4])


def plain_model(settings: nst.Settings, weights=None) -> "tf.keras.Model":
    """The network of resolved settings, not compiled."""
    layers = networks.used_layers(settings)
    return networks.feature_extractor(settings.network, layers, settings.pooling, weights)


class Ours:
    """The loop of nst.py on one network, size and precision."""

    def __init__(self, network, weights, size, precision):
        settings = nst.Settings(network=network, weights=str(weights), precision=precision)
        self.settings, extractor = nst.load_network(settings)
        self.image = textured(size)
        targets = nst.take_targets(extractor, self.settings, self.image, [self.image[:, ::-1]])
        self.objective = partial(nst.make_objective(extractor, self.settings), targets)

    def seconds_per_step(self, steps: int) -> float:
        times = []

        def report(*_):
            times.append(time.perf_counter())

        nst.minimize(self.objective, tf.Variable(self.image), self.settings, steps + 1, report)
        return float(np.median(np.diff(times)[1:]))  # the first one compiles Adam


class Eager:
    """The classic loop at the same."""

    def __init__(self, network, weights, size, settings):
        image = textured(size)
        model = plain_model(settings, weights)
        self.classic = Classic(model, settings, image, image[:, ::-1])

    def seconds_per_step(self, steps: int) -> float:
        return float(np.median([seconds(self.classic.step) for _ in range(steps)]))


def torch_steps(network, weights, size, settings) -> dict:
    """The same step of VGG in PyTorch, by name: float32 in both of its layouts, and bfloat16."""
    import torch
    from torch.nn import functional

    pool = functional.max_pool2d if settings.pooling == "max" else functional.avg_pool2d
    kernels = {
        name: (torch.tensor(kernel.transpose(3, 2, 0, 1)), torch.tensor(bias))
        for name, (kernel, bias) in networks.read_weights(weights, network).items()
    }
    wanted = {*settings.content_layers, *settings.style_layers}
    mean = torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)

    def extract(image, kernels, dtype):
        x, features, block = (image.flip(1) - mean).to(dtype), {}, 1
        for name, (kernel, bias) in kernels.items():
            if networks.VGG.block(name) > block:
                x, block = pool(x, 2), networks.VGG.block(name)
            x = functional.relu(functional.conv2d(x, kernel, bias, padding=1))
            if name in wanted:
                features[name] = x.float()
            if features.keys() == wanted:
                return features
        raise AssertionError

    def gram(features):
        flat = features.flatten(2)[0]
        return flat @ flat.T / flat.shape[1]

    def make(dtype, layout):
        cast = {
            x: (k.to(dtype, memory_format=layout), b.to(dtype)) for x, (k, b) in kernels.items()
        }
        start = torch.tensor(textured(size).numpy().transpose(0, 3, 1, 2))
        start = start.contiguous(memory_format=layout)
        with torch.no_grad():
            content = extract(start, cast, dtype)
            style = extract(start.flip(2), cast, dtype)
            style = {x: gram(style[x]) for x in settings.style_layers}
        image = start.clone(memory_format=torch.preserve_format).requires_grad_()
        optimizer = torch.optim.Adam([image], lr=5.0)

        def step():
            optimizer.zero_grad()
            features = extract(image, cast, dtype)
            loss = (
                settings.content_weight
                * sum(((features[x] - content[x]) ** 2).mean() for x in settings.content_layers)
                / len(settings.content_layers)
            )
            loss = loss + settings.style_weight * sum(
                ((gram(features[x]) - a) ** 2).mean() for x, a in style.items()
            ) / len(style)
            loss = loss + settings.tv_weight * (
                ((image[:, :, 1:] - image[:, :, :-1]) ** 2).mean()
                + ((image[..., 1:] - image[..., :-1]) ** 2).mean()
            )
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                image.clamp_(0, 255)
            return float(loss.detach())

        class Steps:
            def seconds_per_step(self, steps: int) -> float:
                return float(np.median([seconds(step) for _ in range(steps)]))

        step()
        return Steps()

    return {
        "PyTorch float32": make(torch.float32, torch.contiguous_format),
        "PyTorch float32, channels last": make(torch.float32, torch.channels_last),
        "PyTorch bfloat16": make(torch.bfloat16, torch.contiguous_format),
        "PyTorch bfloat16, channels last": make(torch.bfloat16, torch.channels_last),
    }


def steps(quick: bool) -> None:
    print("## Seconds per step\n")
    print(f"Multiplying matrices, this machine makes {matmul_rates()} GFLOP/s.\n", flush=True)
    for network in ("small",) if quick else ("small", "vgg19"):
        weights = vgg19_weights() if network == "vgg19" else networks.find_weights(network)
        for size, rounds in {256: 1}.items() if quick else {256: 5, 512: 3, 1024: 1}.items():
            compiled = Ours(network, weights, size, "float32")
            programs = {
                "classic loop, eager float32": Eager(network, weights, size, compiled.settings),
                "compiled, float32": compiled,
            }
            auto = Ours(network, weights, size, "auto")
            if auto.settings.precision != "float32":
                programs[f"compiled, {auto.settings.precision} (auto)"] = auto
            if network != "small":
                with contextlib.suppress(ImportError):
                    programs |= torch_steps(network, weights, size, compiled.settings)
            for program in programs.values():
                program.seconds_per_step(1)
            times = {name: [] for name in programs}
            for _ in range(rounds):
                for name, program in programs.items():
                    times[name].append(program.seconds_per_step(3))
            work = gflop(network, size, compiled.settings)
            classic = times["classic loop, eager float32"]
            rows = []
            for name, values in times.items():
                ratio = np.median(np.divide(classic, values))
                figures = f"{np.median(values):.3f}", f"{work / np.median(values):.0f}"
                rows.append([name, *figures, f"{ratio:.2f}"])
            head = f"`{network}`, {size} x {size * 3 // 4} pixels"
            print_table([head, "s per step", "GFLOP/s", "times faster"], rows)


# Time to the classic loop's final loss


def losses_of_classic(content, style, settings, model, count: int):
    """What it ends with: its loss, and that of its best image with nst.py's margin; its time."""
    pictures = [images.load(path, settings.size) for path in (content, style)]
    plain = Classic(model, settings, *(x[np.newaxis] for x in pictures))
    step_seconds = float(np.median([seconds(plain.step) for _ in range(20)]))
    plain.descend = tf.function(plain.descend)  # the same numbers sooner
    for _ in range(count - 20):
        plain.step()
    framed = Classic(model, settings, scales.with_margin(pictures[0]), pictures[1][np.newaxis])
    framed.loss, plain.loss = tf.function(framed.loss), tf.function(plain.loss)
    target = float(framed.loss(tf.constant(scales.with_margin(plain.best[0]))))
    return plain, framed, target, count * step_seconds


def time_to_loss(content, style, settings, plain, framed, target):
    """Seconds until an image's loss is the target, None if never, and losses at the end by both
    measures, relative to the classic's; measuring it costs no time of the run's."""
    found, lost = [], 0.0

    def on_step(step):
        nonlocal lost
        start = time.perf_counter()
        if step.tensor.shape == framed.image.shape:
            found.append((step.seconds - lost, float(framed.loss(step.tensor))))
        lost += time.perf_counter() - start

    result = nst.stylize(content, style, settings, on_step)
    hit = next((at for at, loss in found if loss <= target), None)
    end = min(loss for _, loss in found) / target
    by_classic = float(plain.loss(tf.constant(np.float32(result.image)[np.newaxis])))
    return hit, end, by_classic / plain.lowest, found[-1][0]


def loss(quick: bool) -> None:
    size, count, pairs = (256, 100, PAIRS[:1]) if quick else (512, 1000, PAIRS)
    alike = {**CLASSIC, "size": size}
    small = nst.Settings(**alike, precision="float32").resolved()
    model = plain_model(small)
    runs = {
        "Adam": {"scales": 1, "num_iter": count // 5},
        "L-BFGS": {"scales": 1, "num_iter": count // 8, "optimizer": "lbfgs"},
        "coarse to fine": {"num_iter": count // 5},
        "half of it": {"num_iter": count // 10},
    }
    print("## Time to the loss with which the classic loop ends\n", flush=True)
    times, rows = {name: [] for name in runs}, []
    for content, style in pairs:
        plain, framed, target, classic = losses_of_classic(content, style, small, model, count)
        row = [f"{content.stem} x {style.stem}", f"{classic:.0f}"]
        for name, chosen in runs.items():
            settings = nst.Settings(**alike, **chosen)
            hit, end, by_classic, whole = time_to_loss(
                content, style, settings, plain, framed, target
            )
            times[name].append((classic / hit if hit else 0, end, by_classic, whole))
            row.append(f"{hit:.1f}" if hit else "never")
        rows.append(row)
    print_table([f"seconds, `small`, {size} pixels", "classic loop", *runs], rows)
    head = ["median", "times sooner", "loss at the end", "as the classic measures it", "whole run"]
    rows = []
    for name, chosen in runs.items():
        sooner, end, by_classic, whole = np.median(times[name], axis=0)
        options = " ".join(f"--{x} {value}" for x, value in chosen.items())
        figures = f"{sooner:.0f}", f"{end:.2f}", f"{by_classic:.2f}", f"{whole:.1f} s"
        rows.append([f"{name}, `{options}`", *figures])
    print_table(head, rows)


# Whole commands


def command(network: str, size: int, *options: str) -> tuple[float, float, float]:
    """(seconds in all, seconds of its iterations, peak memory in GB) of a command."""
    weights = ("--weights", str(vgg19_weights())) if network == "vgg19" else ()
    with tempfile.TemporaryDirectory() as folder:
        pictures = ["-c", PAIRS[0][0], "-s", PAIRS[0][1], "-r", Path(folder, "out.jpg")]
        argv = [sys.executable, ROOT / "nst.py", "-v", "-p", "1", "--network", network, *weights]
        script = (
            "import resource, subprocess, sys; run = subprocess.run(sys.argv[1:]); "
            "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
            "sys.exit(run.returncode)"
        )
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script, *argv, *pictures, "--size", str(size), *options],
            capture_output=True,
            text=True,
            check=True,
        )
        whole = time.perf_counter() - start
    iterations = float(re.findall(r"([\d.]+) s$", done.stderr, re.MULTILINE)[-1])
    return whole, iterations, int(done.stdout.split()[-1]) / 1e6


def memory(quick: bool) -> None:
    print("## Peak memory\n", flush=True)
    rows = []
    for network in ("small",) if quick else ("small", "vgg19"):
        for size in (256,) if quick else (512, 1024):
            found = [
                command(network, size, "-n", "3", "--scales", "1", "--precision", precision)[2]
                for precision in ("float32", "auto")
            ]
            rows.append([f"`{network}`, {size} pixels", *(f"{x:.2f}" for x in found)])
    print_table(["GB", "float32", "auto"], rows)


def whole(quick: bool) -> None:
    print("## From command to file\n", flush=True)
    rows = []
    for network in ("small",) if quick else ("small", "vgg19"):
        all_of_it, iterations, _ = command(network, 256 if quick else 512, "-n", "1")
        rows.append([f"start-up of `{network}`", f"{all_of_it - iterations:.1f}"])
    size, count = (256, 100) if quick else (512, 1000)
    for network in ("small",) if quick else ("small", "vgg19"):
        own = networks.NETWORKS[network].num_iter * count // 1000
        all_of_it, _, _ = command(network, size, "-n", str(own))
        rows.append([f"`--network {network} --size {size} -n {own}`", f"{all_of_it:.0f}"])
    print_table(["", "seconds"], rows)


def main() -> None:
    tables = {"steps": steps, "loss": loss, "memory": memory, "command": whole}
    print_tables(tables, __doc__.splitlines()[0], made_with())


if __name__ == "__main__":
    main()
