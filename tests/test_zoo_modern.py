"""What the papers of the decoders and mixtures print, and where copies of them usually go wrong.

Numbers of parameters as a whole are in `test_counts`; here are those of parts, and masks, layers, scales and routers.
"""

import math
from dataclasses import fields, is_dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.cache import Table
from fxformer.coords import plain
from fxformer.layers.attention import MLA
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.context import Context
from fxformer.layers.ffn import GLU, MLP, MoE
from fxformer.layers.ffn.dense import GLUModule
from fxformer.layers.norm import Norm
from fxformer.ops.dispatch import Capacity
from fxformer.ops.mask import visible
from fxformer.ops.rotary import Rotary, frequencies, magnitude
from fxformer.ops.route import route
from fxformer.walk import parts
from fxformer.zoo.deepseek import DEEPSEEK_V2
from fxformer.zoo.family import pairs
from fxformer.zoo.gpt import gpt3
from tests.laws.specs import shapes_of

get = cache(fx.zoo.get)
PAGES = ("gpt3", "gshard", "switch", "glam", "mi", "deepseek", "gemma2", "olmo2", "qwen3", "gpt-oss")
NAMES = [name for name in fx.zoo.names() if name.startswith(PAGES)]


def blocks(stack):
    """Every block of a stack, in order."""
    return [block for group in stack.groups for block in group.blocks * group.n]


def attention(name):
    return blocks(get(name).stack)[-1].attention


@cache
def shapes(name):
    """The shape of every parameter, by its path."""
    tree = shapes_of(get(name))
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def size(name, *inside):
    """Parameters whose path contains all of `inside`."""
    return sum(math.prod(shape) for path, shape in shapes(name).items() if all(part in path for part in inside))


# Which layers are which.


def reaches(stack):
    return [block.attention.mask.reach for block in blocks(stack)]


