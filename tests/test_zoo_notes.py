"""What is commonly got wrong about published models, on their specs and parameter trees at the published sizes."""

import math
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import plain
from fxformer.layers.norm import Norm
from fxformer.layers.project import Truncated, draw
from fxformer.ops.mask import visible
from fxformer.ops.rotary import Rotary
from fxformer.walk import parts
from tests.laws.specs import shapes_of


def named(tree) -> dict[str, jax.Array]:
    """The leaves of a parameter tree by their path: "stack/group_0/…/weight"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(step.key for step in path): leaf for path, leaf in leaves}


@lru_cache
def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter of a published model."""
    return {path: leaf.shape for path, leaf in named(shapes_of(fx.zoo.get(name))).items()}


def block_of(name: str, part: str = "stack") -> dict[str, tuple[int, ...]]:
    """Path inside the one pattern of a stack -> shape; the layer axis leads where parameters are not shared."""
    start = f"{part}/group_0/blocks/block_0/"
    return {path.removeprefix(start): shape for path, shape in shapes(name).items() if path.startswith(start)}


def only(name: str, part: str = "stack"):
    """The one block that a stack repeats."""
    (group,) = getattr(fx.zoo.get(name), part).groups
    (block,) = group.blocks
    return block


@pytest.mark.parametrize(
    ("name", "part", "layers", "parameters"),
    [
        ("transformer-base", "encoder", 6, 3_152_384),
        ("transformer-base", "stack", 6, 4_204_032),
        ("bert-base", "stack", 12, 7_087_872),
        ("albert-base", "stack", 1, 7_087_872),
        ("glm-base", "stack", 12, 7_087_872),
        ("glm-130b", "stack", 70, 1_812_115_456),
        ("chatglm-6b", "stack", 28, 201_379_840),
        ("chatglm2-6b", "stack", 28, 203_960_832),
    ],
)
def test_a_block_has_the_published_number_of_parameters(name, part, layers, parameters):
    assert sum(math.prod(shape) for shape in block_of(name, part).values()) == layers * parameters


@pytest.mark.parametrize(
    ("name", "kind", "eps", "placement", "last"),
    [
        ("transformer-base", "layer", 1e-6, "post", set()),
        ("bert-base", "layer", 1e-12, "post", set()),
        ("bert-large-pretraining", "layer", 1e-12, "post", set()),
        ("albert-base-pretraining", "layer", 1e-12, "post", set()),
        ("t5-small", "rms", 1e-6, "pre", {"encoder/final_norm/scale", "stack/final_norm/scale"}),
        ("t5-v1.1-small", "rms", 1e-6, "pre", {"encoder/final_norm/scale", "stack/final_norm/scale"}),
        ("glm-10b", "layer", 1e-5, "pre", {"stack/final_norm/scale", "stack/final_norm/bias"}),
        ("glm-130b", "layer", 1e-5, "shifted", {"stack/final_norm/scale", "stack/final_norm/bias"}),
        ("chatglm-6b", "layer", 1e-5, "shifted", {"stack/final_norm/scale", "stack/final_norm/bias"}),
        ("chatglm2-6b", "rms", 1e-5, "pre", {"stack/final_norm/scale"}),
    ],
)
def test_norms_and_where_they_stand(name, kind, eps, placement, last):
    """ChatGLM2 is pre-RMSNorm, not post-LayerNorm; post-norm has no norm of its own after the last block."""
    spec = fx.zoo.get(name)
    assert {(norm.kind, norm.eps) for norm in parts(spec, Norm)} == {(kind, eps)}
    assert {block.residual.placement for part in (spec.stack, spec.encoder) if part for block in blocks(part)} == {
        placement
    }
    assert {path for path in shapes(name) if "final_norm" in path} == last


def blocks(stack):
    return [block for group in stack.groups for block in group.blocks]


EVERYWHERE = {"attention/query", "attention/key", "attention/value", "attention/out", "ffn/up", "ffn/down"}
CROSS = {"cross/query", "cross/key", "cross/value", "cross/out"}


@pytest.mark.parametrize(
    ("name", "biased"),
    [
        ("transformer-base", EVERYWHERE | CROSS),
        ("bert-base", EVERYWHERE),
        ("albert-base", EVERYWHERE),
        ("t5-small", set()),
        ("t5-v1.1-small", set()),
        ("glm-10b", EVERYWHERE),
        ("glm-130b", EVERYWHERE | {"ffn/gate"}),
        ("chatglm-6b", EVERYWHERE),
        ("chatglm2-6b", {"attention/query", "attention/key", "attention/value"}),
    ],
)
def test_which_matrices_have_a_bias(name, biased):
    found = {path.removesuffix("/bias") for path in block_of(name) if path.endswith("/bias")}
    assert {path for path in found if "_residual" not in path} == biased


