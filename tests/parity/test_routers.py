"""GShard's routing beside NLLB-MoE's, where both are the same: two experts of softmax, first choices before second."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from fxformer.ops.dispatch import Capacity, dispatch
from fxformer.ops.route import GShard, route

EXPECTED = load_file(Path(__file__).parent / "routers" / "nllb_moe.safetensors")


@pytest.mark.parametrize(("case", "padded"), [("room", False), ("padding", True), ("overflow", True)])
def test_weights_after_dropping_are_those_of_nllb_moe(case, padded):
    logits_BTE = jnp.asarray(EXPECTED["logits"])[None]
    valid_BT = jnp.asarray(EXPECTED["valid"] | (not padded))[None]
    routing = route(GShard(), logits_BTE, valid_BT)
    places = EXPECTED[f"{case}_places"].item()
    _, kept_BTM = dispatch(Capacity(factor=0.0, least=places), logits_BTE, routing, lambda x_XCD, own: x_XCD)
    expert, weight = np.asarray(routing.expert_BTM)[0], np.asarray(routing.weight_BTM * kept_BTM)[0]
    ours = np.zeros_like(EXPECTED[case])
    for token, choice in np.ndindex(expert.shape):
        if expert[token, choice] < ours.shape[1]:
            ours[token, expert[token, choice]] += weight[token, choice]
    np.testing.assert_allclose(ours, EXPECTED[case], rtol=1e-6, atol=1e-7)
    dropped = (valid_BT[..., None] & ~kept_BTM).sum()
    assert (dropped > 0) == (case == "overflow")
