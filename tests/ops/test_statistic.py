"""Statistics of a batch: what they stand for, and that parts of a batch say what all of it does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.ops.statistic import Largest, Mean, Root, Rows, Whole, numbers

LAYERS, ROWS, TOKENS, PARTS = 2, 6, 5, 3
X_LBT = np.random.default_rng(0).normal(size=(LAYERS, ROWS, TOKENS))
SEEN_LBT = np.random.default_rng(1).random((LAYERS, ROWS, TOKENS)) < 0.5
KINDS = {
    "largest": lambda x, seen: Largest(jnp.max(x, axis=(1, 2))),
    "mean": lambda x, seen: Mean(jnp.sum(x * seen, axis=(1, 2)), jnp.sum(seen, axis=(1, 2))),
    "root": lambda x, seen: Root(jnp.mean(x**2, axis=(1, 2)), jnp.mean((1 + x) ** 2, axis=(1, 2))),
    "rows": lambda x, seen: Rows(x),
}
EXACT = {
    "largest": X_LBT.max(axis=(1, 2)),
    "mean": np.array([x[seen].mean() for x, seen in zip(X_LBT, SEEN_LBT, strict=True)]),
    "root": np.sqrt((X_LBT**2).mean(axis=(1, 2)) / ((1 + X_LBT) ** 2).mean(axis=(1, 2))),
    "rows": X_LBT,
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", KINDS)
def test_a_statistic_is_what_numpy_says_of_the_whole_and_of_its_parts(name):
    """Part i has rows i + parts k."""
    whole = KINDS[name](jnp.array(X_LBT), jnp.array(SEEN_LBT))
    apart = [KINDS[name](jnp.array(X_LBT[:, i::PARTS]), jnp.array(SEEN_LBT[:, i::PARTS])) for i in range(PARTS)]
    pooled = jax.tree.map(lambda *parts: jnp.stack(parts), *apart).pooled()
    for told in (whole, pooled):
        np.testing.assert_allclose(numbers({name: told})[name], EXACT[name], rtol=1e-5)


def test_a_mean_of_nothing_is_zero():
    assert Mean(jnp.zeros(()), jnp.zeros((), int)).value == 0


def test_what_is_of_a_whole_batch_is_not_pooled():
    with pytest.raises(ValueError, match="give the batch at once"):
        Whole(jnp.zeros(())).pooled()
