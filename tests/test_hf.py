"""Hugging Face checkpoints: what is written reads back bit for bit, what is not understood is refused.

Parity with the real classes is tested in tests/parity.
"""

import json
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fxformer as fx
from fxformer.hf.depth import fold
from fxformer.hf.families import FAMILIES, family_of
from fxformer.hf.family import settings
from fxformer.layers.head import Tied, Untied
from fxformer.ops.rotary import NTK, Rotary, YaRN
from fxformer.stack import Repeat
from tests.laws.specs import shapes_of

TITLES = (
    *("GPT-2", "LLaMA", "LLaMA-2", "Mistral", "Mixtral", "Gemma 2", "OLMo 2", "Qwen 3", "gpt-oss"),
    *("DeepSeek-V2", "DeepSeek-V3", "GLM-130B", "ChatGLM", "ChatGLM2"),
)
UNWRITTEN = ("deepseek-v3-mtp",)  # transformers has no name for what looks ahead
ZOO = [name for name in fx.zoo.names() if fx.zoo.family_of(name).title in TITLES and name not in UNWRITTEN]


def noise(spec):
    """Parameters in which no two numbers are alike, gains and biases included."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes_of(spec))


def assert_same(ours, theirs):
    """Equal trees of equal dtypes, bit for bit."""
    assert jax.tree.map(lambda leaf: leaf.dtype, ours) == jax.tree.map(lambda leaf: leaf.dtype, theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture(params=["gpt2", "llama2-70b"])
def saved(request, tmp_path):
    """A saved tiny model: (folder, spec, params)."""
    spec = fx.zoo.tiny(request.param)
    params = jax.device_put(noise(spec))
    fx.hf.save(spec, params, tmp_path / "model")
    return tmp_path / "model", spec, params


def model(name, tmp_path):
    """The folder of a saved tiny model."""
    fx.hf.save(fx.zoo.tiny(name), noise(fx.zoo.tiny(name)), tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_tensors(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    save_file(edit(tensors), folder / "model.safetensors")


# What is written reads back.


@pytest.mark.parametrize("shard", [10**9, 40_000])
@pytest.mark.parametrize("name", ZOO)
def test_load_of_save_is_the_identity(name, shard, tmp_path):
    spec = fx.zoo.tiny(name)
    params = noise(spec)
    fx.hf.save(spec, params, tmp_path / "model", shard=shard)
    assert (tmp_path / "model" / "model.safetensors.index.json").exists() == (shard == 40_000)
    read_spec, read_params = fx.hf.load(tmp_path / "model")
    assert read_spec == spec
    assert_same(read_params, params)


def test_a_share_of_a_head_that_cannot_be_rotated_is_named():
    family = FAMILIES["glm"]
    with pytest.raises(ValueError, match=r"partial_rotary_factor=0\.4, which rotates 51 of 128 channels"):
        family.read(settings(family, {"model_type": "glm", "partial_rotary_factor": 0.4}))


def test_yarn_with_its_magnitude_reads_back(tmp_path):
    spec = attention(
        fx.zoo.tiny("llama2-70b"),
        rotary=Rotary(width=8, base=77.0, scaling=YaRN(factor=4.0, original_length=64, fast=8.0)),
        scale=0.4567,
    )
    fx.hf.save(spec, noise(spec), tmp_path / "model")
    read = fx.hf.load(tmp_path / "model")[0].stack.groups[0].blocks[0].attention
    assert read.rotary == spec.stack.groups[0].blocks[0].attention.rotary
    assert read.scale == pytest.approx(0.4567, rel=1e-12)


def attention(spec, **changes):
    """The spec with other attention fields in every block."""
    (group,) = spec.stack.groups
    (block,) = group.blocks
    blocks = (replace(block, attention=replace(block.attention, **changes)),)
    return replace(spec, stack=replace(spec.stack, groups=(Repeat(group.n, blocks),)))


def test_initialisers_and_dropout_do_not_stand_in_the_way(tmp_path):
    spec = fx.zoo.toy(ffn="glu", activation="silu", head="untied", dropout=0.3, init_scale=2.0)
    spec = replace(spec, embed=replace(spec.embed, scale=1.0))
    params = noise(spec)
    fx.hf.save(spec, params, tmp_path / "model")
    read_spec, read_params = fx.hf.load(tmp_path / "model")
    tokens = jnp.arange(11)[None] * 7
    np.testing.assert_array_equal(
        fx.apply(read_spec, read_params, tokens).logits, fx.apply(spec, params, tokens).logits
    )


def test_half_of_a_head_rotated_with_a_gain_reads_back(tmp_path):
    spec = attention(
        fx.zoo.tiny("llama2-70b"),
        key_width=49,
        rotary=Rotary(width=14, pairing="interleaved", scaling=YaRN(factor=4.0, original_length=64), gain=1.7),
        bias=True,
    )
    fx.hf.save(spec, noise(spec), tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "glm"
    assert fx.hf.load(tmp_path / "model")[0] == spec


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("lglglg", [(3, "lg")]),
        ("lglgl", [(2, "lg"), (1, "l")]),
        ("gggll", [(3, "g"), (2, "l")]),
        ("glll", [(1, "g"), (3, "l")]),
        ("llglllgl", [(2, "llgl")]),
        ("l", [(1, "l")]),
    ],
)
def test_layers_become_the_fewest_repeats_of_the_shortest_patterns(layers, expected):
    full, local = (fx.zoo.tiny("gemma2-2b").stack.groups[0].blocks[i] for i in (1, 0))
    blocks = {"g": full, "l": local}
    folded = fold([blocks[layer] for layer in layers])
    assert [(repeat.n, [*repeat.blocks]) for repeat in folded] == [
        (n, [blocks[layer] for layer in pattern]) for n, pattern in expected
    ]


def test_layers_in_other_repeats_are_the_same_model(tmp_path):
    spec = fx.zoo.tiny("llama-7b")
    (block,) = spec.stack.groups[0].blocks
    spec = replace(spec, stack=replace(spec.stack, groups=(Repeat(1, (block, block)), Repeat(2, (block,)))))
    params, tokens = noise(spec), jnp.arange(11)[None] * 7
    fx.hf.save(spec, params, tmp_path / "model")
    read_spec, read_params = fx.hf.load(tmp_path / "model")
    assert read_spec.stack.groups == (Repeat(4, (block,)),)
    np.testing.assert_allclose(
        fx.apply(read_spec, read_params, tokens).logits, fx.apply(spec, params, tokens).logits, rtol=1e-5, atol=1e-5
    )


# Number formats.


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_half_precision_is_read_exactly_and_written_rounded_to_nearest(stored, saved, tmp_path):
    _, spec, params = saved
    fx.hf.save(spec, params, tmp_path / "half", dtype=stored)
    assert {str(t.dtype) for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {stored}
    rounded = jax.tree.map(lambda leaf: leaf.astype(stored), params)
    assert_same(fx.hf.load(tmp_path / "half")[1], jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded))
    assert_same(fx.hf.load(tmp_path / "half", dtype=stored)[1], rounded)


def test_parameters_of_any_float_are_saved_as_asked(saved, tmp_path):
    _, spec, params = saved
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    fx.hf.save(spec, half, tmp_path / "from-half")
    assert_same(fx.hf.load(tmp_path / "from-half", dtype=jnp.bfloat16)[1], half)


def test_loading_holds_the_parameters_once(tmp_path):
    spec = fx.zoo.llama.llama(depth=16, width=128, heads=4, kv_heads=2, inner=512, vocab=256)
    fx.hf.save(spec, noise(spec), tmp_path / "model")
    size = 4 * fx.count(spec)
    tracemalloc.start()
    fx.hf.load(tmp_path / "model")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * size


# Names that other writers use.


def test_gpt2_of_the_bare_model_with_its_buffers_reads_the_same(tmp_path):
    folder = model("gpt2", tmp_path)
    spec, params = fx.hf.load(folder)

    def bare(tensors):
        buffers = {f"h.{i}.attn.bias": np.ones((1, 1, 96, 96), bool) for i in range(3)}
        masked = {f"h.{i}.attn.masked_bias": np.array(-1e4, np.float32) for i in range(3)}
        return {**{name.removeprefix("transformer."): t for name, t in tensors.items()}, **buffers, **masked}

    edit_tensors(folder, bare)
    assert fx.hf.load(folder)[0] == spec
    assert_same(fx.hf.load(folder)[1], params)


def test_llama_reads_past_stored_rotary_frequencies(tmp_path):
    folder = model("llama-7b", tmp_path)
    before = fx.hf.load(folder)[1]
    edit_tensors(folder, lambda tensors: {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4)})
    assert_same(fx.hf.load(folder)[1], before)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v2-lite", "deepseek-v3", "deepseek-v3.2"])
def test_the_experts_of_a_layer_may_be_one_tensor(name, tmp_path):
    """As transformers writes them with `save_original_format=False`; Mixtral's have other names beside."""
    folder = model(name, tmp_path)
    spec, before = fx.hf.load(folder)
    names = dict(zip(("w1", "w3", "w2"), ("gate_proj", "up_proj", "down_proj"), strict=True))

    def stacked(tensors):
        plain, experts = {}, {}
        for key, tensor in tensors.items():
            key = key.replace(".block_sparse_moe.", ".mlp.")
            found = re.fullmatch(r"(.*\.mlp\.experts)\.(\d+)\.(\w+)\.weight", key)
            if found is None:
                plain[key] = tensor
            else:
                layer, number, matrix = found.groups()
                experts.setdefault(layer, {})[names.get(matrix, matrix), int(number)] = tensor
        for layer, matrices in experts.items():
            count = len(matrices) // 3
            gate, up, down = (np.stack([matrices[name, i] for i in range(count)]) for name in names.values())
            plain |= {f"{layer}.gate_up_proj": np.concatenate([gate, up], axis=1), f"{layer}.down_proj": down}
        return plain

    edit_tensors(folder, stacked)
    assert not any(".experts.0." in name for name in load_file(folder / "model.safetensors"))
    assert fx.hf.load(folder)[0] == spec
    assert_same(fx.hf.load(folder)[1], before)


