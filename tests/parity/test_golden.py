"""What Hugging Face transformers says about tiny random models, we say too. Remade by `make parity`."""

import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import fxformer as fx
from fxformer.hf.files import open_tensors
from fxformer.layers.norm import Norm
from fxformer.stack import Repeat
from tests.parity.say import apart, reading, say

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(folder.name for folder in GOLDEN.iterdir())
BEAMS = {file.stem: file for file in sorted((Path(__file__).parent / "beams").iterdir())}
GREEDY = ("gpt2", "llama-llama3", "llama-dynamic", "gemma2", "gpt-oss", "t5-gated-untied", "switch-untied")
TOLERANCE = 1e-5
NEW = 20  # tokens of a continuation
TWICE = {"albert-pretraining-untied": 97, "bert-mlm-untied": 97}  # numbers of a bias that is stored under two names


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_said_is_what_transformers_says(name):
    spec, params = fx.hf.load(GOLDEN / name)
    with open_tensors(GOLDEN / name) as tensors:
        stored = sum(math.prod(tensor.shape) for tensor in tensors)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == stored - TWICE.get(name, 0)
    expected = load_file(GOLDEN / name / "expected.safetensors")
    said = say(spec, params, expected)
    shares = apart(said, {**expected, "last": expected["hidden"][-1]}, expected)
    assert {"last", *(expected.keys() & {"logits", "at_last", "pooled", "labels", "memory"})} <= shares.keys()
    assert max(shares.values()) <= TOLERANCE, f"{shares}; {by_layer(spec, params, expected)}"
    if "loss" in expected:
        loss = jnp.mean(
            fx.ops.cross_entropy(jnp.asarray(said["logits"][:, :-1]), jnp.asarray(expected["tokens"][:, 1:]))
        )
        assert abs(loss - expected["loss"]) <= TOLERANCE * expected["loss"]


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_continuations_are_those_of_transformers(name):
    """`make_golden.py --check` continues all of them."""
    spec, params = fx.hf.load(GOLDEN / name)
    expected = load_file(GOLDEN / name / "expected.safetensors")
    generated = fx.generate(spec, params, expected["generated"][:, :-NEW], NEW, **reading(expected))
    np.testing.assert_array_equal(generated, expected["generated"])


@pytest.mark.parametrize("name", BEAMS)
def test_beam_search_finds_the_texts_and_scores_of_transformers(name):
    """Those that it finds when it stops no sooner than it may, with one stop token and with two."""
    spec, params = fx.hf.load(GOLDEN / name)
    inputs, expected = load_file(GOLDEN / name / "expected.safetensors"), load_file(BEAMS[name])
    stop, prompt = expected.pop("stop"), inputs["generated"][:, :-NEW]
    penalties = {key.split()[1] for key in expected}
    assert len(penalties) == 3
    for penalty in penalties:
        text, scores = expected[f"text {penalty}"], expected[f"scores {penalty}"]
        lengths = np.argmax(np.isin(text[..., prompt.shape[1] :], stop), axis=-1)
        assert len(np.unique(lengths)) > 3
        found = fx.decode.beam(
            spec, params, prompt, NEW, beams=3, stop=stop, length_penalty=float(penalty), **reading(inputs)
        )
        np.testing.assert_array_equal(found.text, text)
        np.testing.assert_allclose(found.scores, scores, rtol=TOLERANCE)


def by_layer(spec, params, expected):
    """The difference of the stream after each layer but the last, and of all that is said in the end, in words."""
    layers = [
        (block, jax.tree.map(lambda leaf, i=None if group.tied else slice(i, i + 1): leaf[i], own))
        for g, group in enumerate(spec.stack.groups)
        for i in range(group.n)
        for block, own in zip(group.blocks, params["stack"][f"group_{g}"]["blocks"].values(), strict=True)
    ]
    shared = {name: own for name, own in params["stack"].items() if name == "bias"}
    lines = []
    for depth in range(1, len(layers)):
        groups = tuple(Repeat(1, (block,)) for block, _ in layers[:depth])
        cut = replace(spec, stack=replace(spec.stack, groups=groups, norm=Norm(kind="none", scale=False)))
        blocks = {f"group_{i}": {"blocks": {"block_0": own}} for i, (_, own) in enumerate(layers[:depth])}
        said = say(cut, {**params, "stack": {**shared, **blocks}}, expected)
        share = apart({"last": said["last"]}, {"last": expected["hidden"][depth]}, expected)["last"]
        lines.append(f"after layer {depth}: {share:.1e}")
    return "; ".join(lines)


def test_differences_are_found_by_layer():
    """What is wrong after the second layer is not said of the first."""
    spec, params = fx.hf.load(GOLDEN / "albert")
    expected = load_file(GOLDEN / "albert" / "expected.safetensors")
    expected["hidden"][2] *= 1.5
    first, second = (float(line.split(": ")[1]) for line in by_layer(spec, params, expected).split("; "))
    assert first <= TOLERANCE and second > 0.1