@pytest.mark.parametrize(
    ("name", "depth", "pair"),
    [
        ("gpt3-175b", 96, [None, 256]),
        ("gemma2-2b", 26, [4096, None]),
        ("gemma2-9b", 42, [4096, None]),
        ("gemma2-27b", 46, [4096, None]),
        ("gpt-oss-20b", 24, [128, None]),
        ("gpt-oss-120b", 36, [128, None]),
    ],
)
def test_local_and_global_attention_alternate_from_the_published_first_layer(name, depth, pair):
    assert reaches(get(name).stack) == pair * (depth // 2)


def test_band_and_order_of_gpt3_are_arguments_because_they_are_unpublished():
    spec = gpt3(depth=12, width=768, heads=12, band=128, dense=1)
    assert reaches(spec.stack) == [128, None] * 6
    assert fx.count(spec) == fx.count(get("gpt3-small"))
    with pytest.raises(ValueError, match="dense=2 is neither the first nor the second layer of a pair; use 0 or 1"):
        gpt3(depth=12, width=768, heads=12, dense=2)
    with pytest.raises(ValueError, match="depth=13 does not split in pairs of layers; use an even number"):
        pairs(13)


SPARSE = {
    "deepseek-v2-lite": [False] + [True] * 26,
    "deepseek-v2": [False] + [True] * 59,
    "deepseek-v3": [False] * 3 + [True] * 58,
    "deepseek-v3.2": [False] * 3 + [True] * 58,
    "mixtral-8x7b": [True] * 32,
    "mixtral-8x22b": [True] * 56,
    "gpt-oss-120b": [True] * 36,
    "glam-64b": [True, False] * 32,
    "glam-8b": [True, False] * 16,
    "gshard-600b": [True, False] * 9,
    "switch-base-8": [False, True] * 6,
    "switch-large-128": [False, True] * 12,
    "switch-xxl-128": [False, True] * 12,
}


@pytest.mark.parametrize("name", SPARSE)
def test_experts_stand_in_the_published_layers(name):
    spec = get(name)
    for stack in (spec.stack, spec.encoder):
        if stack is not None:
            assert [isinstance(block.ffn, MoE) for block in blocks(stack)] == SPARSE[name]


def test_the_window_of_mistral_is_4096_keys_and_not_one_more():
    """4097 tokens: the last query sees all but the first, as in Hugging Face; the one-file reference let it through."""
    coords = plain(4097)
    last = coords.slice(4096, 4097)
    windowed = np.asarray(visible(attention("mistral-7b").mask, last, coords)[0, 0])
    assert np.flatnonzero(~windowed).tolist() == [0]
    assert visible(attention("mistral-7b-v0.2").mask, last, coords).all()
    tables = jax.eval_shape(lambda: fx.empty_cache(get("mistral-7b"), 1, 10_000)).tables
    held = jax.tree.leaves(tables, is_leaf=lambda node: isinstance(node, Table))
    assert {table.capacity for table in held} == {4096}
    assert attention("mistral-7b").rotary == Rotary(width=128, base=1e4)
    assert attention("mistral-7b-v0.2").rotary == Rotary(width=128, base=1e6)


# YaRN and scales.


def test_magnitudes_of_yarn_are_the_printed_ones():
    for mscale, printed, squared in [(1.0, 1.3688879454, 1.8738542071), (0.707, 1.2608037774, 1.5896261652)]:
        assert magnitude(40.0, mscale) == pytest.approx(printed, abs=1e-10)
        assert magnitude(40.0, mscale) ** 2 == pytest.approx(squared, abs=1e-10)
    assert magnitude(40.0) == magnitude(40.0, 1.0)
    assert magnitude(1.0) == magnitude(0.5) == 1.0


def test_logits_of_deepseek_are_scaled_by_the_square_of_the_magnitude():
    for name in ("deepseek-v2", "deepseek-v3", "deepseek-v3-mtp", "deepseek-v3.2"):
        assert attention(name).logit_scale == pytest.approx(0.1352337789, abs=1e-10)
    assert attention("deepseek-v2-lite").logit_scale == pytest.approx(1.5896261652 / math.sqrt(192), abs=1e-10)
    printed = DEEPSEEK_V2.build(**{**DEEPSEEK_V2.published["deepseek-v2"], "mscale": 0.707})
    scale = (0.0707 * math.log(40) + 1) ** 2 / math.sqrt(192)
    assert blocks(printed.stack)[0].attention.logit_scale == pytest.approx(scale, rel=1e-12)


def test_frequencies_of_deepseek_ramp_from_pair_10_to_pair_23():
    plain_32 = 1e4 ** (-np.arange(32) / 32)
    ramp = np.clip((np.arange(32) - 10) / 13, 0, 1)
    for name in ("deepseek-v2-lite", "deepseek-v3"):
        found = frequencies(attention(name).rotary)
        np.testing.assert_allclose(found, plain_32 * (1 - ramp) + plain_32 / 40 * ramp, rtol=1e-12)
        assert found[10] == plain_32[10]
        assert found[23] == pytest.approx(plain_32[23] / 40, rel=1e-12)


def test_the_indexer_pairs_halves_where_the_attention_pairs_neighbours():
    """The first demo of V3.2 rotated both alike, which its authors corrected."""
    spec = attention("deepseek-v3.2")
    assert (spec.rotary.pairing, spec.index.rotary.pairing) == ("interleaved", "half")
    np.testing.assert_array_equal(frequencies(spec.index.rotary), frequencies(spec.rotary))
    assert (spec.index.heads, spec.index.width, spec.index.keep) == (64, 128, 2048)
    assert spec.index.norm == Norm(kind="layer", eps=1e-6, bias=True)


def test_frequencies_of_gpt_oss_ramp_between_fractions_of_a_pair():
    low, high = (32 * math.log(4096 / (turns * 2 * math.pi)) / math.log(150_000) for turns in (32, 1))
    assert low == pytest.approx(8.0928, abs=1e-4) and high == pytest.approx(17.398, abs=1e-3)
    expected = []
    for i in range(32):
        w, r = 150_000 ** (-i / 32), min(max((i - low) / (high - low), 0), 1)
        expected.append(w * (1 - r) + w / 32 * r)
    np.testing.assert_allclose(frequencies(attention("gpt-oss-20b").rotary), expected, rtol=1e-12)
    assert attention("gpt-oss-20b").scale == pytest.approx((0.1 * math.log(32) + 1) ** 2 / 8, rel=1e-12)


def test_gemma_scales_queries_embeddings_and_bounds_logits():
    assert [attention(f"gemma2-{size}").scale for size in ("2b", "9b", "27b")] == [1 / 16, 1 / 16, 1 / 12]
    assert [get(f"gemma2-{size}").embed.scale ** 2 for size in ("2b", "9b", "27b")] == pytest.approx([2304, 3584, 4608])
    for name in ("gemma2-2b", "gemma2-9b", "gemma2-27b"):
        assert (attention(name).softcap, get(name).head.softcap) == (50.0, 30.0)
        assert {norm.offset for norm in parts(get(name), Norm)} == {1.0}


def test_switch_and_glam_fold_the_scale_of_logits_into_the_queries():
    """No 1 / sqrt(key width), but queries drawn that much smaller than keys; Switch at a tenth of the variance."""
    glam, switch = attention("glam-64b"), attention("switch-base-8")
    assert glam.scale == switch.scale == 1.0
    assert glam.init.std(8192, 1) == pytest.approx((8192 * 128) ** -0.5)
    assert switch.init.std(768, 1) == pytest.approx((0.1 / (768 * 64)) ** 0.5)
    assert switch.key_init.std(768, 1) == pytest.approx((0.1 / 768) ** 0.5)
    assert get("glam-64b").head.scale == pytest.approx(8192**-0.5)
    assert get("switch-base-8").head.scale == pytest.approx(768**-0.5)


# Parts, counted.


@pytest.mark.parametrize(
    ("name", "layers", "printed"),
    [
        ("deepseek-v2-lite", 27, 13_763_072),
        ("deepseek-v2", 60, 149_227_520),
        ("deepseek-v3", 61, 187_107_328),
        ("deepseek-v3.2", 61, 187_107_328 + 13_959_424),
    ],
)
def test_latent_attention_has_the_printed_number_of_parameters(name, layers, printed):
    """Of one layer, its norms included and those of the block not."""
    assert size(name, "['attention']") == layers * printed


def test_parts_of_deepseek_v3_are_the_printed_numbers():
    assert size("deepseek-v3", "['experts']") == 58 * 256 * 44_040_192
    assert size("deepseek-v3", "['shared']") == 58 * 44_040_192
    assert size("deepseek-v3", "selection_bias") == 14_848
    assert size("deepseek-v3-mtp", "['mtp']") == 11_610_068_224
    assert blocks(get("deepseek-v3-mtp").stack)[-1] == get("deepseek-v3-mtp").mtp.block


def test_two_shared_experts_are_one_layer_of_their_width():
    assert [blocks(get(name).stack)[-1].ffn.shared.inner for name in ("deepseek-v2-lite", "deepseek-v2")] == [
        2816,
        3072,
    ]


def active(name):
    """Parameters that a token meets: those of the experts it is not sent to are left out."""
    moe = next(parts(get(name), MoE))
    return size(name) - (1 - moe.router.k / moe.experts) * size(name, "['experts']")


def test_glam_has_the_printed_number_of_active_parameters():
    """96.6 billion only if experts are two matrices, dense layers three, and the head is the embedding's table."""
    assert active("glam-64b") / 1e9 == pytest.approx(96.6, abs=0.05)
    assert size("glam-64b") / 1e12 == pytest.approx(1.2, abs=0.05)


def test_switch_and_gpt_oss_have_the_printed_billions():
    printed = {"switch-base-128": 7, "switch-large-128": 26, "switch-xxl-128": 395, "mixtral-8x7b": 47}
    assert {name: round(size(name) / 1e9) for name in printed} == printed
    assert round(active("gpt-oss-20b") / 1e9 - 201_088 * 2880 / 1e9, 2) == 3.61  # the card leaves out the embedding
    assert round(active("gpt-oss-120b") / 1e9 - 201_088 * 2880 / 1e9, 2) == 5.13


def test_eighteen_layers_of_2048_experts_are_what_gshard_counts():
    """36,864 experts and 600 billion parameters, two matrices without biases each."""
    assert size("gshard-600b", "['experts']") == 36_864 * 2 * 1024 * 8192
    assert 600 < size("gshard-600b") / 1e9 < 620


def test_norms_of_queries_and_keys_span_one_head_or_all():
    qwen = {path.split("['")[-2][:-2]: shape[1:] for path, shape in shapes("qwen3-4b").items() if "y_norm" in path}
    olmo = {path.split("['")[-2][:-2]: shape[1:] for path, shape in shapes("olmo2-32b").items() if "y_norm" in path}
    assert qwen == {"query_norm": (128,), "key_norm": (128,)}
    assert olmo == {"query_norm": (40, 128), "key_norm": (8, 128)}


def test_gpt_oss_has_a_sink_for_each_head_and_biases_everywhere():
    sinks = [shape for path, shape in shapes("gpt-oss-20b").items() if "sinks" in path]
    assert sinks == [(12, 64), (12, 64)]  # a local and a global layer, twelve times
    weights = {path.removesuffix("['weight']") for path in shapes("gpt-oss-20b") if path.endswith("['weight']")}
    biases = {path.removesuffix("['bias']") for path in shapes("gpt-oss-20b") if path.endswith("['bias']")}
    assert weights - biases == {"['head']['out']"} and biases < weights


# Routers.


def chosen(p, bias, groups, kept, counted, k):
    """The experts of one token by the papers' words: best groups by their best scores, best experts inside."""
    score = (p + bias).reshape(groups, -1)
    best = np.argsort(-np.sort(score, axis=1)[:, -counted:].sum(1))[:kept]
    inside = np.where(np.isin(np.arange(groups), best)[:, None], score, -np.inf).reshape(-1)
    return set(np.argsort(-inside)[:k].tolist())


@pytest.mark.parametrize(
    ("name", "score", "groups", "kept", "counted", "k", "weight"),
    [
        ("deepseek-v2-lite", "softmax", 1, 1, 1, 6, lambda p, sum_p: p),
        ("deepseek-v2", "softmax", 8, 3, 1, 6, lambda p, sum_p: 16 * p),
        ("deepseek-v3", "sigmoid", 8, 4, 2, 8, lambda p, sum_p: 2.5 * p / sum_p),
        ("mixtral-8x7b", "softmax", 1, 1, 1, 2, lambda p, sum_p: p / sum_p),
        ("gpt-oss-120b", "softmax", 1, 1, 1, 4, lambda p, sum_p: p / sum_p),
        ("switch-base-64", "softmax", 1, 1, 1, 1, lambda p, sum_p: p),
        ("glam-64b", "softmax", 1, 1, 1, 2, lambda p, sum_p: p / sum_p),
    ],
)
def test_a_router_chooses_and_weighs_as_its_paper_says(name, score, groups, kept, counted, k, weight):
    moe = next(parts(get(name).stack, MoE))
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(9, moe.experts)) * 2
    bias = rng.normal(size=moe.experts) * 0.3 if moe.selection_bias else np.zeros(moe.experts)
    choose = jax.jit(partial(route, moe.router))
    routing = choose(jnp.asarray(logits[None], jnp.float32), bias_E=jnp.asarray(bias, jnp.float32))
    assert moe.selection_bias == (score == "sigmoid")
    for t, row in enumerate(logits):
        p = 1 / (1 + np.exp(-row)) if score == "sigmoid" else np.exp(row) / np.exp(row).sum()
        experts = chosen(p, bias, groups, kept, counted, k)
        found = dict(zip(routing.expert_BTM[0, t].tolist(), routing.weight_BTM[0, t].tolist(), strict=True))
        assert set(found) == experts
        for expert in experts:
            assert found[expert] == pytest.approx(weight(p[expert], p[list(experts)].sum()), rel=1e-5)