TIED = ("gpt2", "gemma2-2b", "qwen3-0.6b", "chatglm-6b")
UNTIED = ("llama-7b", "mistral-7b", "mixtral-8x7b", "olmo2-7b", "gpt-oss-20b", "deepseek-v2-lite", "chatglm2-6b")


@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_that_is_stored_is_a_copy_or_a_head_of_its_own(name, tmp_path):
    """As transformers 5 has it: where both are stored with other values, it does not tie them, and warns."""
    folder = model(name, tmp_path)
    spec, before = fx.hf.load(folder)
    (head, table), *_ = FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]].copies.items()
    edit_tensors(folder, lambda tensors: {**tensors, head: tensors[table]})
    assert_same(fx.hf.load(folder)[1], before)
    edit_tensors(folder, lambda tensors: {**tensors, head: 2 * tensors[table]})
    own, params = fx.hf.load(folder)
    assert type(spec.head) is Tied and type(own.head) is Untied and own.head.softcap == spec.head.softcap
    assert_same(params["head"]["out"]["weight"], 2 * before["embed"]["table"].T)


@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_stands_for_a_table_that_is_not_stored(name, tmp_path):
    folder = model(name, tmp_path)
    before = fx.hf.load(folder)[1]
    (head, table), *_ = FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]].copies.items()
    edit_tensors(folder, lambda tensors: {head if name == table else name: t for name, t in tensors.items()})
    assert_same(fx.hf.load(folder)[1], before)


