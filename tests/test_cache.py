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
from fxformer.cache import empty_table, extend, fork, recall, rollback, store
from fxformer.coords import PADDING, of_index, padded, plain
from fxformer.ops.mask import Causal, Prefix, Window, visible
from fxformer.verify import DECODE_LAWS, LAWS, disturbed, text_of
from tests.laws.specs import STRUCTURES, cacheable, tokens_of, toy, with_groups, with_mask, written

ROUNDING = 2e-5  # relative to the largest logit


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
    table = empty_table({"value": {"k": 1}}, batch=rows, length=window + room, reach=mask.reach, dtype=jnp.float32)
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
        table, seen = jax.jit(extend)(table, {"value": jnp.asarray(value, jnp.float32)[..., None]}, coords)
        assert seen_values(mask, coords, seen) == expected
        held = np.asarray(table.coords.index)
        for b in range(rows):
            count = len(remembered[b])
            assert sorted(held[b][held[b] >= 0].tolist()) == list(range(max(0, count - window), count))


def test_writing_touches_only_the_slots_of_the_new_tokens():
    table = empty_table({"value": {"k": 2}}, batch=2, length=5, reach=None, dtype=jnp.bfloat16)
    coords = of_index(jnp.array([[1, 3], [PADDING, 4]]))
    kept, seen = extend(table, {"value": jnp.ones((2, 2, 2))}, coords)
    assert kept.records["value"].dtype == jnp.bfloat16 and seen.records["value"].dtype == jnp.float32
    assert kept.coords is seen.coords
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


MEETING = ["attention=differential", "talking_heads=both", "value_residual=0.4"]  # toys of which nothing is published


@pytest.mark.parametrize("name", [*cacheable(written()), *MEETING])
def test_what_is_read_in_pieces_is_what_one_pass_reads(name):
    """Each row in pieces of its own. Structures that a factory makes obey this in tests/laws."""
    text = text_of(STRUCTURES[name])
    for law in (LAWS["cached = uncached"], LAWS["ragged rows are alone"], DECODE_LAWS["ragged rows"]):
        deviation, allowed = law.check(text)
        assert deviation <= allowed


@pytest.mark.parametrize("window", [2, 3, 4, 5])
def test_a_ring_keeps_what_a_window_sees_however_often_it_wraps(window):
    """Chunks of every size, shorter than the window and much longer; the text wraps the ring three times."""
    spec = with_mask(toy(), Window(window))
    cache = fx.empty_cache(spec, 2, 4 * window)
    assert cache.tables["group_0"]["block_0"]["attention"].capacity == window
    deviation, allowed = DECODE_LAWS["chunks"].check(text_of(spec))
    assert deviation <= allowed


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
    by_coords = fx.apply(spec, params, tokens[:, 4 : 4 + chunk], coords=plain(chunk, start=4), cache=cache).cache
    assert by_coords.length_B.tolist() == [4 + chunk] * 2  # the next tokens go on from there


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
    records = cache.tables["group_0"]["block_0"]["attention"].records
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


@pytest.mark.parametrize(
    ("choice", "sentence"), [({"mask": "full"}, "sees those after it"), ({"norm": "batch"}, "mixes all tokens")]
)
def test_what_depends_on_later_tokens_has_no_cache(choice, sentence):
    with pytest.raises(ValueError, match=sentence):
        fx.empty_cache(toy(**choice), 2, 7)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(1e-3, 1e4))
def test_int8_is_off_by_half_a_step_of_each_vector_at_most(seed, size):
    """A step is the largest absolute value over 127; the values themselves are near, zero stays zero."""
    record = np.random.default_rng(seed).normal(size=(2, 5, 3, 7)).astype(np.float32) * np.float32(size)
    record[0, 1] = 0
    stored = store(jnp.asarray(record), jnp.int8)
    assert stored.values.dtype == jnp.int8 and stored.scale.shape == (2, 5, 3, 1)
    step = np.abs(record).max(axis=-1, keepdims=True) / 127
    np.testing.assert_allclose(stored.scale, step, rtol=1e-6)
    recalled = np.asarray(recall(stored, jnp.float32), np.float64)
    assert (np.abs(recalled - record) <= step * (0.5 + 1e-4)).all()
    assert (recalled[0, 1] == 0).all() and (recalled != record).any()


@pytest.mark.parametrize(
    ("name", "bytes_a_token"),
    [("llama2-7b", 524_288), ("llama2-70b", 327_680), ("chatglm2-6b", 28_672), ("deepseek-v2", 69_120)],
)
def test_a_cache_says_how_many_bytes_its_records_take(name, bytes_a_token):
    """In bfloat16, for one token of a row; int8 is half of it and a float32 for each vector."""
    spec, rows, length = fx.zoo.get(name), 3, 50
    bytes_of = lambda dtype: jax.eval_shape(lambda: fx.empty_cache(spec, rows, length, dtype=dtype)).nbytes  # noqa: E731
    assert bytes_of(jnp.bfloat16) == rows * length * bytes_a_token
    vectors = sum(
        group.n * math.prod([*sizes.values()][:-1])
        for group in spec.stack.groups
        for block in group.blocks
        for sizes in block.attention.records.values()
    )
    assert bytes_of(jnp.int8) == rows * length * (bytes_a_token // 2 + 4 * vectors)


def test_a_window_and_a_source_take_the_bytes_of_their_slots():
    sizes = 2 * 2 * 3 * 24 * 4  # layers, key and value, rows, width, bytes
    assert fx.empty_cache(with_mask(toy(), Window(5)), 3, 100).nbytes == 5 * sizes
    assert fx.empty_cache(with_mask(toy(), Window(5)), 3, 100, spare=2).nbytes == 7 * sizes
    reader = fx.zoo.tiny("t5-small")
    more = [fx.empty_cache(reader, 3, length, encoder_length=read).nbytes for length, read in ((9, 4), (9, 5), (10, 4))]
    assert more[1] - more[0] == more[2] - more[0] > 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int8, jnp.bfloat16])