@pytest.mark.parametrize(
    ("name", "kind", "activation"),
    [
        ("transformer-base", "MLP", "relu"),
        ("bert-base", "MLP", "gelu_erf"),
        ("albert-base", "MLP", "gelu_tanh"),
        ("t5-small", "MLP", "relu"),
        ("t5-v1.1-small", "GLU", "gelu_tanh"),
        ("glm-10b", "MLP", "gelu_tanh"),
        ("glm-130b", "GLU", "gelu_erf"),
        ("chatglm-6b", "MLP", "gelu_tanh"),
        ("chatglm2-6b", "GLU", "silu"),
    ],
)
def test_which_form_of_which_activation(name, kind, activation):
    ffn = only(name).ffn
    assert (type(ffn).__name__, ffn.activation) == (kind, activation)


@pytest.mark.parametrize(
    ("name", "vocab", "tables"),
    [
        ("transformer-base", 37000, {(37000, 512)}),
        ("bert-base-pretraining", 30522, {(30522, 768)}),
        ("albert-base-pretraining", 30000, {(30000, 128)}),
        ("t5-small", 32128, {(32128, 512)}),
        ("t5-v1.1-small", 32128, {(32128, 512), (512, 32128)}),
        ("glm-10b", 50304, {(50304, 4096)}),
        ("glm-130b", 150528, {(150528, 12288)}),
        ("chatglm-6b", 130528, {(130528, 4096)}),
        ("chatglm2-6b", 65024, {(65024, 4096), (4096, 65024)}),
    ],
)
def test_which_models_read_out_with_their_own_table(name, vocab, tables):
    """One matrix with the vocabulary on an axis is both table and readout, and serves encoder and decoder."""
    assert {shape for shape in shapes(name).values() if vocab in shape and len(shape) == 2} == tables


def test_scales_of_embeddings_and_logits():
    """The Transformer multiplies embeddings by sqrt(width), BERT and T5 do not; T5 1.0 divides the tied logits."""
    assert fx.zoo.get("transformer-big").embed.scale == 32
    assert {fx.zoo.get(name).embed.scale for name in ("bert-base", "t5-small", "t5-v1.1-small", "chatglm-6b")} == {1}
    assert fx.zoo.get("t5-large").head.scale == 1 / 32


def test_albert_has_one_block_at_any_depth_and_narrow_tables():
    """Tables and their norm are 128 wide, the readout too; only then is the stream widened, with a bias."""
    size = {"width": 768, "heads": 12}
    family = fx.zoo.family_of("albert-base")
    assert fx.count(family.build(depth=1, **size)) == fx.count(family.build(depth=12, **size)) == 11_683_584
    assert fx.zoo.get("albert-base").stack.depth == 12
    layers = {path: shape[1:] for path, shape in block_of("bert-base").items()}
    assert block_of("albert-base") == layers
    assert {
        path: shape for path, shape in shapes("albert-base-pretraining").items() if path[:4] in ("embe", "head")
    } == {
        "embed/table": (30000, 128),
        "embed/types": (2, 128),
        "embed/position/table": (512, 128),
        "embed/norm/scale": (128,),
        "embed/norm/bias": (128,),
        "embed/widen/weight": (128, 768),
        "embed/widen/bias": (768,),
        "head/transform/weight": (768, 128),
        "head/transform/bias": (128,),
        "head/norm/scale": (128,),
        "head/norm/bias": (128,),
        "head/bias": (30000,),
    }


def test_bert_with_each_of_its_heads():
    """The pooler says something about a pair of sentences, the transformed readout about tokens; each may be absent."""
    heads = {
        name: {path.split("/")[1] for path in shapes(name) if path.startswith(("head", "pooler"))}
        for name in ("bert-base", "bert-base-mlm", "bert-base-pretraining")
    }
    masked = {"transform", "norm", "bias"}
    assert heads == {"bert-base": {"pool"}, "bert-base-mlm": masked, "bert-base-pretraining": masked | {"pool", "out"}}
    assert shapes("bert-large-pretraining")["pooler/out/weight"] == (1024, 2)
    assert shapes("bert-base")["embed/types"] == (2, 768)


