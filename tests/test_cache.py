"""The cache against a list that remembers everything: what is kept, what is looked at, and where a row stands."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fxformer as fx
from fxformer.cache import empty_table, extend
from fxformer.coords import PADDING, of_index, padded, plain
from fxformer.ops.mask import Causal, Full, Prefix, Window, visible
from tests.laws.specs import SPECS, STRUCTURES, disturbed, tokens_of, toy, with_groups, with_mask

ROUNDING = 2e-5  # relative to the largest logit


@pytest.fixture(autouse=True, scope="module")
def quick_compiler():
    """Programs of these tests run a few times each: the compiler's time is what they cost."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def close(ours, exact):
    np.testing.assert_allclose(ours, exact, atol=ROUNDING * np.abs(exact).max())


def seen_values(mask, coords, table):
    """For each query the values that it sees, as a sorted list: row -> token -> values."""
    value = np.asarray(table.records["value"])[..., 0]
    seen = np.broadcast_to(visible(mask, coords, table.coords), (len(value), coords.length, value.shape[1]))
    return [[sorted(value[b, seen[b, t]].tolist()) for t in range(coords.length)] for b in range(len(value))]


@settings(max_examples=60, deadline=None)
@given(
    window=st.integers(1, 6),
    room=st.integers(0, 4),
    chunks=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=5),
)
def test_every_query_sees_just_the_tokens_of_its_window_however_the_text_is_cut(window, room, chunks):
    """Three columns a row and chunk, some of them padding, rows of different lengths; the ring wraps several times."""
    mask, rows = Window(window), 2
    table = empty_table({"value": (1,)}, batch=rows, length=window + room, reach=mask.reach, dtype=jnp.float32)
    assert table.capacity == window
    remembered: list[list[int]] = [[], []]
    for chunk in chunks:
        valid = np.array(chunk).reshape(rows, 3)
        index, value = np.full((rows, 3), PADDING), np.zeros((rows, 3))
        expected: list[list[list[float]]] = [[], []]
        for b, t in np.ndindex(rows, 3):
            if valid[b, t]:
                index[b, t] = len(remembered[b])
                value[b, t] = 100 * b + index[b, t]
                remembered[b].append(value[b, t])
            expected[b].append(remembered[b][-window:] if valid[b, t] else [])
        coords = of_index(jnp.asarray(index))
        table, seen = extend(table, {"value": jnp.asarray(value, jnp.float32)[..., None]}, coords)
        assert seen_values(mask, coords, seen) == expected
        held = np.asarray(table.coords.index)
        for b in range(rows):
            count = len(remembered[b])
            assert sorted(held[b][held[b] >= 0].tolist()) == list(range(max(0, count - window), count))


def test_writing_touches_only_the_slots_of_the_new_tokens():
    table = empty_table({"value": (2,)}, batch=2, length=5, reach=None, dtype=jnp.bfloat16)
    coords = of_index(jnp.array([[1, 3], [PADDING, 4]]))
    kept, seen = extend(table, {"value": jnp.ones((2, 2, 2))}, coords)
    assert kept is seen and kept.records["value"].dtype == jnp.bfloat16
    assert kept.coords.index.tolist() == [[-1, 1, -1, 3, -1], [-1, -1, -1, -1, 4]]
    assert kept.records["value"][..., 0].tolist() == [[0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize(("reach", "length", "capacity"), [(None, 9, 9), (4, 9, 4), (9, 4, 4), (4, 4, 4)])
def test_capacity_is_the_length_or_what_the_mask_can_see(reach, length, capacity):
    assert empty_table({}, batch=2, length=length, reach=reach, dtype=jnp.float32).capacity == capacity


def test_a_model_of_windows_needs_no_more_room_than_its_widest_one():
    """And a text of any length fits; one full attention among them bounds it."""
    (block,) = toy().stack.groups[0].blocks
    local = replace(block, attention=replace(block.attention, mask=Window(3)))
    cache = fx.empty_cache(with_groups(toy(), fx.stack.Repeat(2, (local,))), 2, 100)
    assert cache.capacity is None
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(cache.tables)) < 2 * 2 * 3 * (2 * 24 + 3) * 4 + 1
    assert fx.empty_cache(STRUCTURES["pattern"], 2, 100).capacity == 100
    assert fx.empty_cache(with_mask(toy(), Window(8)), 2, 5).capacity == 5


@pytest.mark.parametrize("name", [name for name in STRUCTURES if name not in SPECS])
def test_prefill_and_steps_say_what_one_pass_says_at_every_split(name):
    """Each row is cut at its own place; what lies behind the cut is padding to the prefill. Then token by token.

    Structures that a factory makes obey this by the laws of `fxformer.verify`.
    """
    spec, length, row = STRUCTURES[name], 13, np.arange(2)
    params, tokens = disturbed(spec), tokens_of(spec, 2, length)
    whole = np.asarray(fx.apply(spec, params, tokens).logits)
    for cut in range(1, length):
        at = np.array([cut, length - cut])
        valid = np.arange(length) < at[:, None]
        out = fx.apply(spec, params, tokens, coords=padded(valid), cache=fx.empty_cache(spec, 2, length))
        close(np.asarray(out.logits)[valid], whole[valid])
        assert out.cache.length_B.tolist() == at.tolist()
        while at.max() < length:
            out = fx.apply(spec, params, tokens[row, at][:, None], cache=out.cache)
            close(np.asarray(out.logits)[:, 0], whole[row, at])
            at = at + 1


@pytest.mark.parametrize("window", [2, 3, 4, 5])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 7])
def test_a_ring_keeps_what_a_window_sees_however_often_it_wraps(window, chunk):
    """Chunks shorter than the window, as long, one longer and much longer; the text wraps the ring four times."""
    spec = with_mask(toy(), Window(window))
    params, tokens = disturbed(spec), tokens_of(spec, 2, 4 * window + 2)
    cache, parts = fx.empty_cache(spec, *tokens.shape), []
    assert cache.tables["group_0"]["block_0"].capacity == window
    for start in range(0, tokens.shape[1], chunk):
        out = fx.apply(spec, params, tokens[:, start : start + chunk], cache=cache)
        cache = out.cache
        parts.append(out.logits)
    close(jnp.concatenate(parts, axis=1), fx.apply(spec, params, tokens).logits)