def test_a_cache_saved_as_arrays_goes_on_as_if_it_had_stayed(dtype, tmp_path):
    """A ring that has wrapped, rows of different lengths; bfloat16 is written as its bits, which NumPy cannot name."""
    spec = with_mask(toy(), Window(4))
    params, tokens = disturbed(spec), tokens_of(spec, 2, 9)
    valid = np.arange(7) < np.array([[7], [5]])
    cache = fx.empty_cache(spec, 2, 9, dtype=dtype)
    cache = fx.apply(spec, params, tokens[:, :7], coords=padded(valid), cache=cache).cache
    leaves, tree = jax.tree.flatten(cache)
    bits = [leaf.view(jnp.uint16) if leaf.dtype == jnp.bfloat16 else leaf for leaf in leaves]
    np.savez(tmp_path / "cache.npz", *bits)
    with np.load(tmp_path / "cache.npz") as held:
        restored = [jnp.asarray(held[f"arr_{i}"]).view(leaf.dtype) for i, leaf in enumerate(leaves)]
    again = jax.tree.unflatten(tree, restored)
    ours, stayed = (fx.apply(spec, params, tokens[:, 7:], cache=held).logits for held in (again, cache))
    np.testing.assert_array_equal(ours, stayed)
    assert again.nbytes == cache.nbytes and again.length_B.tolist() == [7, 5]


def same_tokens(one, other):
    """Whether two caches hold the same tokens and nothing else."""
    for a, b in zip(tables(one), tables(other), strict=True):
        np.testing.assert_array_equal(a.coords.index, b.coords.index)
        held = np.asarray(a.coords.index >= 0)  # [layers, rows, slots]; records are [layers, rows, heads, slots, width]
        for name in a.records:
            ours, theirs = (np.moveaxis(np.asarray(t.records[name]), 3, 2)[held] for t in (a, b))
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert one.length_B.tolist() == other.length_B.tolist()


def tables(cache):
    return jax.tree.leaves(cache.tables, is_leaf=lambda node: isinstance(node, fx.cache.Table))


def test_rolled_back_rows_are_as_they_were_and_forked_rows_are_copies():
    """To a length of each row; a row that has fewer stays. A fork may have more rows than there were."""
    spec = toy()
    params, tokens = disturbed(spec), tokens_of(spec, 2, 9)
    held = {}
    for count in ((3, 5), (9, 4), (3, 4)):
        coords = padded(np.arange(9) < np.array(count)[:, None])
        held[count] = fx.apply(spec, params, tokens, coords=coords, cache=fx.empty_cache(spec, 2, 9)).cache
    same_tokens(rollback(held[9, 4], np.array([3, 7])), held[3, 4])
    same_tokens(rollback(held[3, 5], 4), held[3, 4])
    forked = fork(held[3, 5], [1, 0, 1])
    assert forked.length_B.tolist() == [5, 3, 5]
    coords = padded(np.arange(9) < np.array([[5], [3], [5]]))
    copies = fx.apply(spec, params, tokens[[1, 0, 1]], coords=coords, cache=fx.empty_cache(spec, 3, 9)).cache
    same_tokens(forked, copies)


@pytest.mark.parametrize("spare", [0, 2])
def test_a_ring_with_spare_slots_goes_back_one_token_more_than_it_has(spare):
    """And on with other tokens; tests/test_bad_input.py goes one further."""
    spec = with_mask(toy(), Window(3))
    params, tokens = disturbed(spec), tokens_of(spec, 2, 12)
    whole = fx.apply(spec, params, tokens).logits
    empty = fx.empty_cache(spec, 2, 12, spare=spare)
    cache = fx.apply(spec, params, np.where(np.arange(10) < 9 - spare, tokens[:, :10], 7), cache=empty).cache
    back = rollback(cache, 9 - spare)
    out = fx.apply(spec, params, tokens[:, 9 - spare :], cache=back)
    close(out.logits, whole[:, 9 - spare :])


def test_overflow_is_flagged_by_row_where_it_cannot_be_refused():
    spec = toy()
    params, tokens = disturbed(spec), tokens_of(spec, 2, 9)
    coords = padded(np.arange(9) < np.array([[9], [7]]))
    read = jax.jit(lambda coords, cache: fx.apply(spec, params, tokens, coords=coords, cache=cache).cache)
    assert read(coords, fx.empty_cache(spec, 2, 8)).overflow_B.tolist() == [True, False]
    assert read(coords, fx.empty_cache(spec, 2, 9)).overflow_B.tolist() == [False, False]
    ring = with_mask(spec, Window(3))
    cache = fx.empty_cache(ring, 2, 5)
    step = jax.jit(lambda token, cache: fx.apply(ring, params, token, cache=cache).cache)
    for t in range(9):
        cache = step(tokens[:, t : t + 1], cache)
    assert cache.overflow_B.tolist() == [False, False]