@pytest.mark.parametrize(("name", "heads"), [("t5-small", 8), ("t5-v1.1-base", 12)])
def test_t5_has_one_table_of_buckets_for_each_stack(name, heads):
    """Not one a layer, none in cross-attention; and heads need not fill the width of the stream."""
    biases = {path: shape for path, shape in shapes(name).items() if path.endswith("bias/table")}
    assert biases == {"encoder/bias/table": (32, heads), "stack/bias/table": (32, heads)}
    spec = fx.zoo.get(name)
    assert spec.encoder.bias.bidirectional and not spec.stack.bias.bidirectional
    assert {block.attention.scale for stack in (spec.encoder, spec.stack) for block in blocks(stack)} == {1.0}
    assert only(name).cross.scale == 1.0
    assert shapes("t5-3b")["stack/group_0/blocks/block_0/cross/query/weight"] == (24, 1024, 32, 128)


ROWS = np.arange(6)
CAUSAL = ROWS[:, None] >= ROWS
FULL = np.ones((6, 6), bool)
PREFIX = np.array(  # three tokens of context
    [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1] * 6], bool
)


@pytest.mark.parametrize(
    ("name", "part", "sublayer", "seen"),
    [
        ("transformer-base", "encoder", "attention", FULL),
        ("transformer-base", "stack", "attention", CAUSAL),
        ("transformer-base", "stack", "cross", FULL),
        ("t5-small", "encoder", "attention", FULL),
        ("t5-small", "stack", "attention", CAUSAL),
        ("t5-small", "stack", "cross", FULL),
        ("bert-base", "stack", "attention", FULL),
        ("albert-base", "stack", "attention", FULL),
        ("glm-10b", "stack", "attention", PREFIX),
        ("glm-130b", "stack", "attention", PREFIX),
        ("chatglm-6b", "stack", "attention", PREFIX),
        ("chatglm2-6b", "stack", "attention", CAUSAL),
    ],
)
def test_who_sees_whom_with_three_tokens_of_context(name, part, sublayer, seen):
    """GLM's context is seen both ways and sees nothing of the answer; ChatGLM2 is causal whatever is marked."""
    coords = replace(plain(6), prefix=jnp.arange(6)[None] < 3)
    mask = getattr(only(name, part), sublayer).mask
    np.testing.assert_array_equal(visible(mask, coords, coords)[0], seen)


@pytest.mark.parametrize(
    ("name", "rotary"),
    [
        ("glm-130b", Rotary(width=128, base=1e4, pairing="half")),
        ("chatglm-6b", Rotary(width=64, base=1e4, pairing="half", streams=2)),
        ("chatglm2-6b", Rotary(width=64, base=1e4, pairing="interleaved")),
        ("glm-10b", None),
        ("t5-small", None),
    ],
)
def test_which_channels_are_rotated(name, rotary):
    assert only(name).attention.rotary == rotary


def test_tables_of_positions():
    """GLM has two, each one longer than a sequence."""
    positions = {
        name: {path: shape for path, shape in shapes(name).items() if "/position/" in path}
        for name in ("transformer-base", "bert-base", "glm-base", "glm-10b", "glm-130b", "chatglm2-6b")
    }
    assert positions == {
        "transformer-base": {},
        "bert-base": {"embed/position/table": (512, 768)},
        "glm-base": {"embed/position/text": (513, 768), "embed/position/span": (513, 768)},
        "glm-10b": {"embed/position/text": (1025, 4096), "embed/position/span": (1025, 4096)},
        "glm-130b": {},
        "chatglm2-6b": {},
    }


def test_deepnorm_of_glm_has_a_square_root_where_deepnet_has_a_fourth():
    assert only("glm-130b").residual.skip == pytest.approx(11.8321595662, abs=1e-10)
    assert only("chatglm-6b").residual.skip == pytest.approx(7.4833147735, abs=1e-10)
    assert fx.zoo.get("glm-130b").embed.shrink == 0.1


@pytest.mark.parametrize(("name", "kv_heads"), [("chatglm-6b", 32), ("chatglm2-6b", 2), ("glm-130b", 96)])
def test_key_heads(name, kv_heads):
    """ChatGLM2 has two, not one."""
    assert only(name).attention.kv_heads == kv_heads
    assert only(name).attention.key_width == 128