def test_experts_drop_tokens_where_the_papers_let_them():
    """Capacity 1.25 T / E for Switch, 2 S / E for GShard and GLaM; the later models drop none."""
    dispatch = {name: next(parts(get(name), MoE)).dispatch for name in ("switch-base-8", "gshard-600b", "glam-64b")}
    factors = {name: spec.factor * next(parts(get(name), MoE)).router.k for name, spec in dispatch.items()}
    assert factors == {"switch-base-8": 1.25, "gshard-600b": 2.0, "glam-64b": 2.0}
    for name in ("mixtral-8x7b", "deepseek-v2", "deepseek-v3", "gpt-oss-20b"):
        assert not list(parts(get(name), Capacity))


# The clamped gate.


def test_the_gate_of_gpt_oss_is_clamped_on_one_side_and_the_other_branch_on_both():
    """Beyond 7 on either side, against the formula of the reference code."""
    expert = replace(next(parts(get("gpt-oss-20b"), MoE)).expert, inner=11)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 13, 5))
    matrices = {
        name: 4 * rng.normal(size=shape) for name, shape in [("gate", (5, 11)), ("up", (5, 11)), ("down", (11, 5))]
    }
    params = {name: {"weight": w, "bias": rng.normal(size=w.shape[1])} for name, w in matrices.items()}
    gate, up = (x @ params[name]["weight"] + params[name]["bias"] for name in ("gate", "up"))
    assert gate.max() > 8 and gate.min() < -8 and up.max() > 8 and up.min() < -8
    gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
    expected = (gate / (1 + np.exp(-1.702 * gate)) * (up + 1)) @ params["down"]["weight"] + params["down"]["bias"]
    ours = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    y, _ = GLUModule(expert).apply({"params": ours}, jnp.asarray(x, jnp.float32), Context(coords=plain(13)))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-3)


