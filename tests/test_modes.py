"""Settings of JAX with which users look for faults of their own stop nothing in the library and change nothing."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.cache import fork, rollback
from fxformer.given import check_cacheable
from fxformer.model import Transformer
from fxformer.verify import verify

TINY = {"width": 24, "depth": 1, "heads": 3, "inner": 8, "vocab": 11}
STRUCTURES = {  # that have every part of the library together
    "toy": fx.zoo.toy(**TINY, position="alibi", norm="dyt", placement="dual", window=3, qk_norm="l2", dropout=0.1),
    "batch": fx.zoo.toy(**TINY, position="rotary-2d", norm="batch", placement="rezero", mask="blocks", softcap=5.0),
    "sinusoidal": fx.zoo.toy(**TINY, position="sinusoidal", head="untied", ffn="glu"),
    **{name: fx.zoo.tiny(name) for name in ("bert-base", "glm-10b", "gpt-oss-20b", "deepseek-v3.2", "switch-base-8")},
}
TOKENS = jax.ShapeDtypeStruct((2, 6), jnp.int32)
PROMPT, SOURCE = np.ones((2, 5), np.int32), np.ones((2, 4), np.int32)


@contextmanager
def settings(*contexts: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def strictest() -> Any:
    return settings(jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"))


def uses(spec: Transformer) -> Iterator[Any]:
    """Shapes of all that is said by a model, learned from and remembered."""
    params = jax.eval_shape(partial(fx.init, spec), jax.random.key(0))
    yield params
    source = {} if spec.encoder is None else {"encoder_tokens": SOURCE}

    def loss(params: Any, tokens: Any, key: Any, kernel: str) -> jax.Array:
        out = fx.apply(spec, params, tokens, kernel=kernel, key=key, **source)
        return fx.ops.cross_entropy(out.logits, tokens).sum() + sum(loss.sum() for loss in out.losses.values())

    for kernel in ("naive", "blockwise"):
        yield jax.eval_shape(jax.grad(partial(loss, kernel=kernel)), params, TOKENS, jax.random.key(1))
    try:
        check_cacheable(spec)
    except ValueError:
        return
    cache = jax.eval_shape(lambda: fx.empty_cache(spec, 2, 12, spare=2, dtype=jnp.int8))
    yield jax.eval_shape(lambda p, t, c: fx.apply(spec, p, t, cache=c, **source), params, TOKENS, cache)
    yield jax.eval_shape(lambda c: rollback(fork(c, [1, 0, 0]), 3), cache)
    drawn = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.2, "stop": 3}
    key = jax.random.key(2)
    yield jax.eval_shape(lambda p: fx.generate(spec, p, PROMPT, 3, key=key, **drawn, **source), params)
    yield jax.eval_shape(lambda p: fx.decode.beam(spec, p, PROMPT, 3, beams=2, stop=3, **source).scores, params)
    if spec.mtp is not None:
        yield jax.eval_shape(lambda p: fx.decode.speculate(spec, p, PROMPT, 3).text, params)


@pytest.mark.parametrize("spec", STRUCTURES.values(), ids=STRUCTURES)
def test_neither_stricter_promotion_nor_64_bits_stop_a_model_or_widen_what_it_says(spec):
    with strictest(), jax.enable_x64(True):
        said = [leaf.dtype for leaf in jax.tree.leaves(list(uses(spec)))]
    assert jnp.float32 in said and jnp.float64 not in said


def test_with_64_bits_parameters_are_the_same_numbers():
    spec = fx.zoo.toy(**TINY, norm="dyt", placement="rezero", position="t5")
    usual = fx.init(spec, jax.random.key(0))
    with jax.enable_x64(True):
        wide = fx.init(spec, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, wide, usual)


@pytest.mark.parametrize(
    "mode",
    [strictest, partial(jax.debug_infs, True), partial(jax.debug_nans, True), partial(jax.enable_x64, True)],
    ids=["promotion", "infinities", "nans", "64 bits"],
)
def test_the_laws_hold_in_every_mode(mode):
    spec = fx.zoo.toy(**TINY)
    with mode():
        verdicts = {law: verdict for law, verdict, _ in verify(spec)}
    assert set(verdicts.values()) == {"ok"}, verdicts
