"""Masks against predicates on pairs of indices, written as a loop; and how far each says that it reaches."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxformer import ops
from fxformer.coords import Coords, packed, padded, plain
from fxformer.ops.mask import Blocks, Both, Causal, Either, Full, Prefix, Strided, Window, visible
from tests.ops import reference

SIMPLE = [Full(), Causal(), Prefix(), Window(1), Window(3), Strided(1), Strided(3), Blocks(1), Blocks(4)]
masks = st.recursive(
    st.sampled_from(SIMPLE),
    lambda inner: st.builds(Both, inner, inner) | st.builds(Either, inner, inner),
    max_leaves=4,
)


def some_coords(seed, length, rows=2):
    """Indices anywhere, with padding, in a few segments, some of them prefix."""
    rng = np.random.default_rng(seed)
    shape = (rows, length)
    return Coords(
        index=jnp.asarray(rng.integers(-2, 14, shape)),
        segment=jnp.asarray(rng.integers(0, 2, shape)),
        prefix=jnp.asarray(rng.integers(0, 2, shape).astype(bool)),
    )


def test_every_mask_has_a_predicate_and_is_tried_here():
    kinds = {kind for kind in vars(ops.mask).values() if isinstance(kind, type) and issubclass(kind, ops.Mask)}
    assert kinds - {ops.Mask} == {type(mask) for mask in SIMPLE} | {Both, Either} == set(reference.MASKS)


@pytest.mark.oracle
@settings(max_examples=60, deadline=None)
@given(mask=masks, seed=st.integers(0, 10_000))
def test_a_mask_equals_its_predicate_on_every_pair_within_segments_and_never_on_padding(mask, seed):
    q, k = some_coords(seed, 5), some_coords(seed + 1, 7)
    np.testing.assert_array_equal(visible(mask, q, k), reference.visible(mask, q, k, rows=2))


@settings(max_examples=60, deadline=None)
@given(mask=masks)
def test_no_query_sees_further_back_than_the_reach_says(mask):
    """What the capacity of a cache follows from: reach None, or nothing older than reach - 1 tokens is ever visible."""
    coords = plain(14)
    age = np.arange(14)[:, None] - np.arange(14)
    for prefix in (coords.prefix, ~coords.prefix):
        marked = Coords(index=coords.index, segment=coords.segment, prefix=prefix)
        seen = reference.visible(mask, marked, marked, rows=1)[0]
        if mask.reach is not None:
            assert not seen[age >= mask.reach].any()


@pytest.mark.parametrize(("mask", "reach"), [
    (Full(), None), (Causal(), None), (Prefix(), None), (Strided(3), None), (Window(3), 3), (Blocks(4), 4),
    (Window(3) & Causal(), 3), (Window(3) & Window(5), 3), (Window(3) | Window(5), 5), (Window(3) | Prefix(), None),
    (Full() & (Blocks(4) | Window(2)), 4),
])  # fmt: skip
def test_reach(mask, reach):
    assert mask.reach == reach


def test_prefix_lm_of_six_tokens_with_three_in_front():
    """Rows 0-2 see the prefix only, row 3 one more, and so on: GLM's worked example."""
    coords = plain(6)
    coords = Coords(index=coords.index, segment=coords.segment, prefix=jnp.arange(6)[None] < 3)
    expected = ["111000", "111000", "111000", "111100", "111110", "111111"]
    seen = np.asarray(visible(Causal() | Prefix(), coords, coords))[0].astype(int)
    assert ["".join(map(str, row)) for row in seen] == expected


def test_a_window_shows_as_many_keys_as_it_says():
    seen = np.asarray(visible(Window(3), plain(7), plain(7)))[0]
    assert seen.sum(1).tolist() == [1, 2, 3, 3, 3, 3, 3]


def test_composition_is_set_algebra():
    q, k = some_coords(3, 5), some_coords(4, 7)
    a, b = np.asarray(visible(Window(3), q, k)), np.asarray(visible(Prefix(), q, k))
    np.testing.assert_array_equal(visible(Window(3) & Prefix(), q, k), a & b)
    np.testing.assert_array_equal(visible(Window(3) | Prefix(), q, k), a | b)


def test_masks_are_values():
    assert Causal() | Prefix() == Either(Causal(), Prefix()) and hash(Window(3)) == hash(Window(3))
    assert Window(3) != Window(4) and Window(3) & Causal() != Causal() & Window(3)


def test_padded_coordinates_count_tokens_only():
    valid = jnp.array([[0, 1, 1, 0, 1], [1, 1, 1, 1, 1]], bool)
    coords = padded(valid)
    assert coords.index.tolist() == [[-1, 0, 1, -1, 2], [0, 1, 2, 3, 4]]
    assert coords.pos.tolist() == [[0, 0, 1, 0, 2], [0, 1, 2, 3, 4]]


def test_packed_documents_start_again_at_position_0_and_see_themselves_only():
    """Documents are runs: a name that comes back, or comes back after padding, is another document."""
    names = np.array([[4, 4, 4, 0, 0, 4, 4, -1, 4]])
    runs = np.array([0, 0, 0, 1, 1, 2, 2, -1, 3])
    coords = packed(jnp.asarray(names))
    assert coords.pos.tolist() == [[0, 1, 2, 0, 1, 0, 1, 0, 0]]
    assert coords.index.tolist() == [[0, 1, 2, 3, 4, 5, 6, -1, 8]]
    seen = np.asarray(visible(Full(), coords, coords))[0]
    np.testing.assert_array_equal(seen, (runs[:, None] == runs) & (runs >= 0) & (runs >= 0)[:, None])


@settings(max_examples=60, deadline=None)
@given(mask=masks, ends=st.sets(st.integers(1, 13)))
def test_a_packed_document_sees_what_it_sees_alone(mask, ends):
    """Blocks too are counted from its first token, wherever in the row it stands."""
    documents = np.searchsorted(sorted(ends), np.arange(14), side="right")
    together, alone = packed(jnp.asarray(documents)[None]), plain(14)
    seen, seen_alone = (np.asarray(visible(mask, coords, coords))[0] for coords in (together, alone))
    for start, end in pairwise(sorted(ends | {0, 14})):
        np.testing.assert_array_equal(seen[start:end, start:end], seen_alone[: end - start, : end - start])


def test_plain_coordinates_start_where_each_row_stands():
    assert plain(3, start=jnp.array([0, 5])).index.tolist() == [[0, 1, 2], [5, 6, 7]]
    assert plain(2, start=4).pos.tolist() == [[4, 5]]
