"""The TPU's kernel, interpreted, against the formula: masks, rows, blocks, meshes; and what a TPU would be given."""

import re
from functools import partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, PartitionSpec

import fxformer as fx
from fxformer import sharding
from fxformer.coords import Coords, packed, padded, plain
from fxformer.ops.attend import attend
from fxformer.ops.bias import DistanceBias
from fxformer.ops.mask import Blocks, Causal, Full, Prefix, Strided, Window

module = import_module("fxformer.ops.splash")  # its name in the package is the function's
B, T, G, Q, K, U = 2, 150, 2, 3, 8, 7
RNG = np.random.default_rng(0)
MASKS = [Full(), Causal(), Window(140), Causal() | Prefix(), Strided(3), Blocks(60), Full() & Window(9)]
LINE = plain(T)
SEGMENTS = np.where(np.arange(T) < [[40], [131]], 0, 1)
ROWS = {
    "one document": Coords(
        index=LINE.index, segment=LINE.segment, prefix=jnp.arange(T)[None] < 133, start=jnp.zeros((1, T), int)
    ),
    "documents": packed(jnp.asarray(np.where(np.arange(T) < T - 5, SEGMENTS, -1))),
    "padding among them": padded(jnp.asarray(RNG.integers(0, 4, (B, T)) > 0)),
}


def arrays(seen=T):
    shapes = (B, T, G * Q, K), (B, seen, G, K), (B, seen, G, U), (B, T, G * Q, U)
    return [jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in shapes]


def learnt(kernel, case, q, k, v, dy):
    """The output, and the gradients of its sum weighted by `dy`."""

    def loss(*arrays):
        y = attend(*arrays, **case, kernel=kernel)
        return (y * dy).sum(), y

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)


def are_equal(ours, theirs):
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-6 * max(1, float(jnp.abs(other).max())))


