"""Every option of a picture with its default, from which the command line is made."""

import dataclasses
import math
import numbers
import operator
import os
import types
import typing
from dataclasses import dataclass
from typing import Any

import numpy as np

from nstlib import UserError, networks
from nstlib.images import MAX_SIZE
from nstlib.losses import STYLE_LOSSES
from nstlib.optimizers import NEED_FLOAT32, OPTIMIZERS

LIMITS = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "one_of": lambda value, choices: value in choices,
}

STARTS = "content", "style", "noise"  # what --init takes beside the name of a file
MAX_WEIGHT = 1e30  # float32 ends at 3.4e38, and losses are multiplied by it


def option(default, help: str, *flags: str, **metadata):
    """A field of a dataclass with what its option of the command line needs.

    metadata: its LIMITS, the title of the `group` that begins with it in the help, and arguments of
    `ArgumentParser.add_argument`.
    """
    return dataclasses.field(default=default, metadata={"flags": flags, "help": help, **metadata})


def check_fields(settings) -> None:
    """Make the fields of a dataclass what the command line would have made them, see `plain`.

    Raises UserError unless each keeps within its LIMITS, or is its default. Numbers must be finite.
    """
    for field in dataclasses.fields(settings):
        value = plain(field.name, getattr(settings, field.name), field.type)
        object.__setattr__(settings, field.name, value)
        if value == field.default:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{field.name} must be a finite number, not {value}")
        for name, holds in LIMITS.items():
            limit = field.metadata.get(name)
            if limit is not None and not holds(value, limit):
                limit = ", ".join(map(str, limit)) if name == "one_of" else limit
                wanted = f"{name.replace('_', ' ')} {limit}"
                raise UserError(f"--{field.name} must be {wanted}, not {value}")


def plain(name: str, value: Any, kind):
    """A value as one of this type, such as int | None: NumPy's numbers as Python's, a path as a
    string, and one where there may be several as a tuple. Raises UserError for anything else."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and types.NoneType in kinds:
        return None
    for several in kinds:
        if typing.get_origin(several) is tuple:
            one = isinstance(value, str | os.PathLike) or not np.iterable(value)
            items: Any = [value] if one else value
            kind, _ = typing.get_args(several)
            return tuple(plain(name, x, kind) for x in items)
    if str in kinds and isinstance(value, str | os.PathLike):
        return os.fsdecode(value)
    if float in kinds and isinstance(value, numbers.Real):
        return float(value)
    if int in kinds and isinstance(value, numbers.Integral):
        return operator.index(value)
    if int in kinds and isinstance(value, numbers.Real) and float(value).is_integer():
        return int(float(value))
    wanted = {str: "text", float: "a number", int: "a whole number"}
    wanted = " or ".join(wanted[x] for x in kinds if x in wanted)
    shown = repr(value) if isinstance(value, str | numbers.Number | None) else type(value).__name__
    raise UserError(f"--{name} must be {wanted}, not {shown}")


def auto_or_number(text: str) -> int | str:
    return text if text == "auto" else int(text)


def shortest(value) -> str:
    """As one writes it: 5 for 5.0, but a file's name as it is."""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def by_network(name: str) -> str:
    """What the help says of an option whose default is the network's own."""
    own = {network: getattr(entry, name) for network, entry in networks.NETWORKS.items()}
    usual = getattr(networks.Network, name)
    others = [f"of {x} {shortest(value)}, " for x, value in own.items() if value != usual]
    return f"{''.join(others)}else {shortest(usual)}"


def with_commas(text: str) -> tuple[float, ...]:
    """Of numbers with commas between."""
    return tuple(float(number) for number in text.split(","))


def explained(settings: type) -> type:
    """A dataclass with each of its fields and what it does in the docstring, for `help`."""
    lines = []
    for field in dataclasses.fields(settings):
        choices = " or ".join(map(str, field.metadata.get("one_of", ())))
        help = field.metadata["help"] + (choices and f": {choices}")
        lines.append(f"    {field.name}: {help} [{field.default}]")
    settings.__doc__ = "\n".join([(settings.__doc__ or "").rstrip(), "", *lines])
    return settings


