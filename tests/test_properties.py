"""What holds for all settings, by hypothesis: nothing is lost on the way to a command line or to a
picture's metadata and back, and every plan of scales fits."""

import dataclasses
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import nst
from nstlib import cli, images, networks, provenance
from nstlib.scales import plan_scales

# Of files: any bytes but NUL, those that are no UTF-8 as Python names them (PEP 383), and but "--",
# which argparse drops before Python 3.13.
NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),
    min_size=1,
).filter(lambda x: x != "--")
# A loaded machine is slow, and no fault of the program.
SOME = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True, scope="module")
def known_machine():
    """One that works in float32, without a look at the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "best_precision", lambda: "float32")
        yield


def values(field):
    """Within the limits of an option, mostly not at its default."""
    limits = field.metadata
    if "one_of" in limits:
        return st.sampled_from([x for x in limits["one_of"] if x])
    low, kind = limits.get("at_least", limits.get("above")), limits.get("type", type(field.default))
    if kind is float:
        above = "above" in limits
        return st.floats(low, limits.get("at_most", 1e30), exclude_min=above, allow_nan=False)
    if kind is int:
        return st.integers(low, limits.get("at_most", 10**9))
    return NAMES


@st.composite
def any_settings(draw):
    fields = {x.name: x for x in dataclasses.fields(nst.Settings)}
    network = draw(values(fields["network"]))
    layers = st.sampled_from(list(networks.NETWORKS[network].layers))
    weighted = st.builds("{}={}".format, layers, st.floats(1e-3, 1e3).map("{:.6g}".format))
    special = {
        "network": st.just(network),
        "content_layers": st.lists(layers | weighted, min_size=1, max_size=3).map(tuple),
        "style_layers": st.lists(layers | weighted, min_size=1, max_size=3).map(tuple),
        "style_blend": st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=3).map(tuple),
        "mask": st.lists(NAMES, min_size=1, max_size=3).map(tuple),
        "scales": st.integers(1, 9),
        "init": st.sampled_from(["style", "noise"]) | NAMES,
        "content_weight": st.floats(1e-3, 1e9),  # not 0, as the style's may be
        "precision": st.just("float32"),  # not all go with every optimizer
    }
    given = {}
    for name in draw(st.sets(st.sampled_from(list(fields)))) | {"network"}:
        given[name] = draw(special.get(name, values(fields[name])))
    return nst.Settings(**given)


FILES = {"content": NAMES, "styles": st.lists(NAMES, min_size=1, max_size=3)}


@SOME
@given(chosen=any_settings(), **FILES)
@example(
    chosen=nst.Settings(init="-0.0", mask=("--a-b", "x.0")), content="photo.0", styles=["-s", "---"]
)
def test_a_command_line_makes_the_settings_it_was_made_of(chosen, content, styles):
    argv = provenance.command(chosen, content, styles, "out.png")
    args = nst.parse(argv)
    assert cli.chosen(nst.Settings, args).resolved() == chosen.resolved()
    assert (args.content, args.style, args.result) == (content, styles, "out.png")


@SOME
@given(chosen=any_settings(), ending=st.sampled_from(list(images.FORMATS)), **FILES)
def test_a_picture_tells_how_it_was_made(chosen, ending, content, styles):
    image = np.zeros((2, 3, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x{ending}")
        losses = {"total": 2.5e7, "style": 1e-3}
        made = provenance.metadata([content, *styles], path, chosen.resolved(), losses, 7)
        images.save(path, image, made)
        argv, _ = provenance.read(path)
        args = nst.parse(argv)
    assert cli.chosen(nst.Settings, args).resolved() == chosen.resolved()
    assert (args.content, args.style, args.result) == (content, styles, str(path))


@SOME
@given(
    size=st.integers(32, 16384),
    num_iter=st.integers(1, 5000),
    scales=st.integers(1, 20) | st.just("auto"),
    thinnest=st.floats(0.001, 1),
)
def test_scales_double_and_share_the_iterations(size, num_iter, scales, thinnest):
    chosen = nst.Settings(network="small", size=size, num_iter=num_iter, scales=scales).resolved()
    sizes, counts = zip(*plan_scales(chosen, thinnest), strict=True)
    assert sizes[-1] == size
    assert len(sizes) <= min(chosen.scales, num_iter)
    assert all(abs(2 * one - other) <= 1 for one, other in pairwise(sizes))
    assert all(one * thinnest >= 32 for one in sizes[:-1])
    assert sum(counts) == num_iter
    assert min(counts) >= 1
    even = [count for one, count in zip(sizes, counts, strict=True) if one <= 1024]
    assert not even or max(even) - min(even) <= 1
    for one, (more, less) in zip(sizes, pairwise(counts), strict=False):
        assert one < 1024 or (more - 1) == pytest.approx(2 * (less - 1), rel=0.01, abs=3)
