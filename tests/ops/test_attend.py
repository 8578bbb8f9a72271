"""Both kernels against a float64 loop over rows and heads, forward and backward."""

import math
from functools import partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxformer.coords import Coords, of_index, packed, padded, plain
from fxformer.ops.attend import KERNELS, attend
from fxformer.ops.bias import BucketBias, DistanceBias, alibi_slopes
from fxformer.ops.mask import Causal, Full, Prefix, Window
from fxformer.ops.scores import Scores, Terms
from tests.ops import reference

module = import_module("fxformer.ops.attend")  # its name in the package is the function's
B, T, S, G, Q, K, U = 2, 5, 11, 2, 3, 4, 7
RNG = np.random.default_rng(0)
DATA = tuple(RNG.normal(size=shape) for shape in ((B, T, G * Q, K), (B, S, G, K), (B, S, G, U), (B, T, G * Q, U)))
TABLE = RNG.normal(size=(8, G * Q))
LATE = plain(T, start=jnp.array([6, 4]))  # queries that stand among the keys
# Row 1 has padding among its keys; its first query is padding too, and its second stands before every key: both see
# nothing.
RAGGED_Q = Coords(
    index=jnp.array([[6, 7, 8, 9, 10], [-1, 0, 5, 6, 7]]),
    segment=jnp.zeros((B, T), int),
    prefix=jnp.zeros((B, T), bool),
)
RAGGED_K = Coords(
    index=jnp.array([[*range(S)], [-1, -1, 2, 3, 4, -1, 5, 6, 7, -1, -1]]),
    segment=jnp.zeros((B, S), int),
    prefix=jnp.broadcast_to(jnp.arange(S) == 8, (B, S)),
)
DOCUMENTS_Q = Coords(
    index=RAGGED_Q.index, segment=jnp.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]]), prefix=jnp.zeros((B, T), bool)
)
DOCUMENTS_K = Coords(
    index=RAGGED_K.index, segment=jnp.asarray(RNG.integers(0, 2, (B, S))), prefix=jnp.zeros((B, S), bool)
)
BUCKETS = BucketBias(jnp.asarray(TABLE, jnp.float32), max_distance=20, bidirectional=True)
SLOPES = DistanceBias(jnp.asarray(alibi_slopes(G * Q), jnp.float32))
SINKS = jnp.asarray(RNG.normal(size=G * Q), jnp.float32)
MIXING = {
    name: jnp.asarray(RNG.normal(size=(G * Q, G * Q)), jnp.float32) for name in ("mix_logits_HO", "mix_weights_OH")
}
SELECTED = jnp.asarray(RNG.integers(0, 2, (B, T, S)), bool)
CASES = {
    "causal": {"mask": Causal(), "q": LATE, "k": plain(S)},
    "window": {"mask": Window(3), "q": LATE, "k": plain(S)},
    "full": {"mask": Full(), "q": plain(T), "k": plain(S)},
    "ragged": {"mask": Causal(), "q": RAGGED_Q, "k": RAGGED_K},
    "prefix": {"mask": Window(2) | Prefix(), "q": RAGGED_Q, "k": RAGGED_K},
    "documents": {"mask": Causal(), "q": DOCUMENTS_Q, "k": DOCUMENTS_K},
    "t5": {"mask": Full(), "q": LATE, "k": plain(S), "bias": BUCKETS, "scale": 1.0},
    "ragged t5": {"mask": Causal(), "q": RAGGED_Q, "k": RAGGED_K, "bias": BUCKETS},
    "alibi": {"mask": Causal(), "q": LATE, "k": plain(S), "bias": SLOPES},
    "softcap": {"mask": Causal(), "q": RAGGED_Q, "k": RAGGED_K, "softcap": 0.7, "scale": 0.9},
    "softcap t5": {"mask": Full(), "q": RAGGED_Q, "k": RAGGED_K, "softcap": 0.7, "bias": BUCKETS},
    "sinks": {"mask": Causal(), "q": RAGGED_Q, "k": RAGGED_K, "sink_H": SINKS},
    "talking": {"mask": Causal(), "q": RAGGED_Q, "k": RAGGED_K, **MIXING},
    "talking logits": {
        "mask": Full(),
        "q": LATE,
        "k": plain(S),
        "bias": BUCKETS,
        "softcap": 0.7,
        "mix_logits_HO": MIXING["mix_logits_HO"],
    },
    "talking weights": {
        "mask": Window(3),
        "q": LATE,
        "k": plain(S),
        "selected_BTS": SELECTED,
        "mix_weights_OH": MIXING["mix_weights_OH"],
    },
    "selected": {"mask": Causal(), "q": LATE, "k": plain(S), "selected_BTS": SELECTED},
    "selected sinks": {"mask": Window(4), "q": LATE, "k": plain(S), "selected_BTS": SELECTED, "sink_H": SINKS},
}
# Blocks of one key, of a size that does not divide S, longer than S, and shorter ones forward than backward.
BLOCKS = {"naive": [{}], "blockwise": [{"BLOCK": 1}, {"BLOCK": 4}, {"BLOCK": 256}, {"FEW": T + 1}]}
WAYS = [(kernel, sizes) for kernel in KERNELS for sizes in BLOCKS.get(kernel, [{}])]
# What a kernel refuses to compute, and says so.
REFUSED = {
    "fused": {"softcap": "bounds no logits", "sink_H": "no log-sum-exp", "key": "drops no weights",
              **dict.fromkeys(MIXING, "mixes no heads")},
    "splash": {"bias": "adds nothing to logits", "sink_H": "no log-sum-exp", "key": "drops no weights",
               **dict.fromkeys(MIXING, "mixes no heads")},
}  # fmt: skip