@pytest.mark.parametrize("name", UNTIED)
def test_a_head_of_its_own_stands_for_no_table(name, tmp_path):
    folder = model(name, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    ((_, table),) = family_of(config).copies.items()
    edit_tensors(folder, without(table))
    with pytest.raises(ValueError, match=f"lacks tensor '{re.escape(table)}'$"):
        fx.hf.load(folder)


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-v3.2"])
def test_the_layer_that_looks_ahead_is_read_past(name, tmp_path):
    folder, depth = model(name, tmp_path), fx.zoo.tiny(name).stack.depth
    before = fx.hf.load(folder)[1]
    ahead = {f"model.layers.{depth}.{rest}": np.ones(3) for rest in ("eh_proj.weight", "self_attn.o_proj.weight")}
    edit_tensors(folder, lambda tensors: {**tensors, **ahead})
    assert_same(fx.hf.load(folder)[1], before)
    edit_tensors(folder, lambda tensors: {**tensors, f"model.layers.{depth + 1}.enorm.weight": np.ones(3)})
    with pytest.raises(ValueError, match=rf"unknown tensor 'model.layers.{depth + 1}.enorm.weight'"):
        fx.hf.load(folder)


def test_the_two_factors_of_yarn_in_latent_attention_read_back(tmp_path):
    spec = fx.zoo.tiny("deepseek-v3")
    attention = replace(spec.stack.blocks[0].attention, scale=0.4321)
    attention = replace(attention, rotary=replace(attention.rotary, gain=1.2345))
    groups = [Repeat(g.n, (replace(g.blocks[0], attention=attention),)) for g in spec.stack.groups]
    spec = replace(spec, stack=replace(spec.stack, groups=tuple(groups)))
    fx.hf.save(spec, noise(spec), tmp_path / "model")
    read = fx.hf.load(tmp_path / "model")[0].stack.blocks[0].attention
    assert read.rotary == attention.rotary
    assert read.scale == pytest.approx(0.4321, rel=1e-12)


def test_a_magnitude_of_zero_is_none(tmp_path):
    folder = model("deepseek-v3", tmp_path)
    rope = json.loads((folder / "config.json").read_text())["rope_scaling"]
    spec = fx.hf.load(folder)[0]
    edit_config(folder, rope_scaling={**rope, "mscale": 0, "mscale_all_dim": 0}, rope_parameters=None)
    without_both = {key: value for key, value in rope.items() if key not in ("mscale", "mscale_all_dim")}
    zero = fx.hf.load(folder)[0]
    edit_config(folder, rope_scaling=without_both)
    assert zero == fx.hf.load(folder)[0] != spec


@pytest.mark.parametrize(("nope_width", "model_type"), [(10, "deepseek_v2"), (11, "deepseek_v3")])
def test_latent_attention_without_experts_is_written_for_a_class_that_runs_it(nope_width, model_type, tmp_path):
    spec = fx.zoo.tiny("deepseek-v2-lite")
    stack = replace(spec.stack, groups=spec.stack.groups[:1])
    spec = attention(replace(spec, stack=stack), nope_width=nope_width, scale=None)
    fx.hf.save(spec, noise(spec), tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == model_type
    assert fx.hf.load(tmp_path / "model")[0] == spec


def test_one_file_of_another_name_is_read(saved):
    folder, _, params = saved
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert_same(fx.hf.load(folder)[1], params)


def test_the_index_says_which_file_a_tensor_is_read_from(saved, tmp_path):
    _, spec, params = saved
    fx.hf.save(spec, params, tmp_path / "pieces", shard=20_000)
    index = json.loads((tmp_path / "pieces" / "model.safetensors.index.json").read_text())
    name, home = next(iter(index["weight_map"].items()))
    for file in set(index["weight_map"].values()) - {home}:
        tensors = load_file(tmp_path / "pieces" / file)
        shape = load_file(tmp_path / "pieces" / home)[name].shape
        save_file({**tensors, name: np.zeros(shape, np.float32)}, tmp_path / "pieces" / file)  # a stale copy
    assert_same(fx.hf.load(tmp_path / "pieces")[1], params)


@pytest.mark.parametrize("places", [None, {}, ["model"], {"wte.weight": 1}, {"wte.weight": "../model.safetensors"}])
def test_an_index_that_says_no_file_is_refused(places, saved):
    folder, _, _ = saved
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    content = {} if places is None else {"weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has no weight_map from each tensor to a file beside it"):
        fx.hf.load(folder)


@pytest.mark.parametrize("preset", [name for name in fx.sharding.PRESETS if "ep" not in name])
def test_a_checkpoint_is_read_directly_onto_a_mesh(preset, tmp_path):
    spec = fx.zoo.tiny("llama2-70b")
    (layers,) = spec.stack.groups
    spec = replace(spec, stack=replace(spec.stack, groups=(replace(layers, n=4),)))  # which two stages divide
    params = noise(spec)
    fx.hf.save(spec, params, folder := tmp_path / "model")
    rules = fx.sharding.PRESETS[preset]
    mesh = fx.sharding.mesh(",".join(f"{axis}=2" for axis in dict.fromkeys(rules.values())))
    loaded_spec, loaded = fx.hf.load(folder, dtype=jnp.bfloat16, mesh=mesh, rules=rules)
    assert loaded_spec == fx.hf.load(folder)[0]
    expected = fx.sharding.param_shardings(spec, mesh, rules)
    assert jax.tree.map(lambda leaf: leaf.sharding, loaded) == expected
    assert_same(loaded, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params))


def test_a_mesh_that_does_not_fit_a_checkpoint_is_refused(saved):
    folder, _, _ = saved
    rules = fx.sharding.PRESETS["tp"]
    with pytest.raises(ValueError, match="is not divisible by the 7 devices of mesh axis model"):
        fx.hf.load(folder, mesh=fx.sharding.mesh("model=7"), rules=rules)
    with pytest.raises(ValueError, match="give both or neither"):
        fx.hf.load(folder, rules=rules)


# What is not understood is refused in one sentence.


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("gpt2", {"model_type": "bort"}, "model_type='bort'; only gpt2, llama"),
        ("gpt2", {"model_type": None}, "model_type=None; only gpt2, llama"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True; only False"),
        ("gpt2", {"activation_function": "mish"}, "activation_function='mish' is unknown"),
        ("gpt2", {"n_layer": 0}, "n_layer=0, which makes no model; give a whole number from 1 to 1024, such as 12"),
        (
            "gpt2",
            {"n_embd": "wide"},
            "n_embd='wide', which makes no model; give a whole number from 1 to 2147483647, such as 768",
        ),
        ("llama-7b", {"mlp_bias": 1}, "mlp_bias=1, which makes no model; give true or false, such as False"),
        ("llama-7b", {"hidden_act": "silly"}, "hidden_act='silly' is unknown; did you mean 'silu'"),
        ("llama-7b", {"sliding_window": 9}, "sliding_window=9, which changes the logits of other models"),
        ("llama-7b", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("llama-7b", {"num_key_value_heads": 4}, "kv_heads=4 does not divide heads=6"),
        ("llama-7b", {"rope_scaling": {"type": "longrope"}}, "rope_type='longrope'; only default, .*of one list up to"),
        ("llama-7b", {"rope_scaling": {"type": "linear"}}, "rope_type='linear' and no factor"),
        (
            "llama-7b",
            {"rope_scaling": {"type": "linear", "factor": 0.0}},
            "factor=0.0, which makes no model; give a fin",
        ),
        ("llama-7b", {"rope_scaling": {"type": "linear", "factor": "2"}}, "factor='2', which makes no model"),
        ("llama-7b", {"rope_scaling": {"type": "linear", "factor": True}}, "factor=True, which makes no model"),
        ("llama-7b", {"rope_scaling": ["linear"]}, r"rope_scaling=\['linear'\], which makes no model; give an object"),
        (
            "llama-7b",
            {"rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}},
            "low=4.0 is not less than high=4.0",
        ),
        ("llama-7b", {"num_key_value_heads": 0}, "num_key_value_heads=0, which makes no model"),
        ("llama-7b", {"head_dim": 8.0}, "head_dim=8.0, which makes no model; give a whole number"),
        ("llama-7b", {"head_dim": "16"}, "head_dim='16', which makes no model; give a whole number"),
        ("llama-7b", {"rms_norm_eps": -1.0}, "rms_norm_eps=-1.0, which makes no model; give a finite number from 0"),
        ("llama-7b", {"model_type": ["llama"]}, r"model_type=\['llama'\]; only"),
        (
            "mistral-7b",
            {"layer_types": ["full_attention"] * 3},
            "layer_types=.*, which changes the logits of other models",
        ),
        ("mistral-7b", {"sliding_window": 0}, "sliding_window=0, which makes no model; give .*, such as 4096"),
        ("mistral-7b", {"attention_bias": True}, "attention_bias=True; only False"),
        ("mixtral-8x7b", {"num_experts_per_tok": 6}, "k=6 choices among 5 experts"),
        ("gemma2-27b", {"layer_types": ["full_attention"]}, "1 layer_types for num_hidden_layers=4; give as many"),
        ("gemma2-27b", {"layer_types": ["chunked_attention"] * 4}, "'chunked_attention' in layer_types; only"),
        ("gemma2-27b", {"sliding_window": None}, "sliding_window=None; give the window"),
        ("gemma2-27b", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True; only None"),
        ("gemma2-27b", {"hidden_size": 45}, "num_attention_heads=6, which do not divide hidden_size=45"),
        (
            "qwen3-0.6b",
            {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1.5},
            "max_window_layers=1.5, which makes no model",
        ),
        ("gpt-oss-20b", {"swiglu_alpha": 2.0}, "swiglu_alpha=2.0; only 1.702 is supported"),
        (
            "deepseek-v2",
            {"topk_method": "noaux_tc"},
            "topk_method='noaux_tc'; only 'greedy' and 'group_limited_greedy'",
        ),
        ("deepseek-v2", {"n_group": None}, "n_group=None, which makes no model; give a number"),
        ("deepseek-v2", {"n_group": 4}, "groups=4 do not divide experts=9"),
        ("deepseek-v2", {"num_key_value_heads": 3}, "num_key_value_heads=3, but each of 6 heads has its own"),
        ("deepseek-v2", {"moe_layer_freq": 2}, "moe_layer_freq=2; only 1 is supported"),
        ("deepseek-v2", {"scoring_func": "sigmoid"}, "scoring_func='sigmoid'; only 'softmax'"),
        ("deepseek-v3", {"n_shared_experts": 0}, "n_shared_experts=0, which makes no model"),
        ("deepseek-v3", {"mlp_bias": True}, "mlp_bias=True, which changes the logits of other models"),
        ("deepseek-v3.2", {"mlp_layer_types": ["dense", "sparse"]}, "give 4 of 'dense' and 'sparse'"),
        ("deepseek-v3.2", {"layer_types": ["full_attention"] * 4}, "give 4 of 'indexed_attention', or null"),
        ("deepseek-v3.2", {"rope_interleave": False}, "rope_interleave=False; only True"),
        ("deepseek-v3.2", {"q_lora_rank": None}, "q_lora_rank=None, which makes no model"),
    ],
)
def test_a_setting_that_is_not_understood_is_named(name, changes, sentence, tmp_path):
    folder = model(name, tmp_path)
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=sentence):
        fx.hf.load(folder)


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("name", "edit", "sentence"),
    [
        ("gpt2", without("transformer.h.1.ln_1.bias"), "lacks tensor 'transformer.h.1.ln_1.bias'$"),
        (
            "gpt2",
            lambda t: {name: each for name, each in t.items() if ".h." not in name},
            "lacks tensor .* and 35 more",
        ),
        ("gpt2", lambda t: {"transformer.wte.weight": t["transformer.wte.weight"]}, "n_layer=3, .* has 1 tensors;"),
        ("gpt2", lambda t: {**t, "score.weight": np.ones(3, np.float32)}, "unknown tensor 'score.weight'"),
        ("gpt2", lambda t: {**t, "wte.weight": np.ones(3, np.float32)}, "unknown tensor '(transformer.)?wte.weight'"),
        ("llama-7b", without("lm_head.weight"), "lacks tensor 'lm_head.weight'"),
        (
            "llama-7b",
            lambda t: {**t, "model.norm.weight": np.ones(7, np.float32)},
            r"'model.norm.weight' has shape \(7,\); config.json asks for \(48,\)",
        ),
        ("llama-7b", lambda t: {**t, "model.norm.weight": np.ones(48, np.int8)}, "'model.norm.weight' is I8; only"),
        (
            "llama-7b",
            lambda t: {**t, "model.layers.0.self_attn.q_proj.bias": np.ones(48, np.float32)},
            "unknown tensor 'model.layers.0.self_attn.q_proj.bias'",
        ),
        (
            "mixtral-8x7b",
            without("model.layers.2.block_sparse_moe.experts.1.w2.weight"),
            "lacks tensor 'model.layers.2.block_sparse_moe.experts.1.w2.weight'$",
        ),
    ],
)
def test_a_tensor_that_is_not_understood_is_named(name, edit, sentence, tmp_path):
    folder = model(name, tmp_path)
    edit_tensors(folder, edit)
    with pytest.raises(ValueError, match=sentence):
        fx.hf.load(folder)


def test_files_that_cannot_be_read_are_named(saved, tmp_path):
    folder, spec, params = saved
    with pytest.raises(ValueError, match=r"has no config.json"):
        fx.hf.load(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read"):
        fx.hf.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has 0 .safetensors files"):
        fx.hf.load(folder)
    for name in ("a", "b"):
        (folder / f"{name}.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match=r"has 2 .safetensors files and no model.safetensors.index.json"):
        fx.hf.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        fx.hf.load(folder)
    fx.hf.save(spec, params, tmp_path / "pieces", shard=40_000)
    next((tmp_path / "pieces").glob("model-00002*")).unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-\d+.safetensors cannot be read"):
        fx.hf.load(tmp_path / "pieces")


def test_a_dtype_that_is_no_float_is_refused(saved, tmp_path):
    folder, spec, params = saved
    with pytest.raises(ValueError, match="dtype=int8 is no floating type"):
        fx.hf.load(folder, dtype=jnp.int8)
    with pytest.raises(ValueError, match="dtype=int32 is no floating type"):
        fx.hf.save(spec, params, tmp_path / "other", dtype="int32")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (fx.zoo.toy(), "none of gpt2, llama.* has its structure"),
        (fx.zoo.toy(ffn="glu"), "as llama, .* spec.embed.scale would be 1.0, not 8.0"),
        (attention(fx.zoo.tiny("llama-7b"), softcap=30.0), "attention.softcap would be None, not 30.0"),
        (attention(fx.zoo.tiny("llama-7b"), scale=0.5), "attention.scale would be None, not 0.5"),
        (attention(fx.zoo.tiny("llama-7b"), out_bias=True), "attention.out_bias would be False, not True"),
        (
            attention(fx.zoo.tiny("llama-7b"), rotary=Rotary(width=8, scaling=NTK(factor=2.0))),
            "none of gpt2, llama.* has its structure",
        ),
        (attention(fx.zoo.tiny("gpt2"), key_width=6), "as gpt2 .*key_width would be 8, not 6"),
        (attention(fx.zoo.tiny("chatglm-6b"), softcap=3.0), "as chatglm .*softcap would be None, not 3.0"),
        (attention(fx.zoo.tiny("glm-130b"), out_bias=False), "glm-130b .*out_bias would be True, not False"),
        (fx.zoo.tiny("deepseek-v3-mtp"), r"as deepseek_v3 spec.mtp would be None, not MTP\("),
    ],
)
def test_a_spec_that_transformers_cannot_compute_is_refused(spec, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        fx.hf.save(spec, noise(spec), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_parameters_of_another_model_are_refused(saved, tmp_path):
    _, spec, params = saved
    path = tmp_path / "other"
    without_norm = {**params, "stack": {**params["stack"], "final_norm": {}}}
    with pytest.raises(ValueError, match=r"the parameters lack 'stack.final_norm"):
        fx.hf.save(spec, without_norm, path)
    with pytest.raises(ValueError, match=r"the parameters have 'pooler', which the spec has not"):
        fx.hf.save(spec, {**params, "pooler": jnp.ones(3)}, path)
    with pytest.raises(ValueError, match=r"parameter 'embed.table' has shape \(255, \d+\); the spec asks for \(256"):
        fx.hf.save(spec, {**params, "embed": {**params["embed"], "table": params["embed"]["table"][1:]}}, path)
    assert not path.exists()


# A folder appears whole or not at all.


def test_nothing_is_overwritten(saved):
    folder, spec, params = saved
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(FileExistsError, match="exists already; give a new path"):
        fx.hf.save(spec, params, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_save_that_fails_halfway_leaves_nothing(saved, tmp_path, monkeypatch):
    _, spec, params = saved
    written = []

    def fails_at_the_second(content, file, metadata):
        if written:
            raise OSError("disk full")
        written.append(file)
        save_file(content, file, metadata)

    monkeypatch.setattr("safetensors.numpy.save_file", fails_at_the_second)
    (tmp_path / "place").mkdir()
    with pytest.raises(OSError, match="disk full"):
        fx.hf.save(spec, params, tmp_path / "place" / "model", shard=40_000)
    assert written and list((tmp_path / "place").iterdir()) == []


# safetensors is an extra.


def test_the_library_works_without_safetensors(saved):
    code = f"""
import sys
sys.modules["safetensors"] = None
import fxformer as fx
try:
    fx.hf.load({str(saved[0])!r})
except ImportError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "checkpoints need safetensors; install it with: pip install fxformer[hf]\n"
