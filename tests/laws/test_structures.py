"""Every structure, compiled once: against float64 NumPy, against what its masks allow, and in half precision."""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import Coords, packed, padded, plain
from fxformer.layers.attention.indexer import Indexer
from fxformer.ops.mask import Blocks, Causal, Full, Mask, Prefix, Strided, Window
from fxformer.verify import disturbed
from fxformer.walk import parts
from tests.laws import reference
from tests.laws.specs import STRUCTURES, apart, attentions, tokens_of, toy, with_mask
from tests.ops import reference as ops

LENGTH = 11
COORDS = {
    "plain": plain(LENGTH, start=jnp.zeros(2, int)),
    "padded": padded(jnp.array([[1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]])),
    "packed": packed(jnp.array([[0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 1, 1, -1, 2, 2]])),
}
POINTWISE = {name for name in STRUCTURES if name.startswith(("norm", "placement", "activation", "ffn"))}
ROUNDED = POINTWISE | set(attentions(STRUCTURES))


class Case(NamedTuple):
    """A model with random parameters and two rows of tokens."""

    spec: fx.Transformer
    params: fx.model.Params
    tokens: np.ndarray

    def says(self, coords: Coords, tokens: np.ndarray | None = None, **ways) -> fx.Output:
        """Where tokens stand is an argument of the program: it is compiled once for all."""
        return fx.apply(self.spec, self.params, self.tokens if tokens is None else tokens, coords=coords, **ways)


def case_of(spec: fx.Transformer) -> Case:
    return Case(spec, disturbed(spec), tokens_of(spec, 2, LENGTH))


@pytest.fixture(scope="module")
def case(request) -> Case:
    """The tests of one structure run one after another."""
    return case_of(STRUCTURES[request.param])


def each_of(names: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", sorted(names), indirect=True)


@each_of(name for name, spec in STRUCTURES.items() if reference.knows(spec))
def test_logits_hidden_states_and_statistics_equal_float64_numpy(case):
    for coords in COORDS.values():
        out = case.says(coords)
        logits, hidden, stats = reference.forward(case.spec, case.params, case.tokens, coords)
        for ours, exact in ((out.logits, logits), (out.hidden, hidden)):
            np.testing.assert_allclose(ours, exact, atol=2e-5 * np.abs(exact).max())
        assert out.stats.keys() == stats.keys()
        for key, exact in stats.items():
            np.testing.assert_allclose(out.stats[key], exact, rtol=1e-4, err_msg=key)


def influence(case: Case, coords: Coords, **ways) -> np.ndarray:
    """bool [T, S]: does another token S of the first row change hidden state T, by however little?"""

    def hidden(tokens: np.ndarray) -> np.ndarray:
        return np.asarray(case.says(coords, tokens, **ways).hidden[0])

    before, seen_TS = hidden(case.tokens), np.zeros((LENGTH, LENGTH), bool)
    for s in range(LENGTH):
        tokens = case.tokens.copy()
        tokens[0, s] = (tokens[0, s] + 1) % case.spec.embed.vocab
        seen_TS[:, s] = np.any(hidden(tokens) != before, axis=-1)
    return seen_TS


def reachable(case: Case, coords: Coords) -> np.ndarray:
    """bool [T, S]: the masks of all layers, composed; the residual stream lets every token reach itself."""
    reach = np.eye(LENGTH, dtype=bool)
    for block in case.spec.stack.blocks:
        step = ops.visible(block.attention.mask, coords, coords, rows=2)[0] | np.eye(LENGTH, dtype=bool)
        reach = (step.astype(int) @ reach.astype(int)) > 0
    return reach


@each_of(apart(STRUCTURES))
def test_a_token_influences_exactly_what_the_masks_let_it_reach(case):
    for coords in COORDS.values():
        found, allowed = influence(case, coords), reachable(case, coords)
        chosen = any(True for _ in parts(case.spec, Indexer))  # an indexer chooses among what the mask lets through
        np.testing.assert_array_equal(found, found & allowed if chosen else allowed)


@each_of(ROUNDED)
def test_bfloat16_is_close_to_float32(case):
    """To 8 % of the largest logit, 8 bits of mantissa through at most four blocks, and to 1.5 % on average."""
    exact, rounded = (case.says(COORDS["plain"], dtype=dtype).logits for dtype in (jnp.float32, jnp.bfloat16))
    assert rounded.dtype == jnp.float32
    error = np.abs(rounded - exact) / np.abs(exact).max()
    assert 0 < error.max() < 0.08 and error.mean() < 0.015


MASKS: list[Mask] = [
    Full(), Window(2), Window(2) | Prefix(), Causal() | Prefix(), Strided(4), Blocks(3), Full() & Window(5),
]  # fmt: skip


@pytest.mark.parametrize("kernel", fx.ops.KERNELS)
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_masks_compose_through_depth_in_every_kernel(mask, kernel):
    case, row = case_of(with_mask(toy(), mask)), plain(LENGTH)
    marked = Coords(
        index=row.index, segment=jnp.zeros((1, LENGTH), int), prefix=jnp.arange(LENGTH)[None] < 4, pos=row.pos
    )
    np.testing.assert_array_equal(influence(case, marked, kernel=kernel), reachable(case, marked))