@pytest.mark.parametrize(
    ("name", "embed", "residual", "attention", "ffn", "stack"),
    [
        ("transformer-base", 0.1, 0.1, 0.0, 0.0, 0.0),
        ("transformer-big", 0.3, 0.3, 0.0, 0.0, 0.0),
        ("bert-base", 0.1, 0.1, 0.1, 0.0, 0.0),
        ("albert-base", 0.1, 0.1, 0.1, 0.0, 0.0),
        ("albert-xxlarge", 0.0, 0.0, 0.0, 0.0, 0.0),
        ("t5-small", 0.1, 0.1, 0.1, 0.1, 0.1),
        ("t5-v1.1-small", 0.1, 0.1, 0.1, 0.1, 0.1),
        ("glm-10b", 0.1, 0.1, 0.1, 0.0, 0.0),
        ("chatglm2-6b", 0.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_where_values_are_dropped(name, embed, residual, attention, ffn, stack):
    spec, block = fx.zoo.get(name), only(name)
    rates = (spec.embed.dropout, block.residual.dropout, block.attention.dropout, block.ffn.dropout, spec.stack.dropout)
    assert rates == (embed, residual, attention, ffn, stack)


BLOCK = "stack/group_0/blocks/block_0"
T5_DEVIATIONS = {  # width 40, 6 heads of 10, inner 104
    "embed/table": 1,
    f"{BLOCK}/attention/query/weight": (40 * 10) ** -0.5,
    f"{BLOCK}/attention/key/weight": 40**-0.5,
    f"{BLOCK}/attention/value/weight": 40**-0.5,
    f"{BLOCK}/attention/out/weight": (6 * 10) ** -0.5,
    f"{BLOCK}/cross/query/weight": (40 * 10) ** -0.5,
    f"{BLOCK}/ffn/up/weight": 40**-0.5,
    f"{BLOCK}/ffn/down/weight": 104**-0.5,
    "stack/bias/table": 40**-0.5,
}
DEVIATIONS = {
    "t5-small": T5_DEVIATIONS,
    "t5-v1.1-small": {**T5_DEVIATIONS, f"{BLOCK}/ffn/gate/weight": 40**-0.5, "head/out/weight": 40**-0.5},
    "glm-base": {  # 3 layers
        "embed/position/span": 0.02,
        f"{BLOCK}/attention/query/weight": 0.02,
        f"{BLOCK}/attention/out/weight": 0.02 / 6**0.5,
        f"{BLOCK}/ffn/down/weight": 0.02 / 6**0.5,
    },
    "glm-130b": {  # 3 layers, width 48, inner 128; Xavier's sqrt(2 / (in + out)), in branches over sqrt(6)
        f"{BLOCK}/attention/query/weight": (2 / 96) ** 0.5,
        f"{BLOCK}/attention/key/weight": (2 / 96) ** 0.5,
        f"{BLOCK}/attention/value/weight": (2 / 96 / 6) ** 0.5,
        f"{BLOCK}/attention/out/weight": (2 / 96 / 6) ** 0.5,
        f"{BLOCK}/ffn/gate/weight": (2 / 176 / 6) ** 0.5,
        f"{BLOCK}/ffn/down/weight": (2 / 176 / 6) ** 0.5,
    },
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_initial_weights(name):
    """Within four standard errors of the deviation that the released code draws with."""
    drawn = named(fx.init(fx.zoo.tiny(name), jax.random.key(4)))
    for path, deviation in DEVIATIONS[name].items():
        assert np.std(drawn[path]) == pytest.approx(deviation, rel=4 / (2 * drawn[path].size) ** 0.5), path


def test_truncated_weights_end_at_two_deviations():
    """A normal distribution cut at 2 has standard deviation sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)) = 0.87963."""
    weights = np.asarray(draw(Truncated(0.02), jax.random.key(0), (300, 500), 300, 500))
    assert 0.0398 < np.abs(weights).max() <= 0.04
    assert weights.std() == pytest.approx(0.02 * 0.87963, rel=0.005)


@pytest.mark.parametrize("name", ["bert-base-pretraining", "albert-base-pretraining"])
def test_weights_of_bert_and_albert_are_truncated(name):
    assert set(parts(fx.zoo.get(name), Truncated)) == {Truncated(0.02)}
    for path, weights in named(fx.init(fx.zoo.tiny(name), jax.random.key(4))).items():
        if path.endswith(("weight", "table", "types")):
            assert np.abs(weights).max() <= 0.04, path
            assert np.std(weights) == pytest.approx(0.02 * 0.87963, rel=4 / (2 * weights.size) ** 0.5), path