def exact(case, q, k, v):
    """(y, logits, weights) of a case in float64."""
    rows = {"q_index": case["q"].index, "k_index": case["k"].index}
    index = {name: np.broadcast_to(np.asarray(value), (B, value.shape[1])) for name, value in rows.items()}
    seen = reference.visible(case["mask"], case["q"], case["k"], B)
    seen = seen & np.asarray(case.get("selected_BTS", True))
    numbers = {name: case.get(name) for name in ("bias", "scale", "softcap")}
    mixing = {"before": case.get("mix_logits_HO"), "after": case.get("mix_weights_OH")}
    return reference.attend(q, k, v, seen=seen, sink=case.get("sink_H"), **mixing, **numbers, **index)


def single(*arrays):
    return tuple(jax.device_put(np.float32(array)) for array in arrays)


@pytest.fixture(params=WAYS, ids=str)
def kernel(request, monkeypatch):
    name, sizes = request.param
    for constant, size in sizes.items():
        monkeypatch.setattr(module, constant, size)
    return name


def loss_and_gradient(kernel, case, arrays):
    """((loss, y), gradients of the bias, queries, keys and values) of a sum of outputs weighted by the last array."""
    q, k, v, dy = arrays

    def loss(bias, q, k, v):
        y = attend(q, k, v, **{**case, "bias": bias}, kernel=kernel)
        return (y.astype(jnp.float32) * dy).sum(), y

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(case.get("bias"), q, k, v)


def takes(kernel, case):
    """Whether a kernel computes this; where it does not, one sentence says why and what to use instead."""
    refused = [sentence for name, sentence in REFUSED.get(kernel, {}).items() if case.get(name) is not None]
    if refused:
        with pytest.raises(ValueError, match=rf"^kernel='{kernel}' .*{refused[0]}.*; use kernel='blockwise'$"):
            attend(*single(*DATA[:3]), **case, kernel=kernel)
    return not refused


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_and_its_gradient_equal_the_loop_and_its_numeric_slope(name, kernel):
    """Slopes along three random directions through queries, keys and values, and one through a table of buckets."""
    case, (q, k, v, dy), rng, step = CASES[name], DATA, np.random.default_rng(1), 1e-5
    if not takes(kernel, case):
        return
    (_, y), (dbias, *gradients) = loss_and_gradient(kernel, case, single(*DATA))
    np.testing.assert_allclose(y, exact(case, q, k, v)[0], atol=2e-6)

    def numeric(case, *toward):
        moved = ([x + sign * step * d for x, d in zip((q, k, v), toward, strict=True)] for sign in (1, -1))
        above, below = ((dy * exact(case, *arrays)[0]).sum() for arrays in moved)
        return (above - below) / (2 * step)

    for _ in range(3):
        toward = [rng.normal(size=x.shape) for x in (q, k, v)]
        slope = sum((np.asarray(g, np.float64) * d).sum() for g, d in zip(gradients, toward, strict=True))
        assert slope == pytest.approx(numeric(case, *toward), rel=1e-4, abs=2e-5)
    if case.get("bias") is BUCKETS:
        toward = rng.normal(size=TABLE.shape)
        above, below = (
            (dy * exact({**case, "bias": BucketBias(TABLE + sign * step * toward, 20, True)}, q, k, v)[0]).sum()
            for sign in (1, -1)
        )
        slope = (np.asarray(dbias.table_XH, np.float64) * toward).sum()
        assert abs(slope) > 0.1
        assert slope == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=2e-5)