@explained
@dataclass(frozen=True)
class Settings:
    """Every option of a picture; raises UserError for values that cannot work.

    None and "auto" stand for what suits the network, the size and the machine; `Result.settings`
    tells what that was.
    """

    num_iter: int | None = option(
        *(None, f"iterations; {by_network('num_iter')}", "-n"),
        type=int,
        at_least=1,
        at_most=1_000_000_000,
        group="how to optimize",
    )
    learning_rate: float | None = option(
        *(None, f"of Adam at the start, in grey levels; {by_network('learning_rate')}", "-l"),
        type=float,
        above=0,
        at_most=MAX_WEIGHT,
    )
    optimizer: str = option("adam", "what changes the pixels", one_of=OPTIMIZERS)
    tolerance: float = option(0.0, "end a scale when 50 iterations gain less than this", at_least=0)
    precision: str = option(
        "auto", "what the network computes in", one_of=("auto", *networks.PRECISIONS)
    )
    content_weight: float = option(
        1e4, "weight of the content loss", at_least=0, at_most=MAX_WEIGHT, group="what to weigh"
    )
    content_focus: float | None = option(
        *(None, f"how far it leaves flat areas to the painting; {by_network('content_focus')}"),
        type=float,
        at_least=0,
        at_most=1,
    )
    style_weight: float = option(1e-2, "weight of the style loss", at_least=0, at_most=MAX_WEIGHT)
    style_loss: str | None = option(
        *(None, f"how styles are compared; {by_network('style_loss')}"), one_of=STYLE_LOSSES
    )
    style_layout: float | None = option(
        *(None, f"how far the painting's top stays on top; {by_network('style_layout')}"),
        type=float,
        at_least=0,
        at_most=100,
    )
    tv_weight: float | None = option(
        *(None, f"weight of the total variation: higher is smoother; {by_network('tv_weight')}"),
        type=float,
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    size: int = option(
        *(512, "longest side of the result in pixels"),
        at_least=32,
        at_most=MAX_SIZE,
        group="what to paint",
    )
    scales: int | str = option(
        "auto", "sizes to go through, each twice the one before", type=auto_or_number
    )
    style_scale: float = option(1.0, "size of the style image: strokes", at_least=0.1, at_most=10)
    style_blend: tuple[float, ...] | None = option(
        None, "weight of each style, such as 3,7", type=with_commas
    )
    mask: tuple[str, ...] | None = option(
        None, "image, white where a style is to be: one for each -s", action="append"
    )
    colors: str | None = option(
        *(None, f"whose colours; {by_network('colors')}"),
        one_of=("style", "palette", "content", "match"),
    )
    init: str = option("content", "where to start: content, style, noise or an image file")
    init_noise: float | None = option(
        *(None, f"share of noise at the start; {by_network('init_noise')}"),
        type=float,
        at_least=0,
        at_most=1,
    )
    seed: int = option(0, "the same seed gives the same picture on the same machine", at_least=0)
    network: str = option(
        "vgg19", "small is bundled, and fast", one_of=networks.NETWORKS, group="what to see it with"
    )
    weights: str | None = option(None, "weights file of that network (.h5 or .weights.h5)")
    content_layers: tuple[str, ...] | None = option(None, "name or name=weight", nargs="+")
    style_layers: tuple[str, ...] | None = option(None, "name or name=weight", nargs="+")
    pooling: str | None = option(None, "pooling in the network", one_of=networks.POOLINGS)

    def __post_init__(self):
        check_fields(self)
        if self.scales != "auto" and self.scales not in range(1, 21):
            raise UserError(f"--scales must be auto or 1 to 20, not {self.scales}")
        if not self.style_weight and not self.content_weight:
            raise UserError("--style_weight must be above 0 where --content_weight is 0")
        blend = self.style_blend or (1,)
        if not all(share >= 0 for share in blend) or not 0 < sum(blend) < math.inf:
            raise UserError(f"--style_blend must be of numbers from 0 on, not all 0, not {blend}")
        if self.optimizer in NEED_FLOAT32 and self.precision not in ("auto", "float32"):
            raise UserError(
                f"--optimizer {self.optimizer} needs --precision float32, for its line search"
            )
        for layers in (self.content_layers, self.style_layers):
            networks.layer_weights(self.network, layers)

    def resolved(self) -> "Settings":
        """These settings with None and "auto" replaced by what suits network, size and machine."""
        network = networks.NETWORKS[self.network]

        def named(layers):
            weights = networks.layer_weights(self.network, layers).items()
            return tuple(
                name if weight == 1 else f"{name}={weight:.12g}" for name, weight in weights
            )

        refined = self.init not in STARTS  # an earlier result: no detours
        scales = 1 if refined else max(1, int(math.log2(self.size / 128)) + 1)
        precision = self.precision
        if precision == "auto":
            exact = self.optimizer in NEED_FLOAT32
            precision = "float32" if exact else networks.best_precision()
        own = ("num_iter", "learning_rate", "tv_weight", "style_loss", "style_layout")
        own += ("colors", "content_focus", "init_noise", "pooling")
        unset = {name: getattr(network, name) for name in own if getattr(self, name) is None}
        if "init_noise" in unset and self.init != "content":
            unset["init_noise"] = 0.0  # an earlier result loses nothing, and noise needs no more
        return dataclasses.replace(
            self,
            **unset,
            content_layers=named(self.content_layers or network.content_layers),
            style_layers=named(self.style_layers or network.style_layers),
            scales=scales if self.scales == "auto" else self.scales,
            precision=precision,
        )
