"""Checkpoints of BERT, ALBERT, T5 and Switch Transformers: what is written reads back, what is not theirs refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.hf.families import FAMILIES, difference
from fxformer.hf.family import settings
from fxformer.layers.head import Bare, Pooler, Untied
from tests.parity.test_golden import GOLDEN
from tests.test_hf import assert_same, edit_config, edit_tensors, noise, without

TITLES = ("BERT", "ALBERT", "T5", "T5 v1.1")
ZOO = [name for name in fx.zoo.names() if fx.zoo.family_of(name).title in TITLES]
SWITCHES = ("switch", "switch-all-sparse-bias", "switch-untied")


@pytest.fixture
def saved(request, tmp_path):
    """The folder of a saved tiny model, and its parameters."""
    spec = fx.zoo.tiny(request.param)
    params = noise(spec)
    fx.hf.save(spec, params, tmp_path / "model")
    return tmp_path / "model", params


def of_name(*names):
    return pytest.mark.parametrize("saved", names, indirect=True)


# What is written reads back.


@pytest.mark.parametrize("shard", [10**9, 20_000])
@pytest.mark.parametrize("name", ZOO)
def test_load_of_save_computes_the_same_with_the_same_parameters(name, shard, tmp_path):
    spec = fx.zoo.tiny(name)
    params = noise(spec)
    fx.hf.save(spec, params, tmp_path / "model", shard=shard)
    read_spec, read_params = fx.hf.load(tmp_path / "model")
    assert difference(read_spec, spec) is None
    assert_same(read_params, params)


@pytest.mark.parametrize("name", SWITCHES)
def test_sparse_blocks_stay_where_they_were(name, tmp_path):
    spec, params = fx.hf.load(GOLDEN / name)
    fx.hf.save(spec, params, tmp_path / "model")
    read_spec, read_params = fx.hf.load(tmp_path / "model")
    assert read_spec == spec
    assert_same(read_params, params)


def test_albert_spreads_its_layers_over_its_groups():
    family = FAMILIES["albert"]
    spec = family.read(settings(family, {"num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 3}))
    assert [(group.n, len(group.blocks), group.tied) for group in spec.stack.groups] == [(3, 3, True), (2, 3, True)]


@pytest.mark.parametrize(
    ("config", "encoder", "decoder"),
    [
        ({}, ".s...s...s..", ".s...s...s.."),
        ({"num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 12}, ".s.s.s.s.s.s", "ssssssssssss"),
        ({"num_sparse_encoder_layers": 0, "num_sparse_decoder_layers": 13}, ".s..........", "............"),
        ({"encoder_sparse_step": 0, "decoder_sparse_step": 5}, "............", ".s....s....s"),
    ],
)
def test_switch_blocks_are_sparse_where_transformers_makes_them_so(config, encoder, decoder):
    family = FAMILIES["switch_transformers"]
    spec = family.read(settings(family, config))

    def pattern(stack):
        kinds = [type(block.ffn).__name__ for group in stack.groups for block in group.blocks * group.n]
        return "".join("s" if kind == "MoE" else "." for kind in kinds)

    assert [pattern(spec.encoder), pattern(spec.stack)] == [encoder, decoder]


# What is stored decides what is read.


@of_name("bert-base-pretraining")
def test_heads_beside_those_of_the_architecture_are_read_too(saved):
    folder, params = saved
    edit_config(folder, architectures=["BertForMaskedLM"])
    spec, read = fx.hf.load(folder)
    assert spec.pooler.labels == 2
    assert_same(read, params)
    edit_tensors(folder, lambda t: {name: value for name, value in t.items() if "seq_relationship" not in name})
    spec, read = fx.hf.load(folder)
    assert spec.pooler == Pooler(init=spec.pooler.init)
    assert_same(read["pooler"], {"pool": params["pooler"]["pool"]})


@of_name("bert-base-pretraining")
def test_the_bare_encoder_of_an_old_writer_reads_the_same(saved):
    folder, params = saved
    edit_config(folder, architectures=["BertModel"])

    def old(tensors):
        bare = {name.removeprefix("bert."): value for name, value in tensors.items() if name.startswith("bert.")}
        named = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in bare.items()
        }
        return {**named, "embeddings.position_ids": np.arange(96)[None]}

    edit_tensors(folder, old)
    spec, read = fx.hf.load(folder)
    assert spec.head == Bare() and spec.pooler.labels == 0
    assert_same(
        read, {**{key: params[key] for key in ("embed", "stack")}, "pooler": {"pool": params["pooler"]["pool"]}}
    )


@of_name("bert-base-mlm")
def test_a_stored_copy_of_a_bias_must_be_one(saved):
    folder, params = saved
    bias = np.asarray(params["head"]["bias"])
    edit_tensors(folder, lambda tensors: {**tensors, "cls.predictions.decoder.bias": bias})
    assert_same(fx.hf.load(folder)[1], params)
    edit_tensors(folder, lambda tensors: {**tensors, "cls.predictions.decoder.bias": bias + 1})
    with pytest.raises(ValueError, match=r"'cls.predictions.decoder.bias' differs from 'cls.predictions.bias'"):
        fx.hf.load(folder)


@of_name("bert-base-mlm")
def test_a_matrix_of_its_own_leaves_the_bias_tied(saved):
    """As transformers 5 does, tensor by tensor."""
    folder, params = saved
    table = np.asarray(params["embed"]["table"])
    edit_tensors(folder, lambda tensors: {**tensors, "cls.predictions.decoder.weight": 2 * table})
    _, read = fx.hf.load(folder)
    assert_same(read["head"]["readout"]["out"]["weight"], 2 * table.T)
    assert_same(read["head"]["bias"], params["head"]["bias"])


@of_name("t5-small")
def test_the_shared_table_is_read_by_any_of_its_names(saved):
    folder, params = saved

    def renamed(tensors):
        table = tensors.pop("shared.weight")
        return {**tensors, "decoder.embed_tokens.weight": table, "lm_head.weight": table}

    edit_tensors(folder, renamed)
    assert_same(fx.hf.load(folder)[1], params)
    edit_tensors(folder, lambda t: {**t, "encoder.embed_tokens.weight": 2 * t["lm_head.weight"]})
    with pytest.raises(ValueError, match=r"_tokens.weight' differs from '\w+.*weight'; only a copy of it is supported"):
        fx.hf.load(folder)


@pytest.mark.parametrize("stored", ["encoder", "decoder", "both"])
@pytest.mark.parametrize("name", ["t5-untied-scaled", "t5-gated-untied", "switch-untied"])
def test_the_shared_table_is_read_by_its_other_names_beside_a_head_of_its_own(name, stored, tmp_path):
    """As MADLAD-400 is stored, of which no tensor is named shared.weight."""
    spec, params = fx.hf.load(GOLDEN / name)
    fx.hf.save(spec, params, tmp_path / "model")
    sides = ("encoder", "decoder") if stored == "both" else (stored,)

    def renamed(tensors):
        copies = {f"{side}.embed_tokens.weight": tensors["shared.weight"] for side in sides}
        left = {key: value for key, value in tensors.items() if "embed_tokens" not in key and key != "shared.weight"}
        return {**left, **copies}

    edit_tensors(tmp_path / "model", renamed)
    read_spec, read_params = fx.hf.load(tmp_path / "model")
    assert read_spec == spec and type(spec.head) is Untied
    assert_same(read_params, params)


@of_name("t5-small")
def test_a_head_that_differs_from_the_table_is_a_head_of_its_own(saved):
    folder, _ = saved
    tokens = jnp.arange(7)[None]
    before = fx.apply(*fx.hf.load(folder), tokens, encoder_tokens=tokens).logits
    edit_tensors(folder, lambda tensors: {**tensors, "lm_head.weight": -tensors["shared.weight"]})
    after = fx.apply(*fx.hf.load(folder), tokens, encoder_tokens=tokens).logits
    np.testing.assert_allclose(after, -before, rtol=1e-5, atol=1e-5)


@of_name("t5-v1.1-small")
def test_transformers_4_scales_by_whether_the_head_is_tied(saved):
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    for stated, scale in ((False, 1.0), (True, 1 / np.sqrt(40))):
        del config["scale_decoder_outputs"]
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": stated}))
        assert fx.hf.load(folder)[0].head.scale == pytest.approx(scale, rel=1e-12)
        config = {**config, "scale_decoder_outputs": None}


# What is not theirs is refused.


@pytest.mark.parametrize(
    ("saved", "changes", "sentence"),
    [
        ("bert-base", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'; only 'abs"),
        ("bert-base", {"num_attention_heads": 7}, "num_attention_heads=7, which does not divide hidden_size=40"),
        ("bert-base", {"hidden_act": "mish"}, "hidden_act='mish' is unknown"),
        ("albert-base", {"num_hidden_groups": 4}, "num_hidden_groups=4, more than num_hidden_layers=3"),
        ("t5-small", {"is_encoder_decoder": False}, "is_encoder_decoder=False; only True"),
        ("t5-small", {"feed_forward_proj": "glu-relu"}, "feed_forward_proj='glu-relu'; use an activation, or gated-"),
        ("t5-small", {"relative_attention_max_distance": 7}, "16 buckets for distances up to 7"),
    ],
    indirect=["saved"],
)
def test_a_setting_that_is_not_understood_is_named(saved, changes, sentence):
    edit_config(saved[0], **changes)
    with pytest.raises(ValueError, match=sentence):
        fx.hf.load(saved[0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"router_dtype": "bfloat16"},
            "router_dtype='bfloat16'; only 'float32' is supported: in another one the router rounds",
        ),
        ({"encoder_sparse_step": -1}, "encoder_sparse_step=-1, which makes no model; give a whole number from 0"),
        ({"expert_capacity": 0}, "expert_capacity=0, which makes no model; give .*, such as 64"),
    ],
)
def test_a_switch_setting_that_is_not_understood_is_named(changes, sentence):
    family = FAMILIES["switch_transformers"]
    with pytest.raises(ValueError, match=sentence):
        family.read(settings(family, changes))


@pytest.mark.parametrize(
    ("saved", "edit", "sentence"),
    [
        ("bert-base", without("bert.pooler.dense.bias"), "lacks tensor 'bert.pooler.dense.bias'$"),
        ("bert-base", lambda t: {**t, "classifier.weight": np.ones(3, np.float32)}, "lacks tensor 'classifier.bias'"),
        (
            "t5-small",
            without("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
            "lacks tensor 'd",
        ),
    ],
    indirect=["saved"],
)
def test_a_tensor_that_is_not_understood_is_named(saved, edit, sentence):
    edit_tensors(saved[0], edit)
    with pytest.raises(ValueError, match=sentence):
        fx.hf.load(saved[0])


def test_a_missing_expert_is_named(tmp_path):
    spec, params = fx.hf.load(GOLDEN / "switch")
    fx.hf.save(spec, params, tmp_path / "model")
    edit_tensors(tmp_path / "model", without("encoder.block.1.layer.1.mlp.experts.expert_4.wo.weight"))
    with pytest.raises(ValueError, match=r"lacks tensor 'encoder.block.1.layer.1.mlp.experts.expert_4.wo.weight'$"):
        fx.hf.load(tmp_path / "model")


def test_experts_with_a_share_of_the_tokens_are_no_model_of_transformers(tmp_path):
    spec = fx.zoo.tiny("switch-base-8")
    with pytest.raises(ValueError, match=r"as switch_transformers .*dispatch.factor would be 0.0, not 5.0"):
        fx.hf.save(spec, noise(spec), tmp_path / "model")
