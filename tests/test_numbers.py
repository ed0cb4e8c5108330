"""Numbers at the ends of what floats hold: painted with, or refused by a sentence that helps."""

import numpy as np
import pytest
from conftest import picture

import nst
from nstlib import CannotGoOn, UserError, losses

SMALL = {"network": "small", "size": 32, "num_iter": 2, "style_layers": ["level1_conv1"]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("num_iter", 10**20), ("scales", 100_000_000), ("content_weight", 1e38)),
        *(("tv_weight", 1e38), ("style_blend", (1e308, 1e308)), ("style_blend", (np.nan,))),
    ],
)
def test_out_of_bounds(name, value):
    with pytest.raises(UserError, match=f"^--{name} must be "):
        nst.Settings(**{name: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"style_blend": (1e-50,)},
        {"style_weight": 0, "tv_weight": 0, "precision": "float16"},
    ],
)
def test_painted_with(changes):
    settings = nst.Settings(**{**SMALL, **changes})
    result = nst.stylize(picture(32, 32), picture(32, 32, 1), settings)
    assert result.cut_short is None
    assert np.isfinite(result.losses["total"]).all()


@pytest.mark.parametrize(
    ("found", "previous", "suspect"),
    [
        (
            {"content": np.inf, "style": 1.0, "tv": 2.0},
            {"content": 0, "style": 9, "tv": 1},
            "content",
        ),
        ({"content": np.nan, "style": np.inf, "tv": 2.0}, None, "style"),
        (
            {"content": np.nan, "style": np.nan, "tv": np.nan},
            {"content": 0, "style": 1, "tv": 9},
            "tv",
        ),
    ],
)
def test_the_loss_that_overflows_is_named(found, previous, suspect):
    previous = previous and {"total": 10, **previous}
    with pytest.raises(CannotGoOn, match=f"lower --{suspect}_weight or "):
        losses.check_finite({"total": np.nan, **found}, previous)


def test_lack_of_memory_saves_the_best_picture(monkeypatch):
    """Wherever it shows first."""
    settings, steps = nst.Settings(**SMALL | {"num_iter": 6, "scales": 2, "size": 64}), []
    plain = nst.with_margin

    def lacking(image):
        if steps and steps[-1] == 3:
            raise MemoryError
        return plain(image)

    monkeypatch.setattr(nst, "with_margin", lacking)
    result = nst.stylize(
        picture(64, 64), picture(64, 64, 1), settings, lambda step: steps.append(step.iteration)
    )
    assert "memory does not suffice" in str(result.cut_short)
    assert result.image.shape == (64, 64, 3)