def test_a_sink_has_the_slope_of_the_loop(kernel):
    case, (q, k, v, dy), step = CASES["sinks"], DATA, 1e-5
    if not takes(kernel, case):
        return

    def loss(sink_H):
        return (attend(*single(q, k, v), **{**case, "sink_H": sink_H}, kernel=kernel) * dy).sum()

    slope = jax.jit(jax.grad(loss))(SINKS)
    for h in range(G * Q):
        moved = [np.asarray(SINKS, np.float64) + sign * step * (np.arange(G * Q) == h) for sign in (1, -1)]
        above, below = ((dy * exact({**case, "sink_H": sink}, q, k, v)[0]).sum() for sink in moved)
        assert slope[h] == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=2e-5)


@pytest.mark.parametrize("name", MIXING)
def test_a_map_between_heads_has_the_slope_of_the_loop(name, kernel):
    case, (q, k, v, dy), rng, step = CASES["talking"], DATA, np.random.default_rng(1), 1e-5
    if not takes(kernel, case):
        return

    def loss(mix):
        return (attend(*single(q, k, v), **{**case, name: mix}, kernel=kernel) * dy).sum()

    slope, toward = jax.jit(jax.grad(loss))(MIXING[name]), rng.normal(size=(G * Q, G * Q))
    moved = (np.asarray(MIXING[name], np.float64) + sign * step * toward for sign in (1, -1))
    above, below = ((dy * exact({**case, name: mix}, q, k, v)[0]).sum() for mix in moved)
    assert (np.asarray(slope, np.float64) * toward).sum() == pytest.approx((above - below) / (2 * step), rel=1e-4)


def test_heads_that_talk_drop_weights_in_the_naive_kernel_only():
    q, k, v, _ = single(*DATA)
    case = {"q": LATE, "k": plain(S), **MIXING, "dropout": 0.5, "key": jax.random.key(0)}
    with pytest.raises(ValueError, match=r"drops no weights of heads that are mixed, .*; use kernel=.naive."):
        attend(q, k, v, **case, kernel="blockwise")
    many = jnp.repeat(k, module.NAIVE_KEYS, axis=1)
    terms = Terms(q=LATE, k=plain(S), **MIXING, key_data=jnp.zeros(2, jnp.uint32))
    arrays = q.reshape(B, T, G, Q, K), jnp.swapaxes(many, 1, 2), jnp.swapaxes(many, 1, 2)
    assert module.default_kernel(*arrays, Scores(dropout=0.5), terms) == "naive"
    with pytest.raises(ValueError, match=r"mix_logits_HO is \[2, 2\]; give \[6, 6\]"):
        attend(q, k, v, q=LATE, k=plain(S), mix_logits_HO=jnp.eye(2))
    with pytest.raises(ValueError, match="sinks take weight"):
        attend(q, k, v, q=LATE, k=plain(S), **MIXING, sink_H=SINKS)


