"""The coordinate check listens to every module, and tells a parametrisation that is right from one that is not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from train.config import Config
from train.errors import UserError
from train.step import numbers_of, recipe_of, start
from train.sweep import coords
from train.sweep.coords import Sizes, activations, coordinates

SMALL = {"width": 16, "depth": 2, "heads": 2, "length": 8, "batch": 2, "validation": 2, "task": "copy", "head": "zero"}


def config(*cells, **settings):
    return Config(name="small", cells=cells or ({},)).with_settings({**SMALL, **settings})


def test_every_module_is_heard_with_what_it_gives():
    """Against the model's own hidden states, and a layer of it by NumPy; also through the loop over layers."""
    small = config(norm="none", head="untied")
    recipe, numbers = recipe_of(small), numbers_of(small)
    params = start(recipe, numbers).params
    rows = np.arange(18, dtype=np.int32).reshape(2, 9) % 7
    heard = jax.jit(partial(activations, recipe, numbers))(params, rows)
    out = fx.apply(recipe.spec(numbers), params, rows[:, :-1])
    np.testing.assert_allclose(heard["head/out"], out.logits, rtol=1e-5, atol=1e-6)
    block = params["stack"]["group_0"]["blocks"]["block_0"]
    stream = np.asarray(heard["block/attention_residual"])
    assert stream.shape == (2, 2, 8, 16)  # layers, rows, tokens, width
    up = np.einsum("lbtd,ldf->lbtf", stream, block["ffn"]["up"]["weight"])
    np.testing.assert_allclose(heard["block/ffn/up"], up, rtol=1e-4, atol=1e-5)
    down = np.einsum("lbtf,lfd->lbtd", jax.nn.gelu(up, approximate=True), block["ffn"]["down"]["weight"])
    np.testing.assert_allclose(heard["block/ffn_residual"], stream + down, rtol=1e-4, atol=1e-5)
    assert set(heard) >= {
        "embed", "head/out", *(f"block/attention/{name}" for name in ("query", "key", "value", "out")),
        "block/ffn/up", "block/ffn/down", "block/attention_residual", "block/ffn_residual",
    }  # fmt: skip


def test_slopes_are_those_of_planted_powers_and_nothing_has_none():
    runs = [
        (width, {"up": Sizes(2.0, width**0.5, width**-1.0), "gate": Sizes(0.0, 1.0, 1.0)})
        for width in (16, 32, 64) for _ in range(2)
    ]  # fmt: skip
    (_, up), (_, gate) = coords._slopes(runs)
    assert [slope.slope for slope in up] == pytest.approx([0, 0.5, -1])
    assert gate.start is None and gate.end.slope == pytest.approx(0)


def test_training_changes_as_much_at_every_width_under_mup_and_not_under_the_standard_one():
    """Embedding, query, and logits of a head that begins at zero, whose change grows like the width otherwise."""
    cells = [
        {"parametrization": name, "width": width} for name in ("standard", "mup") for width in (16, 32, 64)
    ]  # fmt: skip
    told = coordinates(config(*cells, depth=1, base_width=32, lr=1e-2), steps=3, say=lambda line: None)
    slopes = {(each.arm["parametrization"], each.tensor): each.slopes.change.slope for each in told}
    for tensor, grows in (("head/out", 0.8), ("embed", 0.3)):
        assert slopes["standard", tensor] > grows
        assert abs(slopes["mup", tensor]) < grows / 3, slopes


def test_two_sizes_make_no_slope():
    with pytest.raises(UserError, match="a slope goes through 3 sizes or more; give the grid as many widths or depths"):
        coordinates(config({"width": 16}, {"width": 32}))


def test_what_a_grid_tries_of_rates_is_left_aside():
    held = coords._at_one_rate(config({"lr": 0.1, "width": 16}, {"lr": 0.2, "width": 16}, warmup=5), 3)
    assert held.cells == ({"width": 16}, {"width": 16})
    assert (held.train.schedule, held.train.warmup, held.train.steps) == ("constant", 0, 3)
    assert jnp.isfinite(held.train.lr)
