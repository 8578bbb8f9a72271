"""Every structure against a whole forward pass in float64 NumPy: logits, hidden states and statistics."""

import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import packed, padded, plain
from fxformer.verify import disturbed
from tests.laws import reference
from tests.laws.specs import STRUCTURES, tokens_of

LENGTH = 11
COORDS = {
    "plain": plain(LENGTH, start=jnp.zeros(2, int)),
    "padded": padded(jnp.array([[1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]])),
    "packed": packed(jnp.array([[0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 1, 1, -1, 2, 2]])),
}


@pytest.mark.parametrize("name", [name for name, spec in STRUCTURES.items() if reference.knows(spec)])
def test_logits_hidden_states_and_statistics_equal_float64_numpy(name):
    spec = STRUCTURES[name]
    params, tokens = disturbed(spec), tokens_of(spec, 2, LENGTH)
    for coords in COORDS.values():
        out = fx.apply(spec, params, tokens, coords=coords)
        logits, hidden, stats = reference.forward(spec, params, tokens, coords)
        for ours, exact in ((out.logits, logits), (out.hidden, hidden)):
            np.testing.assert_allclose(ours, exact, atol=2e-5 * np.abs(exact).max())
        assert out.stats.keys() == stats.keys()
        for key, exact in stats.items():
            np.testing.assert_allclose(out.stats[key], exact, rtol=1e-4, err_msg=key)
