"""Who can change what: gradients are exactly zero where no chain of masks leads, and are not where one does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import Coords, packed, padded, plain
from fxformer.layers.attention.indexer import Indexer
from fxformer.ops.mask import Blocks, Causal, Full, Prefix, Strided, Window
from fxformer.specs import parts
from fxformer.verify import disturbed
from tests.laws.reference import layers
from tests.laws.specs import STRUCTURES, apart, tokens_of, toy, with_mask
from tests.ops import reference as ops

LENGTH = 11
COORDS = {
    "plain": plain(LENGTH),
    "padded": padded(jnp.array([[0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0]])),
    "packed": packed(jnp.array([[0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]])),
}


def influence(spec, coords, kernel=None):
    """bool [T, S] of every set of coordinates: does hidden state t have a gradient with respect to token s?"""
    params, tokens = disturbed(spec), tokens_of(spec, 1, LENGTH)
    probe_D = np.random.default_rng(3).normal(size=spec.embed.width).astype(np.float32)

    def states(table, params, coords):
        own = {**params, "embed": {**params["embed"], "table": table}}
        return fx.apply(spec, own, tokens, coords=coords, kernel=kernel).hidden[0] @ probe_D

    # Every token has a row of the embedding to itself, and hidden states stand before a tied head reads the table.
    jacobian = jax.jit(lambda *inputs: jax.jacrev(states)(*inputs)[:, tokens[0]])
    return [np.asarray(jacobian(params["embed"]["table"], params, c) != 0).any(-1) for c in coords]


def reachable(spec, coords):
    """bool [T, S]: the masks of all layers, composed; the residual stream lets every token reach itself."""
    reach = np.eye(LENGTH, dtype=bool)
    unused = {f"group_{i}": {"blocks": {}} for i in range(len(spec.stack.groups))}
    for block, _ in layers(spec, unused):
        step = ops.visible(block.attention.mask, coords, coords, rows=1)[0] | np.eye(LENGTH, dtype=bool)
        reach = (step.astype(int) @ reach.astype(int)) > 0
    return reach


@pytest.mark.parametrize("name", apart(STRUCTURES))
def test_a_token_influences_exactly_what_the_masks_let_it_reach(name):
    spec = STRUCTURES[name]
    for found, coords in zip(influence(spec, COORDS.values()), COORDS.values(), strict=True):
        allowed = reachable(spec, coords)
        chosen = any(True for _ in parts(spec, Indexer))  # an indexer chooses among what the mask lets through
        np.testing.assert_array_equal(found, found & allowed if chosen else allowed)


@pytest.mark.parametrize("kernel", fx.ops.KERNELS)
@pytest.mark.parametrize(
    "mask",
    [Full(), Window(2), Window(2) | Prefix(), Causal() | Prefix(), Strided(4), Blocks(3), Full() & Window(5)],
    ids=str,
)
def test_masks_compose_through_depth_in_every_kernel(mask, kernel):
    spec = with_mask(toy(), mask)
    marked = Coords(
        index=plain(LENGTH).index,
        segment=jnp.zeros((1, LENGTH), int),
        prefix=jnp.arange(LENGTH)[None] < 4,
        pos=plain(LENGTH).pos,
    )
    (found,) = influence(spec, [marked], kernel)
    np.testing.assert_array_equal(found, reachable(spec, marked))


def test_two_windows_of_three_reach_four_tokens_back():
    """What stacking windows means, in numbers: depth x (window - 1), Mistral's receptive field."""
    (found,) = influence(with_mask(toy(), Window(3)), [plain(LENGTH)])
    assert np.flatnonzero(found[-1]).tolist() == [6, 7, 8, 9, 10]


def test_the_law_notices_one_token_too_many():
    """A window of 4 is not taken for one of 3: the expected table is not read off the model."""
    (found,) = influence(with_mask(toy(), Window(4)), [plain(LENGTH)])
    assert (found & ~reachable(with_mask(toy(), Window(3)), plain(LENGTH))).sum() == 6 + 5  # ages 5 and 6
