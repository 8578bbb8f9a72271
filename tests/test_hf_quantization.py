"""Quantised checkpoints read bit for bit what the documents of their formats say.

The formats are decoded here from their fields of bits, one number at a time in float64: OCP Microscaling Formats 1.0
for MXFP4, OCP 8-bit Floating Point 1.0 for E4M3.
"""

import json
import re
import tracemalloc
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.hf.files import Stored
from fxformer.hf.quantization import dequantiser
from tests.test_hf import edit_config, edit_tensors, noise

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 24]}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"]}


def number(bits, exponent_bits, mantissa_bits):
    """The number with this pattern of bits: sign, exponent, mantissa; subnormal where the exponent is 0."""
    sign = -1.0 if bits >> (exponent_bits + mantissa_bits) else 1.0
    exponent = bits >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = (bits & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
    bias = (1 << exponent_bits - 1) - 1
    return sign * (2.0 ** (exponent - bias) * (1 + mantissa) if exponent else 2.0 ** (1 - bias) * mantissa)


E2M1 = np.array([number(bits, 2, 1) for bits in range(16)])
E4M3 = np.array([np.nan if bits & 127 == 127 else number(bits, 4, 3) for bits in range(256)])


def decode_mxfp4(blocks_ERGB, scales_ERG):
    """[experts, rows, groups, 16] bytes and a power for each group -> [experts, groups * 32, rows] in float32."""
    experts, rows, groups, width = blocks_ERGB.shape
    out = np.empty((experts, groups * 2 * width, rows))
    for e, r, g, b in product(range(experts), range(rows), range(groups), range(width)):
        byte, power = int(blocks_ERGB[e, r, g, b]), int(scales_ERG[e, r, g])
        factor = np.nan if power == 255 else 2.0 ** (power - 127)
        out[e, 32 * g + 2 * b, r] = factor * E2M1[byte & 15]
        out[e, 32 * g + 2 * b + 1, r] = factor * E2M1[byte >> 4]
    with np.errstate(over="ignore"):
        return out.astype(np.float32)


def decode_fp8(bytes_NK, factors, height, width):
    """Each number times the factor of its block, rounded once to float32."""
    out = np.empty(bytes_NK.shape)
    for row, column in np.ndindex(*bytes_NK.shape):
        out[row, column] = E4M3[bytes_NK[row, column]] * float(factors[row // height, column // width])
    return out.astype(np.float32)


def same_bits(ours, theirs):
    """Equal in dtype and in each bit, the sign of zero too; what is not a number is so in both."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.signbit(ours) & ~np.isnan(ours), np.signbit(theirs) & ~np.isnan(theirs))


def saved(spec, folder, quantization, quantise):
    """A checkpoint of `spec` whose tensors `quantise` replaced, and the same one without quantisation."""
    fx.hf.save(spec, noise(spec), folder / "quantised")
    fx.hf.save(spec, noise(spec), folder / "plain")
    plain = {}

    def stored(tensors):
        parts = {}
        for name, tensor in tensors.items():
            made, plain[name] = quantise(name, tensor)
            parts |= made
        return parts

    edit_tensors(folder / "quantised", stored)
    edit_tensors(folder / "plain", lambda tensors: plain)
    edit_config(folder / "quantised", quantization_config=quantization)
    return folder / "quantised", folder / "plain"


def gpt_oss():
    return fx.zoo.gptoss.gpt_oss(
        depth=2, experts=3, chosen=2, width=64, heads=4, kv_heads=2, key_width=8, inner=96, window=5, vocab=40
    )


def deepseek(name="deepseek-v3"):
    return fx.zoo.tiny(name)


def as_mxfp4(name, tensor):
    """Experts as blocks and powers drawn at random; all other tensors as they are."""
    if not name.endswith(("gate_up_proj", "down_proj")):
        return {name: tensor}, tensor
    rng = np.random.default_rng(len(name))
    experts, columns, rows = tensor.shape
    blocks = rng.integers(0, 256, (experts, rows, columns // 32, 16), np.uint8)
    powers = rng.integers(110, 140, blocks.shape[:-1]).astype(np.uint8)
    return {f"{name}_blocks": blocks, f"{name}_scales": powers}, decode_mxfp4(blocks, powers)


def as_fp8(name, tensor):
    """Matrices of layers as bytes and factors drawn at random; what `modules_to_not_convert` names is as it is."""
    if not re.search(r"layers\..*_proj.*\.weight$|indexer\.w[qk]", name) or ".1.mlp" in name:
        return {name: tensor}, tensor
    rng = np.random.default_rng(len(name))
    numbers = rng.integers(0, 256, tensor.shape, np.uint8)
    numbers[numbers & 127 == 127] = 0
    factors = rng.standard_normal((-(-tensor.shape[0] // 16), -(-tensor.shape[1] // 24)), np.float32)
    parts = {name: numbers.view(jnp.float8_e4m3fn), f"{name}_scale_inv": factors}
    return parts, decode_fp8(numbers, factors, 16, 24)


CASES = {
    "mxfp4": (gpt_oss, MXFP4, as_mxfp4),
    "fp8": (deepseek, {**FP8, "modules_to_not_convert": ["model.layers.1.mlp"]}, as_fp8),
    "fp8-indexer": (lambda: deepseek("deepseek-v3.2"), {**FP8, "scale_fmt": "ue8m0"}, as_fp8),
}


@pytest.fixture(scope="module", params=CASES)
def folders(request, tmp_path_factory):
    make, quantization, quantise = CASES[request.param]
    return saved(make(), tmp_path_factory.mktemp(request.param), quantization, quantise)


# Whole folders.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_quantised_folder_is_the_plain_one_bit_for_bit(folders, dtype):
    (spec, params), (plain_spec, plain_params) = (fx.hf.load(folder, dtype=dtype) for folder in folders)
    assert spec == plain_spec
    jax.tree.map(same_bits, params, plain_params)


def test_a_quantised_folder_is_read_onto_a_mesh(folders):
    rules = fx.sharding.PRESETS["fsdp"]
    mesh = fx.sharding.mesh("data=2")
    spec, params = fx.hf.load(folders[0], mesh=mesh, rules=rules)
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == fx.sharding.param_shardings(spec, mesh, rules)
    jax.tree.map(same_bits, params, fx.hf.load(folders[1])[1])


def test_what_was_read_is_saved_plain(folders, tmp_path):
    spec, params = fx.hf.load(folders[0])
    fx.hf.save(spec, params, tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    jax.tree.map(same_bits, fx.hf.load(tmp_path / "again")[1], params)


def test_one_tensor_at_a_time_is_dequantised(tmp_path):
    spec = fx.zoo.gptoss.gpt_oss(
        depth=16, experts=2, chosen=1, width=256, heads=2, kv_heads=1, key_width=8, inner=256, window=5, vocab=16
    )

    def constant(name, tensor):
        if not name.endswith(("gate_up_proj", "down_proj")):
            return {name: tensor}, tensor
        experts, columns, rows = tensor.shape
        blocks = np.full((experts, rows, columns // 32, 16), 2 + 16 * 4, np.uint8)
        return {f"{name}_blocks": blocks, f"{name}_scales": np.full(blocks.shape[:-1], 127, np.uint8)}, tensor

    folder, _ = saved(spec, tmp_path, MXFP4, constant)
    tracemalloc.start()
    params = fx.hf.load(folder)[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * 4 * fx.count(spec)
    gates = next(leaf for path, leaf in jax.tree.leaves_with_path(params) if "experts" in str(path) and leaf.ndim == 4)
    assert set(np.unique(gates).tolist()) == {1.0, 2.0}


# Each number that a format can say.


def held(name, array, dtype):
    """A tensor as a file would hand it."""
    return Stored(name, array.shape, dtype, lambda: array)


def read(quantization, *stored):
    """The parameters that these tensors make, by name."""
    tensors = dequantiser({"quantization_config": quantization})(stored)
    return {tensor.name: tensor for tensor in tensors}


def test_every_byte_under_every_power_is_exact():
    blocks = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (256, 1)).reshape(1, 256, 16, 16)
    powers = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 16, axis=1)[None]
    (tensor,) = read(MXFP4, held("w_blocks", blocks, "U8"), held("w_scales", powers, "U8")).values()
    assert (tensor.name, tensor.shape, tensor.dtype) == ("w", (1, 512, 256), "F32")
    same_bits(tensor.read(), decode_mxfp4(blocks, powers))


@pytest.mark.parametrize("shape", [(256, 256), (300, 129), (1, 640)])
@pytest.mark.parametrize("stored", ["F32", "BF16"])
def test_every_byte_in_whole_and_partial_blocks_is_exact(shape, stored):
    numbers = np.resize(np.arange(256, dtype=np.uint8), shape)
    factors = np.random.default_rng(0).standard_normal((-(-shape[0] // 128), -(-shape[1] // 128)), np.float32)
    factors = factors.astype(jnp.bfloat16) if stored == "BF16" else factors
    weight = held("w.weight", numbers.view(jnp.float8_e4m3fn), "F8_E4M3")
    tensors = read(
        {"quant_method": "fp8"}, held("b", factors, "F32"), weight, held("w.weight_scale_inv", factors, stored)
    )
    assert list(tensors) == ["b", "w.weight"] and tensors["w.weight"].shape == shape
    same_bits(tensors["w.weight"].read(), decode_fp8(numbers, factors, 128, 128))


def test_experts_in_one_tensor_have_blocks_of_their_own():
    numbers = np.resize(np.arange(256, dtype=np.uint8), (3, 40, 70))
    factors = np.random.default_rng(0).standard_normal((3, 3, 3), np.float32)
    weight = held("w", numbers.view(jnp.float8_e4m3fn), "F8_E4M3")
    tensors = read(FP8, weight, held("w_scale_inv", factors, "F32"))
    expected = [decode_fp8(numbers[expert], factors[expert], 16, 24) for expert in range(3)]
    same_bits(tensors["w"].read(), np.stack(expected))


def test_one_block_may_be_larger_than_the_matrix():
    numbers = np.resize(np.arange(256, dtype=np.uint8), (5, 300))
    weight = held("w", numbers.view(jnp.float8_e4m3fn), "F8_E4M3")
    factors = np.array([[1.7]], np.float32)
    tensors = read({**FP8, "weight_block_size": [2**62, 2**62]}, weight, held("w_scale_inv", factors, "F32"))
    same_bits(tensors["w"].read(), decode_fp8(numbers, factors, 5, 300))


# What is not read is named.

EIGHT, BYTES = np.zeros((32, 48), jnp.float8_e4m3fn), np.zeros((2, 4, 3, 16), np.uint8)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "quant_method='gptq'; only fp8, mxfp4 are read: deq"),
        ({"quant_method": "awq", "bits": 4, "zero_point": True, "version": "gemm"}, "quant_method='awq'; only"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "quant_method='bitsandbytes'; only"),
        ({"bits": 4}, "quant_method=None; only"),
        ({"quant_method": ["fp8"]}, r"quant_method=\['fp8'\]; only"),
        ("fp8", "quantization_config='fp8'; give an object with a quant_method"),
    ],
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_method_that_is_not_read_is_named(config, sentence, key):
    with pytest.raises(ValueError, match=sentence):
        dequantiser({key: config})


def test_a_method_is_refused_before_any_tensor_is_looked_at(tmp_path):
    fx.hf.save(fx.zoo.tiny("llama-7b"), noise(fx.zoo.tiny("llama-7b")), tmp_path / "model")
    edit_config(tmp_path / "model", quantization_config={"quant_method": "gptq"})
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="quant_method='gptq'"):
        fx.hf.load(tmp_path / "model")


@pytest.mark.parametrize("block", [None, [16], [16, 0], [16, 2.0], [16, True], 16, {"16": 24}])
def test_a_block_that_is_none_is_named(block):
    parts = held("w", EIGHT, "F8_E4M3"), held("w_scale_inv", np.zeros((2, 2), np.float32), "F32")
    with pytest.raises(ValueError, match=re.escape(f"weight_block_size={block!r}; only two numbers of 1 or more")):
        read({**FP8, "weight_block_size": block}, *parts)


@pytest.mark.parametrize(
    ("quantization", "parts", "sentence"),
    [
        (FP8, {"w_scale_inv": (np.zeros((2, 2), np.float32), "F32")}, "lacks tensor 'w', without which 'w' is no"),
        (MXFP4, {"w_blocks": (BYTES, "U8")}, "lacks tensor 'w_scales', without which 'w' is no parameter"),
        (MXFP4, {"w_scales": (BYTES[..., 0], "U8")}, "lacks tensor 'w_blocks', without which 'w' is no parameter"),
        (
            FP8,
            {"w": (EIGHT, "F8_E4M3"), "w_scale_inv": (np.zeros((2, 3), np.float32), "F32")},
            r"'w_scale_inv' is F32 of shape \(2, 3\); its method stores F32 or BF16 of shape \(2, 2\) there",
        ),
        (
            FP8,
            {"w": (EIGHT[0], "F8_E4M3"), "w_scale_inv": (np.zeros(2, np.float32), "F32")},
            r"'w' is F8_E4M3 of shape \(48,\); its method stores F8_E4M3 of shape \(1, 48\)",
        ),
        (
            FP8,
            {"w": (EIGHT, "F8_E5M2"), "w_scale_inv": (np.zeros((2, 2), np.float32), "F32")},
            "'w' is F8_E5M2 of shape .* stores F8_E4M3",
        ),
        (
            MXFP4,
            {"w_blocks": (BYTES[..., :8], "U8"), "w_scales": (BYTES[..., 0], "U8")},
            r"'w_blocks' is U8 of shape \(2, 4, 3, 8\); its method stores U8 of shape \(2, 4, 3, 16\)",
        ),
        (
            MXFP4,
            {"w_blocks": (BYTES, "U8"), "w_scales": (BYTES[:, :, :2, 0], "U8")},
            r"'w_scales' is U8 of shape \(2, 4, 2\); its method stores U8 of shape \(2, 4, 3\)",
        ),
        (
            MXFP4,
            {"w_blocks": (BYTES[0, 0, 0], "U8"), "w_scales": (BYTES[0, 0, 0, 0], "U8")},
            r"'w_blocks' is U8 of shape \(16,\)",
        ),
    ],
)
def test_parts_that_make_no_parameter_are_named(quantization, parts, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(quantization, *(held(name, array, dtype) for name, (array, dtype) in parts.items()))


def test_numbers_of_8_bits_without_a_factor_are_refused(tmp_path):
    fx.hf.save(deepseek(), noise(deepseek()), tmp_path / "model")
    name = "model.layers.0.mlp.up_proj.weight"
    edit_tensors(tmp_path / "model", lambda tensors: {**tensors, name: tensors[name].astype(jnp.float8_e4m3fn)})
    with pytest.raises(ValueError, match=rf"tensor '{name}' is F8_E4M3; only F64, F32, F16, BF16 are supported"):
        fx.hf.load(tmp_path / "model")
