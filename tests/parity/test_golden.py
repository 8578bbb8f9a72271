"""What Hugging Face transformers says about tiny random models, we say too. Remade by `make parity`."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import fxformer as fx
from fxformer.layers.norm import Norm
from fxformer.stack import Repeat

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(folder.name for folder in GOLDEN.iterdir())
GREEDY = ("gpt2", "llama-llama3")  # `make_golden.py --check` continues all of them
TOLERANCE = 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_loss_are_those_of_transformers(name):
    spec, params = fx.hf.load(GOLDEN / name)
    expected = load_file(GOLDEN / name / "expected.safetensors")
    tokens = jnp.asarray(expected["tokens"])
    logits = fx.apply(spec, params, tokens).logits
    loss = jnp.mean(fx.ops.cross_entropy(logits[:, :-1], tokens[:, 1:]))
    assert relative(logits, expected["logits"]) <= TOLERANCE, by_layer(spec, params, tokens, expected["hidden"])
    assert abs(loss - expected["loss"]) <= TOLERANCE * expected["loss"]


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_continuations_are_those_of_transformers(name):
    spec, params = fx.hf.load(GOLDEN / name)
    expected = load_file(GOLDEN / name / "expected.safetensors")
    length = expected["generated"].shape[1]
    prompt = expected["tokens"][:, : length - 20]
    np.testing.assert_array_equal(fx.generate(spec, params, jnp.asarray(prompt), 20), expected["generated"])


def relative(ours, theirs):
    """The largest difference as a share of the largest number."""
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def by_layer(spec, params, tokens, hidden):
    """The difference of the stream after each layer but the last, and after the final norm, in words."""
    lines = []
    for depth in range(1, spec.stack.depth):
        groups = (Repeat(depth, spec.stack.groups[0].blocks),)
        cut = replace(spec, stack=replace(spec.stack, groups=groups, norm=Norm(kind="none", scale=False)))
        blocks = jax.tree.map(lambda leaf, depth=depth: leaf[:depth], params["stack"]["group_0"])
        stream = fx.apply(cut, {**params, "stack": {"group_0": blocks}}, tokens).hidden
        lines.append(f"after layer {depth}: {relative(stream, hidden[depth]):.1e}")
    lines.append(f"after the final norm: {relative(fx.apply(spec, params, tokens).hidden, hidden[-1]):.1e}")
    return "; ".join(lines)