def test_a_limit_that_cuts_everything_off_is_refused():
    with pytest.raises(ValueError, match=r"limit=-1.0 is out of range; use more than 0, or None"):
        GLU(inner=3, activation="silu", limit=-1.0)


# Tiny models.


def skeleton(value):
    """A spec without its numbers: kinds, names, switches, and which optional parts there are."""
    if is_dataclass(value):
        return type(value).__name__, {field.name: skeleton(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return tuple(skeleton(item) for item in value)
    return type(value).__name__ if isinstance(value, int | float) and not isinstance(value, bool) else value


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_model_differs_in_numbers_only(name):
    assert skeleton(fx.zoo.tiny(name)) == skeleton(get(name))


AXES = {"heads", "kv_heads", "key_width", "inner", "experts", "latent", "query_latent", "nope_width", "value_width"}


def axes(spec):
    """The sizes of each kind of axis."""
    sizes = {"width": {spec.embed.width}, "vocab": {spec.embed.vocab}, "rope": set()}
    for part in (
        *parts(spec, MLA),
        *(block.attention for block in blocks(spec.stack)),
        *parts(spec, MLP | GLU | MoE | Indexer),
    ):
        for field in fields(part):
            if field.name in AXES and getattr(part, field.name) is not None:
                sizes.setdefault(field.name, set()).add(getattr(part, field.name))
    sizes["rope"] |= {part.rotary.width for part in parts(spec, MLA)}
    return sizes


@pytest.mark.parametrize("name", NAMES)
def test_no_two_axes_of_a_tiny_model_are_equal(name):
    sizes = axes(fx.zoo.tiny(name))
    if sizes.get("kv_heads") == sizes["heads"]:
        sizes.pop("kv_heads")  # as many on purpose
    together = [size for kind in sizes.values() for size in kind]
    assert len(together) == len(set(together)), sizes


@pytest.mark.parametrize("name", NAMES)
def test_experts_of_a_tiny_model_have_room_for_every_token(name):
    """So that cached decoding equals one pass: what a full expert drops depends on the tokens that are read with it."""
    for moe in parts(fx.zoo.tiny(name), MoE):
        for capacity in parts(moe, Capacity):
            assert capacity.factor * moe.router.k == moe.experts
