"""Logits and their statistics, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.coords import plain
from fxformer.ops.mask import Full
from fxformer.ops.scores import Scores, Terms, logit_stats, logits
from fxformer.ops.statistic import numbers
from tests.ops.test_attend import CASES, DATA, exact, single


@pytest.mark.parametrize("width", [16, 64, 256])
def test_the_default_scale_makes_logits_of_unit_variance(width):
    q, k = (jax.random.normal(jax.random.key(seed), (1, 200, 1, 1, width)) for seed in (0, 1))
    scaled, _ = logits(q, jnp.swapaxes(k[:, :, :, 0], 1, 2), Scores(mask=Full()), Terms(q=plain(200), k=plain(200)))
    assert jnp.var(scaled) == pytest.approx(1, abs=0.05)


@pytest.mark.oracle
@pytest.mark.parametrize("name", [name for name in CASES if "sink_H" not in CASES[name]])  # a sink is no token
def test_statistics_equal_the_loops(name):
    case = CASES[name]
    _, exactly, weights = exact(case, *DATA[:3])
    scores = Scores(mask=case["mask"], scale=case.get("scale"), softcap=case.get("softcap"))
    terms = Terms(q=case["q"], k=case["k"], bias=case.get("bias"), selected_BTS=case.get("selected_BTS"),
                  mix_logits_HO=case.get("mix_logits_HO"))  # fmt: skip
    stats = numbers(logit_stats(*single(*DATA[:2]), scores, terms))
    rows = weights.sum(-1) > 0
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)
    assert stats["logit_max"] == pytest.approx(exactly.max(), rel=1e-5)
    assert stats["entropy"] == pytest.approx(entropy[rows].mean(), rel=1e-5)