def test_dropped_weights_are_the_same_in_every_kernel(monkeypatch):
    """With values one-hot in s the output is the table of weights: kept ones are scaled up, the others are zero."""
    monkeypatch.setattr(module, "BLOCK", 4)
    rate, (q, k, _) = 0.3, single(*DATA[:3])
    v = jnp.broadcast_to(jnp.eye(S)[None, :, None], (B, S, G, S))
    case = {"mask": Full(), "dropout": rate, "key": jax.random.key(3)}
    dropped = partial(attend, **case)
    weights = attend(q, k, v, mask=Full())
    tables = [jax.jit(partial(dropped, kernel=kernel))(q, k, v) for kernel in KERNELS if takes(kernel, case)]
    assert len(tables) > 1
    kept = np.asarray(tables[0]) != 0
    assert abs(kept.mean() - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / kept.size)
    assert not np.array_equal(kept[0], kept[1])
    for table in tables:
        np.testing.assert_allclose(table, np.where(kept, weights / (1 - rate), 0), atol=1e-6)

    def gradients(kernel):
        def loss(*arrays):
            return (dropped(*arrays, kernel=kernel) * jnp.asarray(DATA[3])).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*single(*DATA[:3]))

    for ours, theirs in zip(gradients("blockwise"), gradients("naive"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@partial(jax.jit, static_argnames=("kernel", "mask"))
def any_loss_and_gradient(kernel, mask, q, k, arrays):
    return loss_and_gradient(kernel, {"mask": mask, "q": q, "k": k, "softcap": 1.5, "bias": BUCKETS}, arrays)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), mask=st.sampled_from([Full(), Window(3) | Prefix()]), size=st.floats(0.1, 30))
def test_blockwise_equals_naive_whatever_is_padding_and_however_large_the_logits(seed, mask, size):
    rng = np.random.default_rng(seed)
    k_coords = padded(jnp.asarray(rng.integers(0, 3, (B, S)) > 0))
    q_coords = of_index(jnp.asarray(rng.integers(-T, S, B))[:, None] + jnp.arange(T))  # some begin with padding
    arrays = single(*(rng.normal(size=x.shape) * scale for x, scale in zip(DATA, (size, 1, 1, 1), strict=True)))
    before, module.BLOCK = module.BLOCK, 4
    try:
        results = [any_loss_and_gradient(kernel, mask, q_coords, k_coords, arrays) for kernel in ("blockwise", "naive")]
    finally:
        module.BLOCK = before
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, float(jnp.abs(b).max())))


def test_queries_that_see_nothing_get_zeros_and_give_none(kernel):
    case, blind = CASES["ragged"], (1, slice(0, 2))
    q, k, v, dy = single(*DATA)
    np.testing.assert_array_equal(attend(q, k, v, **case, kernel=kernel)[blind], 0)
    only_blind = jnp.zeros_like(dy).at[blind].set(dy[blind])
    for gradient in jax.tree.leaves(loss_and_gradient(kernel, case, (q, k, v, only_blind))[1]):
        np.testing.assert_array_equal(gradient, 0)


def test_keys_that_nothing_sees_get_exactly_no_gradient(kernel):
    _, (_, _, dk, dv) = loss_and_gradient(kernel, CASES["ragged"], single(*DATA))
    unseen = ~reference.visible(Causal(), RAGGED_Q, RAGGED_K, B).any(1)
    assert unseen.any(1).tolist() == [False, True]
    for gradient in (dk, dv):
        np.testing.assert_array_equal(np.asarray(gradient)[unseen], 0)
        assert np.abs(np.asarray(gradient)[~unseen]).min() > 0