@pytest.mark.oracle
def test_heads_are_softmaxes_that_numpy_makes():
    q, k, v, _ = (np.asarray(x, np.float64) for x in arrays())
    below = np.tril(np.ones((T, T), bool))
    told = attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), kernel="splash")
    for head in range(G * Q):
        logits = np.einsum("btk,bsk->bts", q[:, :, head], k[:, :, head // Q]) / np.sqrt(K)
        weights = np.where(below, np.exp(logits - logits.max(axis=-1, keepdims=True)), 0)
        exact = weights / weights.sum(axis=-1, keepdims=True) @ v[:, :, head // Q]
        np.testing.assert_allclose(told[:, :, head], exact, atol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_every_mask_over_every_kind_of_row_is_that_of_the_formula_forward_and_backward(mask, rows, monkeypatch):
    """Over two blocks each way, of which masks leave some empty and some whole."""
    monkeypatch.setattr(module, "BLOCK", 128)
    case, data = {"mask": mask, "q": ROWS[rows], "k": ROWS[rows]}, arrays()
    are_equal(learnt("splash", case, *data), learnt("naive", case, *data))


@pytest.mark.parametrize("options", [{"softcap": 0.7}, {"scale": 0.3}, {"softcap": 2.0, "scale": 1.5}], ids=str)
def test_bounds_and_scales_of_logits_are_those_of_the_formula(options):
    case, data = {"mask": Causal(), **options}, arrays()
    are_equal(learnt("splash", case, *data), learnt("naive", case, *data))


def test_queries_may_be_other_tokens_than_keys():
    case, data = {"mask": Causal(), "q": plain(T, start=jnp.array([110, 3])), "k": plain(260)}, arrays(260)
    are_equal(learnt("splash", case, *data), learnt("naive", case, *data))


@pytest.mark.parametrize("remat", [False, True])
def test_a_model_learns_the_same_through_loops_over_layers(remat):
    spec = fx.zoo.toy(width=24, depth=2, heads=4, kv_heads=2, window=9)
    params, tokens = fx.init(spec, jax.random.key(0)), jax.random.randint(jax.random.key(1), (2, 13), 0, 256)

    def loss(params, kernel):
        logits = fx.apply(spec, params, tokens[:, :-1], kernel=kernel, remat=remat).logits
        return fx.ops.cross_entropy(logits, tokens[:, 1:]).mean()

    are_equal(*(jax.jit(jax.value_and_grad(partial(loss, kernel=kernel)))(params) for kernel in ("splash", "naive")))


@pytest.mark.parametrize(
    ("mesh", "cut", "rows"),
    [
        ("data=2,model=2", PartitionSpec("data", None, "model"), "documents"),  # key heads cut
        ("model=3", PartitionSpec(None, None, "model"), "one document"),  # query heads of each key head cut
        ("data=2,context=2", PartitionSpec("data", "context", None), "documents"),
        ("data=2,context=2", PartitionSpec("data", "context", None), "one document"),
        ("data=4,model=2", PartitionSpec("data", None, None), "documents"),  # rows do not divide
    ],
)
def test_a_mesh_cuts_rows_tokens_and_heads_as_far_as_they_divide(mesh, cut, rows):
    case, data = {"mask": Window(50), "q": ROWS[rows], "k": ROWS[rows]}, arrays()
    expected = learnt("naive", case, *data)
    with jax.set_mesh(sharding.mesh(mesh)):
        are_equal(learnt("splash", {**case, "cut": cut}, *data), expected)


def test_a_tpu_is_given_kernels_of_its_own_and_nothing_that_is_interpreted():
    """Lowered for a TPU, which takes none to do so."""
    data = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in arrays()[:3]]
    loss = jax.grad(lambda *arrays: attend(*arrays, kernel="splash").astype(jnp.float32).sum(), argnums=(0, 1, 2))
    text = jax.jit(loss).trace(*data).lower(lowering_platforms=("tpu",)).as_text()
    assert set(re.findall(r'kernel_name = "(\w+?)_(?:no_)?residuals"', text)) == {
        f"splash_mha_{x}" for x in ("fwd", "dq", "dkv")
    }
    assert "stablehlo.while" not in text


TPU = AbstractMesh((4,), ("data",), abstract_device=AbstractDevice("TPU v5 lite", num_cores=1, platform="tpu"))
OF_HEADS = jnp.zeros((G * Q, G * Q))


@pytest.mark.parametrize(
    ("sizes", "options", "kernel"),
    [
        ((1024, 1024, 64), {}, "splash"),
        ((1024, 1024, 64), {"softcap": 5.0, "mask": Window(9)}, "splash"),
        ((1023, 1024, 64), {}, "naive"),
        ((1, 2048, 64), {}, "blockwise"),  # a step of decoding
        ((8192, 8192, 512), {}, "splash"),
        ((8192, 8320, 64), {}, "blockwise"),
        ((1024, 1024, 513), {}, "naive"),
        ((1024, 1024, 64), {"sink_H": jnp.zeros(G * Q)}, "naive"),
        ((1024, 1024, 64), {"bias": DistanceBias(jnp.zeros(G * Q))}, "naive"),
        ((1024, 1024, 64), {"dropout": 0.1, "key": jax.random.key(0)}, "naive"),
        ((1024, 1024, 64), {"mix_logits_HO": OF_HEADS}, "naive"),
    ],
)
def test_it_is_the_default_for_tpus_where_it_applies(sizes, options, kernel):
    """Whatever platform this is: the devices of the mesh decide."""
    tokens, seen, width = sizes
    shapes = [(2, length, heads, width) for length, heads in ((tokens, G * Q), (seen, G), (seen, G))]
    data = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    with jax.sharding.use_abstract_mesh(TPU):
        program, named = (
            str(jax.make_jaxpr(partial(attend, **options, kernel=each))(*data)) for each in (None, kernel)
        )
    assert program == named
    assert ("splash" in program) == (kernel == "splash")
