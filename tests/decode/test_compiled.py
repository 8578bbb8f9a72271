"""The loops of decoding are compiled for few rows, on their own or as a part of the caller's program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.decode import compiled
from fxformer.decode.compiled import for_few_rows


@pytest.fixture(autouse=True)
def asked_anew():
    compiled._options.cache_clear()
    yield
    compiled._options.cache_clear()


def test_a_loop_says_the_same_within_a_program_of_the_caller():
    spec = fx.zoo.toy(width=24, depth=2, heads=2)
    params, prompt = fx.init(spec, jax.random.key(0)), jnp.arange(6).reshape(2, 3)
    alone = fx.generate(spec, params, prompt, 4)
    within = jax.jit(lambda params, prompt: fx.generate(spec, params, prompt, 4))(params, prompt)
    np.testing.assert_array_equal(alone, within)
    of_constants = jax.jit(lambda: fx.generate(spec, params, prompt, 4))()
    np.testing.assert_array_equal(alone, of_constants)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the option is one of the CPU's compiler")
def test_a_compiler_that_does_not_know_the_option_is_not_asked(monkeypatch):
    assert compiled._options() == compiled.OWN_PRODUCTS
    compiled._options.cache_clear()
    monkeypatch.setattr(compiled, "OWN_PRODUCTS", {"xla_of_another_year": ""})
    assert compiled._options() == {}
    assert int(for_few_rows(lambda x: x + 1, static_argnames=[])(2)) == 3


def test_another_platform_is_asked_for_nothing(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiled._options() == {}