def test_logits_near_the_limits_of_float32_neither_overflow_nor_vanish(kernel):
    """Scores of 1e30 and -1e30: the softmax picks one key, and its gradient is finite."""
    q, k, v, dy = single(*DATA)
    case = {"mask": Causal(), "q": LATE, "k": plain(S)}
    (loss, _), gradients = loss_and_gradient(kernel, case, (1e15 * q, 1e15 * k, v, dy))
    logits = exact(case, 1e15 * DATA[0], 1e15 * DATA[1], DATA[2])[1]
    best = np.take_along_axis(
        DATA[2][:, :, np.arange(G * Q) // Q], logits.argmax(-1).transpose(0, 2, 1)[..., None], axis=1
    )
    assert loss == pytest.approx((best * DATA[3]).sum(), rel=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_bfloat16_keeps_sums_in_float32(kernel):
    case = CASES["ragged t5" if takes(kernel, CASES["ragged t5"]) else "ragged"]
    half = tuple(jnp.asarray(x, jnp.bfloat16) for x in DATA[:3])
    y = attend(*half, **case, kernel=kernel)
    assert y.dtype == jnp.bfloat16
    expected = exact(case, *(np.asarray(x, np.float64) for x in half))[0]
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, atol=2**-7 * np.abs(expected).max())


def test_bfloat16_gradients_of_many_blocks_are_summed_in_float32(monkeypatch):
    """One query over 2048 keys in blocks of one: a running sum in bfloat16 loses what is 256 times smaller than it."""
    monkeypatch.setattr(module, "BLOCK", 1)
    rng, seen = np.random.default_rng(2), 2048
    shapes = (1, 1, 1, K), (1, seen, 1, K), (1, seen, 1, U), (1, 1, 1, U)
    q, k, v, dy = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes)
    case = {"mask": Full(), "q": plain(1), "k": plain(seen)}
    whole = loss_and_gradient("naive", case, tuple(x.astype(jnp.float32) for x in (q, k, v, dy)))[1][1]
    blocks = loss_and_gradient("blockwise", case, (q, k, v, dy.astype(jnp.float32)))[1][1]
    assert blocks.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(blocks, np.float32), whole, atol=2**-7 * float(jnp.abs(whole).max()))


@pytest.mark.parametrize("size", ["BLOCK", "FEW"])
def test_blocks_behind_the_last_key_are_not_read(size, monkeypatch):
    """What is no number there would be none in the answer."""
    monkeypatch.setattr(module, size, 4)
    q, k, v, _ = single(*DATA)
    case = {"q": plain(1, start=3), "k": padded(jnp.arange(S)[None] < 4)}
    alone = attend(q[:, :1], k, v, **case, kernel="naive")
    k, v = (x.at[:, 4:].set(jnp.nan) for x in (k, v))
    np.testing.assert_allclose(attend(q[:, :1], k, v, **case, kernel="blockwise"), alone, atol=1e-6)


def test_each_key_head_serves_consecutive_query_heads(kernel):
    """Grouped queries equal multi-head attention over repeated keys, as repeat_interleave lays them out."""
    q, k, v, _ = single(*DATA)
    case = {"mask": Causal(), "q": LATE, "k": plain(S), "kernel": kernel}
    grouped = attend(q, k, v, **case)
    repeated = attend(q, jnp.repeat(k, Q, axis=2), jnp.repeat(v, Q, axis=2), **case)
    np.testing.assert_allclose(grouped, repeated, atol=1e-6)


@pytest.mark.oracle
def test_printed_causal_softmax_and_its_determinant(kernel):
    scores = [[0.3, 0, 0], [0.1, -0.2, 0], [0.5, 0.4, 0.2]]
    q, k = jnp.asarray(scores)[None, :, None], jnp.eye(3)[None, :, None]
    weights = np.asarray(attend(q, k, jnp.eye(3)[None, :, None], scale=1.0, kernel=kernel))[0, :, 0]
    printed = [[1, 0, 0], [0.5744425168, 0.4255574832, 0], [0.377978141, 0.3420087652, 0.2800130939]]
    np.testing.assert_allclose(weights, printed, atol=1e-7)
    assert np.linalg.det(weights) == pytest.approx(0.1191616675, rel=1e-6)


def temporary_bytes(kernel, length, backward):
    """What XLA sets aside beside inputs and outputs, for one head of width 8."""
    arrays = [jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)] * 3
    forward = partial(attend, kernel=kernel)
    task = jax.grad(lambda q, k, v: forward(q, k, v).sum(), argnums=(0, 1, 2)) if backward else forward
    return jax.jit(task).lower(*arrays).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_memory_of_blockwise_grows_with_the_length_and_of_naive_with_its_square(backward):
    growth = {
        kernel: math.log2(temporary_bytes(kernel, 8192, backward) / temporary_bytes(kernel, 4096, backward))
        for kernel in ("naive", "blockwise")
    }
    assert growth == {"naive": pytest.approx(2, abs=0.05), "blockwise": pytest.approx(1, abs=0.05)}
    assert temporary_bytes("blockwise", 8192, backward) < temporary_bytes("naive", 8192, backward) / 8


