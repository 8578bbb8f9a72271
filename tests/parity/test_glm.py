"""Checkpoints by the names of THUDM's code against NumPy: transformers has neither GLM-130B nor the two ChatGLMs."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fxformer as fx
from fxformer.coords import Coords, plain
from tests.parity import numpy_glm

LENGTH, V, D, LAYERS, F, EPS = 9, 83, 48, 3, 28, 1e-3
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, (2, LENGTH))
CONTEXT = np.array([6, 3])  # tokens before the first of the answer
MASK = np.array([2, 1])  # where in the context the answer belongs


def checkpoint(folder, config, shapes):
    """A folder with noise in tensors of these shapes; returns them in float64."""
    folder.mkdir()
    noise = {name: 0.2 * RNG.standard_normal(shape) + ("norm.weight" in name) for name, shape in shapes.items()}
    stored = {name: tensor.astype(np.float32) for name, tensor in noise.items()}
    save_file(stored, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return {name: tensor.astype(np.float64) for name, tensor in stored.items()}


def shifted_shapes(up):
    """The tensors of ChatGLM-6B and GLM-130B, which have one and two matrices before the activation."""
    shapes = {"transformer.word_embeddings.weight": (V, D)}
    norms, linears = ["transformer.final_layernorm"], {}
    for i in range(LAYERS):
        layer = f"transformer.layers.{i}"
        norms += [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"]
        linears |= {
            f"{layer}.attention.query_key_value": (3 * D, D),
            f"{layer}.attention.dense": (D, D),
            f"{layer}.mlp.dense_h_to_4h": (up * F, D),
            f"{layer}.mlp.dense_4h_to_h": (D, F),
        }
    for name in norms:
        shapes |= {f"{name}.weight": (D,), f"{name}.bias": (D,)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def chatglm2_shapes(qkv, mixed, bias):
    """The tensors of ChatGLM2-6B; `bias` on all matrices, else on query, key and value only."""
    shapes = {"transformer.embedding.word_embeddings.weight": (V, D), "transformer.output_layer.weight": (V, D)}
    shapes["transformer.encoder.final_layernorm.weight"] = (D,)
    for i in range(LAYERS):
        layer = f"transformer.encoder.layers.{i}"
        linears = {"self_attention.dense": (D, mixed), "mlp.dense_h_to_4h": (2 * F, D), "mlp.dense_4h_to_h": (D, F)}
        shapes |= {f"{layer}.{norm}.weight": (D,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{layer}.self_attention.query_key_value.weight": (qkv, D)}
        shapes |= {f"{layer}.self_attention.query_key_value.bias": (qkv,)}
        shapes |= {f"{layer}.{name}.weight": shape for name, shape in linears.items()}
        shapes |= {f"{layer}.{name}.bias": shape[:1] for name, shape in linears.items() if bias}
    return shapes


def places(streams):
    """Positions [B, T] or [B, T, 2] and the prefix [B, T]: context counted, the answer where its mask stands."""
    at = np.arange(LENGTH)
    prefix = at < CONTEXT[:, None]
    text = np.where(prefix, at, MASK[:, None])
    answer = np.where(prefix, 0, at - CONTEXT[:, None] + 1)
    return (np.stack([text, answer], -1) if streams == 2 else text), prefix


def coords(pos, prefix):
    index = plain(LENGTH)
    return Coords(index=index.index, segment=index.segment, prefix=jnp.asarray(prefix), pos=jnp.asarray(pos))


def close(spec, params, expected, where=None):
    logits = fx.apply(spec, params, jnp.asarray(TOKENS), coords=where).logits
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


CHATGLM = {
    "architectures": ["ChatGLMModel"], "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "bos_token_id": 80, "eos_token_id": 81, "mask_token_id": 78, "gmask_token_id": 79, "pad_token_id": 3,
    "hidden_size": D, "inner_hidden_size": F, "layernorm_epsilon": EPS, "max_sequence_length": 2048,
    "model_type": "chatglm", "num_attention_heads": 6, "num_layers": LAYERS, "position_encoding_2d": True,
    "torch_dtype": "float16", "transformers_version": "4.23.1", "use_cache": True, "vocab_size": V,
}  # fmt: skip
GLM_130B = {
    "model_type": "glm-130b", "num_layers": LAYERS, "hidden_size": D, "inner_hidden_size": F, "vocab_size": V,
    "num_attention_heads": 6, "max_sequence_length": 2048, "layernorm_order": "post", "layernorm_epsilon": EPS,
}  # fmt: skip
CHATGLM2 = {
    "architectures": ["ChatGLMModel"], "model_type": "chatglm", "add_bias_linear": False, "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True, "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "ffn_hidden_size": F,
    "fp32_residual_connection": False, "hidden_dropout": 0.0, "hidden_size": D, "kv_channels": 8,
    "layernorm_epsilon": EPS, "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 6,
    "num_layers": LAYERS, "original_rope": True, "padded_vocab_size": V, "post_layer_norm": True, "rmsnorm": True,
    "seq_length": 32768, "use_cache": True, "torch_dtype": "float16", "transformers_version": "4.27.1",
    "tie_word_embeddings": False, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "up", "truth", "streams"),
    [(CHATGLM, 1, numpy_glm.chatglm, 2), (GLM_130B, 2, numpy_glm.glm_130b, 1)],
    ids=["chatglm-6b", "glm-130b"],
)
def test_a_prefix_decoder_says_what_numpy_says_and_saves_under_the_same_names(config, up, truth, streams, tmp_path):
    tensors = checkpoint(tmp_path / "theirs", config, shifted_shapes(up))
    pos, prefix = places(streams)
    sizes = {"layers": LAYERS, "heads": 6, "eps": EPS}
    expected = [truth(tensors, TOKENS[b], pos[b], prefix[b], **sizes) for b in range(2)]
    spec, params = fx.hf.load(tmp_path / "theirs")
    close(spec, params, expected, coords(pos, prefix))
    fx.hf.save(spec, params, tmp_path / "ours")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)


@pytest.mark.parametrize(("bias", "channels"), [(False, 8), (True, 12)])
def test_chatglm2_says_what_numpy_says(bias, channels, tmp_path):
    config = {**CHATGLM2, "kv_channels": channels, "add_bias_linear": bias}
    tensors = checkpoint(tmp_path / "theirs", config, chatglm2_shapes(10 * channels, 6 * channels, bias))
    sizes = {"layers": LAYERS, "heads": 6, "groups": 2, "channels": channels, "eps": EPS}
    expected = [numpy_glm.chatglm2(tensors, TOKENS[b], **sizes) for b in range(2)]
    spec, params = fx.hf.load(tmp_path / "theirs")
    close(spec, params, expected)
    fx.hf.save(spec, params, tmp_path / "ours")
    # transformers has this structure as GLM-4, under other names; with biases everywhere only ChatGLM2 has it.
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["model_type"] == ("chatglm" if bias else "glm")
    if bias:
        ours = load_file(tmp_path / "ours" / "model.safetensors")
        assert ours.keys() == tensors.keys()
        for name, tensor in load_file(tmp_path / "theirs" / "model.safetensors").items():
            np.testing.assert_array_equal(ours[name], tensor)
    close(*fx.hf.load(tmp_path / "ours"), expected)


@pytest.mark.parametrize(
    ("said", "changed"),
    [
        ({"_name_or_path": "THUDM/chatglm2-6b-32k"}, {"divisor": 50}),
        ({"_name_or_path": "THUDM/chatglm3-6b-32k"}, {"base": 500_000.0}),
        ({}, {"base": 500_000.0}),
    ],
    ids=["chatglm2-6b-32k", "chatglm3-6b-32k", "nameless"],
)
def test_the_ratio_of_long_texts_is_what_the_code_of_its_generation_makes_of_it(said, changed, tmp_path):
    tensors = checkpoint(tmp_path / "theirs", {**CHATGLM2, **said, "rope_ratio": 50}, chatglm2_shapes(80, 48, False))
    sizes = {"layers": LAYERS, "heads": 6, "groups": 2, "channels": 8, "eps": EPS}
    close(
        *fx.hf.load(tmp_path / "theirs"), [numpy_glm.chatglm2(tensors, TOKENS[b], **sizes, **changed) for b in range(2)]
    )


def test_buffers_and_a_tied_head_in_the_files_are_read_past(tmp_path):
    shapes = {
        **shifted_shapes(1),
        "lm_head.weight": (V, D),
        "transformer.layers.1.attention.rotary_emb.inv_freq": (2,),
    }
    checkpoint(tmp_path / "theirs", CHATGLM, shapes)
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    own = fx.hf.load(tmp_path / "theirs")[1]["head"]["out"]["weight"]
    np.testing.assert_array_equal(own, tensors["lm_head.weight"].T)
    tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"]
    save_file(tensors, tmp_path / "theirs" / "model.safetensors")
    params = fx.hf.load(tmp_path / "theirs")[1]
    assert "head" not in params
    np.testing.assert_array_equal(params["embed"]["table"], tensors["lm_head.weight"])


@pytest.mark.parametrize(
    ("config", "shapes", "changes", "sentence"),
    [
        (CHATGLM, shifted_shapes(1), {"position_encoding_2d": False}, "position_encoding_2d=False; only True"),
        (CHATGLM, shifted_shapes(1), {"pre_seq_len": 64}, "pre_seq_len=64; only None"),
        (CHATGLM, shifted_shapes(1), {"quantization_bit": 4}, "quantization_bit=4; only 0"),
        (GLM_130B, shifted_shapes(2), {"layernorm_order": "sandwich"}, "layernorm_order='sandwich'; only 'post'"),
        (CHATGLM2, chatglm2_shapes(80, 48, False), {"multi_query_attention": False}, "attention=False; only True"),
        (CHATGLM2, chatglm2_shapes(80, 48, False), {"rmsnorm": False}, "rmsnorm=False; only True"),
        (CHATGLM2, chatglm2_shapes(80, 48, False), {"rope_ratio": 0}, "rope_ratio=0, which makes no model"),
        (CHATGLM2, chatglm2_shapes(80, 48, False), {"multi_query_group_num": 4}, "kv_heads=4 does not divide heads=6"),
    ],
)
def test_a_setting_that_is_not_understood_is_named(config, shapes, changes, sentence, tmp_path):
    checkpoint(tmp_path / "theirs", {**config, **changes}, shapes)
    with pytest.raises(ValueError, match=sentence):
        fx.hf.load(tmp_path / "theirs")
