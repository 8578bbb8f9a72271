"""What values look like: specs as Python, everything that holds arrays by shapes, and never an array's numbers."""

from functools import partial

import jax
import numpy as np
import pytest

import fxformer as fx
from fxformer.cache import Int8
from fxformer.layers.attention import GQA
from tests.laws.specs import STRUCTURES

SPEC = fx.zoo.toy(width=24, depth=2, heads=3, inner=40, window=4)
PARAMS = jax.eval_shape(partial(fx.init, SPEC), jax.random.key(0))
CACHE = jax.eval_shape(lambda: fx.empty_cache(SPEC, 2, 9, dtype="int8"))
OUTPUT = jax.eval_shape(lambda params: fx.apply(SPEC, params, np.zeros((2, 5), int)), PARAMS)


def test_an_output_is_printed_by_its_shapes():
    text = repr(OUTPUT)
    assert text.startswith("Output(logits=float32[2, 5, 256], hidden=float32[2, 5, 24], losses={}, stats={attention_")
    assert "\n" not in text and "memory" not in text, "what is None is left out"
    known = fx.plain(3)
    assert repr(known).startswith("Coords(index=int32[1, 3], segment=int32[1, 3], prefix=bool[1, 3], pos=int32[1, 3]")
    assert repr(Int8(np.zeros((2, 3), np.int8), np.zeros((2, 1), np.float32))) == (
        "Int8(values=int8[2, 3], scale=float32[2, 1])"
    )


def test_a_cache_is_printed_by_its_tables():
    assert "attention: Table(records={key: Int8(values=int8[2, 2, 3, 4, 8], scale=" in repr(CACHE)
    assert repr(CACHE).endswith("reach=4)}}}, length_B=int32[2])")


def test_a_spec_is_printed_as_the_python_that_makes_it():
    assert eval(repr(SPEC), {**vars(fx), **vars(fx.ops), **HOMES}) == SPEC
    assert eval(repr(SPEC.stack), {**vars(fx.ops), **HOMES}) == SPEC.stack


HOMES = {name: value for home in ("block", "stack", "layers.embed", "layers.attention", "layers.ffn.dense",
                                  "layers.head", "layers.norm", "layers.project", "layers.residual")
         for name, value in vars(__import__(f"fxformer.{home}", fromlist=["_"])).items()}  # fmt: skip


@pytest.mark.parametrize("value", [OUTPUT, CACHE, fx.plain(3), SPEC], ids=lambda value: type(value).__name__)
def test_a_notebook_shows_the_same(value):
    html = value._repr_html_()
    assert len(html) < 10_000 and html.count("<tr>") == html.count("</tr>")
    if value is SPEC:
        assert html.startswith("<pre>Transformer(") and "&#x27;rms&#x27;" in html
    else:
        assert html.count("<tr>") == len(jax.tree.leaves(value)) and "32 [" in html


def test_parameters_are_described_by_shapes_and_their_sum():
    lines = fx.describe(PARAMS).splitlines()
    assert len(lines) == len(jax.tree.leaves(PARAMS)) + 1
    assert lines[0].split() == ["embed.table", "float32", "[256,", "24]", "6,144"]
    assert lines[-1].split() == ["10", "arrays", f"{4 * fx.count(SPEC):,}", "bytes", f"{fx.count(SPEC):,}"]


@pytest.mark.parametrize("name", ["ffn=moe", "attention=sparse", "head=span"])
def test_any_spec_is_described(name):
    spec = STRUCTURES[name]
    text = fx.describe(spec)
    assert text.startswith(repr(spec))
    facts = dict(line.split(maxsplit=1) for line in text.splitlines() if "  " in line.strip())
    assert facts["parameters"] == f"{fx.count(spec):,}" and "forward at 2048 tokens" in facts["FLOPs"]
    assert " MB in 16 bits, " in facts["memory"] and facts["attention"]


def test_a_spec_that_is_no_model_is_described_as_python():
    assert fx.describe(GQA(heads=4, kv_heads=2, key_width=8)) == "GQA(heads=4, kv_heads=2, key_width=8)"


def test_treescope_shows_fields_and_shapes():
    treescope = pytest.importorskip("treescope")
    known = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), OUTPUT)
    text = treescope.render_to_text(known)
    assert text.startswith("Output(\n  logits=<np.ndarray float32(2, 5, 256)")
    assert treescope.render_to_text(SPEC).startswith("Transformer(\n  embed=Embed(vocab=256, width=24")