def test_long_keys_are_looked_at_in_blocks_unless_told_otherwise():
    """Without cuDNN the default kernel is the one whose memory fits: naive up to NAIVE_KEYS keys, blockwise beyond."""
    for seen, kernel in ((module.NAIVE_KEYS, "naive"), (module.NAIVE_KEYS + 1, "blockwise")):
        arrays = [jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32) for length in (3, seen, seen)]
        programs = [str(jax.make_jaxpr(partial(attend, kernel=chosen))(*arrays)) for chosen in (None, kernel)]
        assert programs[0] == programs[1]


@pytest.mark.oracle
def test_packed_rows_equal_documents_alone(kernel):
    q, k, v = (jnp.asarray(RNG.normal(size=(1, 9, 2, width)), jnp.float32) for width in (K, K, U))
    coords = packed(jnp.array([[0, 0, 0, 0, 1, 1, 1, 1, 1]]))
    look = jax.jit(partial(attend, kernel=kernel))
    together = look(q, k, v, q=coords, k=coords)
    alone = [look(*(x[:, part] for x in (q, k, v))) for part in (slice(0, 4), slice(4, 9))]
    np.testing.assert_allclose(together, jnp.concatenate(alone, axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "options", "sentence"),
    [
        (((2, 3, 4, 8), (2, 3, 2, 5), (2, 3, 2, 8)), {}, r"q \[2, 3, 4, 8\], k \[2, 3, 2, 5\].* do not fit; give q"),
        (((2, 3, 4, 8), (2, 3, 2, 1), (2, 3, 2, 8)), {}, "do not fit"),
        (((2, 3, 4, 8), (2, 3, 2, 8), (2, 3, 1, 8)), {}, "do not fit"),
        (((2, 3, 4, 8), (2, 4, 2, 8), (2, 1, 2, 8)), {}, "do not fit"),
        (((2, 3, 4, 8), (1, 3, 2, 8), (1, 3, 2, 8)), {}, "do not fit"),
        (((3, 4, 8), (3, 2, 8), (3, 2, 8)), {}, "do not fit"),
        (
            ((2, 3, 4, 8), (2, 3, 2, 8), (2, 3, 2, 8)),
            {"sink_H": jnp.zeros(2)},
            r"sinks are \[2\]; give one for each of 4",
        ),
        (
            ((2, 3, 4, 8), (2, 3, 2, 8), (2, 3, 2, 8)),
            {"dropout": 1.0},
            "dropout=1.0 is out of range; use 0 or more, and less than 1",
        ),
        (
            ((2, 3, 4, 8), (2, 3, 2, 8), (2, 3, 2, 8)),
            {"softcap": 0.0},
            "softcap=0.0 is out of range; use more than 0, or None",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(shapes, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        attend(*map(jnp.zeros, shapes), **options)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's attention needs an NVIDIA GPU")
@pytest.mark.parametrize("mask", [Causal(), Window(100), Full()], ids=str)
@pytest.mark.parametrize("bias", [None, BUCKETS], ids=["plain", "biased"])
def test_on_a_gpu_half_precision_is_fused_by_default_and_as_near_as_rounding(mask, bias):
    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.normal(size=(B, 256, heads, 64)) for heads in (G * Q, G, G, G * Q))
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    case = {"mask": mask, "bias": bias}
    assert "cudnn" in jax.jit(partial(attend, **case)).lower(*half).as_text()
    (_, y), gradients = loss_and_gradient(None, case, (*half, dy))
    (_, exact_y), exact_gradients = loss_and_gradient("naive", case, (*(x.astype(jnp.float32) for x in half), dy))
    np.testing.assert_allclose(y, exact_y, atol=0.03)
    for gradient, exact_gradient in zip(jax.tree.leaves(gradients), jax.tree.leaves(exact_gradients), strict=True):
        scale = np.abs(exact_gradient).max()
        np.testing.assert_allclose(gradient.astype(jnp.float32) / scale, exact_gradient / scale, atol=0.03)