@pytest.mark.parametrize("mask", [Causal(), Window(11), Causal() | Prefix()], ids=str)
@pytest.mark.parametrize("chunk", [1, 3])
def test_going_back_forgets_what_came_after(mask, chunk):
    """A cache whose length is set back reads on as if the rejected tokens, here a prefix too, had never been there.

    A ring that has wrapped cannot go back past what it overwrote; these are as long as the text.
    """
    spec = with_mask(toy(), mask)
    params, tokens = disturbed(spec), tokens_of(spec, 2, 9)
    whole = fx.apply(spec, params, tokens).logits
    cache = fx.apply(spec, params, tokens[:, :4], cache=fx.empty_cache(spec, 2, 9)).cache
    rejected = replace(plain(4, start=4), prefix=jnp.ones((1, 4), bool))
    cache = fx.apply(spec, params, tokens[:, :4], coords=rejected, cache=cache).cache
    back = replace(cache, length_B=jnp.full(2, 4, jnp.int32))
    out = fx.apply(spec, params, tokens[:, 4 : 4 + chunk], cache=back)
    close(out.logits, whole[:, 4 : 4 + chunk])


def test_the_prefix_stays_marked_in_the_cache():
    """Prefix LM: the prompt sees itself in both directions, the continuation sees the prompt."""
    spec = with_mask(toy(), Causal() | Prefix())
    params, tokens = disturbed(spec), tokens_of(spec, 2, 9)
    coords = replace(plain(9), prefix=jnp.arange(9)[None] < 5)
    whole = fx.apply(spec, params, tokens, coords=coords).logits
    out = fx.apply(spec, params, tokens[:, :5], coords=coords.slice(0, 5), cache=fx.empty_cache(spec, 2, 9))
    close(out.logits, whole[:, :5])
    close(fx.apply(spec, params, tokens[:, 5:], cache=out.cache).logits, whole[:, 5:])


def test_a_cache_of_half_precision_is_read_to_half_precision():
    spec = STRUCTURES["placement=pre"]
    params, tokens = disturbed(spec), tokens_of(spec, 2, 9)
    cache = fx.empty_cache(spec, 2, 9, dtype=jnp.bfloat16)
    records = cache.tables["group_0"]["block_0"].records
    assert {record.dtype for record in records.values()} == {jnp.dtype(jnp.bfloat16)}
    whole, logits = (fx.apply(spec, params, tokens, cache=cache).logits for cache in (None, cache))
    error = float(jnp.abs(logits - whole).max() / jnp.abs(whole).max())
    assert 0 < error < 0.05


def test_a_cache_survives_donation_and_costs_the_records_only():
    spec = STRUCTURES["kv_heads=1"]
    params, tokens = disturbed(spec), tokens_of(spec, 2, 7)
    whole = fx.apply(spec, params, tokens).logits
    step = jax.jit(lambda tokens, cache: fx.apply(spec, params, tokens, cache=cache), donate_argnums=1)
    cache = fx.empty_cache(spec, 2, 7)
    keys = math.prod((2, 2, 7, 1, 8))  # layers, rows, tokens, key heads, width
    records = [t.records for t in jax.tree.leaves(cache.tables, is_leaf=lambda node: isinstance(node, fx.cache.Table))]
    assert sum(leaf.size for leaf in jax.tree.leaves(records)) == 2 * keys
    for t in range(7):
        out = step(tokens[:, t : t + 1], cache)
        cache = out.cache
        close(out.logits[:, 0], whole[:, t])


def test_a_mask_that_sees_the_future_cannot_be_cached_in_pieces():
    """The law is one of causal masks: a full mask breaks it, so it is able to fail."""
    spec = with_mask(toy(), Full())
    params, tokens = disturbed(spec), tokens_of(spec, 2, 7)
    out = fx.apply(spec, params, tokens[:, :4], cache=fx.empty_cache(spec, 2, 7))
    whole = fx.apply(spec, params, tokens).logits[:, :4]
    assert jnp.abs(out.logits - whole).max() > 100 * ROUNDING * jnp.abs(whole).max()
