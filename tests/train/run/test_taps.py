"""A program with taps gives what it gives without, through loops, branches and calls; and what broke it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer import zoo
from train.run.taps import Taps

X_TD = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, dy: (2 * dy,))


def everything(x_TD, count, weight):
    """A loop within a loop, one of unknown length, a branch and calls; infinities that nobody wants, or that a choice
    leaves out."""

    def outer(carry, row_D):
        total, sums_D = jax.lax.scan(lambda sum, entry: (sum + jnp.tanh(entry), sum), carry, row_D, reverse=True)
        return total, {"unwanted": total / jnp.zeros(()), "wanted": sums_D}

    total, told = jax.lax.scan(outer, jnp.float32(0), x_TD)
    grown = jax.lax.fori_loop(0, count, lambda i, y: y * weight + i, 1 + jnp.abs(total))
    turned = jax.lax.cond(x_TD[0, 0] > 0, jnp.sin, jnp.negative, grown)
    kept = jax.checkpoint(jax.jit(lambda y: doubled(y) + jnp.sum(told["wanted"])))(turned)
    return kept, jnp.where(x_TD > 0, jnp.log(x_TD), 1)


@pytest.fixture(scope="module")
def taps():
    return Taps(everything, X_TD, np.int32(0), np.float32(0), spec=zoo.toy(), parameters=())


@pytest.mark.parametrize("sign", [1, -1])  # each takes another branch
def test_a_program_gives_what_it_gives_without_taps(taps, sign):
    arguments = sign * X_TD, np.int32(5), np.float32(1.5)
    values, made = taps(*arguments)
    for value, wanted in zip(values, jax.jit(everything)(*arguments), strict=True):
        np.testing.assert_allclose(value.array, wanted, rtol=1e-6)
        assert value.born is None
    assert any(tap.sizes.broken for tap in made), "the logarithms that the choice left out"
    ops = [tap.label.op for tap in made]
    assert ops.count("tanh") == X_TD.size and ops.count("div") == 0, "all turns, and nothing that nobody wants"


def test_what_broke_is_known_by_the_turn_at_which_it_broke(taps):
    (broken, fine), made = taps(X_TD, np.int32(9), np.float32(1e10))
    assert fine.born is None and broken.born is not None
    cause = made[broken.born]
    assert cause.label.op == "mul" and cause.sizes.broken == 1
    grown = [tap for tap in made[: broken.born] if tap.label.op == "mul"][-3:]
    total = made[broken.born].inputs[0]
    assert [tap.sizes.largest for tap in grown] == pytest.approx([total / 1e20, total / 1e10, total], rel=1e-4)
    assert 1e10 in cause.inputs and 1e28 < total < 3.5e38
