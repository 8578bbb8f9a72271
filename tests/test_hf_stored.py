"""The same model, stored in the ways that checkpoints are stored in, is read to the same bit."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fxformer as fx
from tests.parity.test_glm import CHATGLM, CHATGLM2, GLM_130B, chatglm2_shapes, checkpoint, shifted_shapes
from tests.parity.test_golden import GOLDEN
from tests.test_hf import assert_same

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """How a family names things. source: a golden checkpoint, or one of WRITTEN_HERE. prefix: of all tensors but heads.

    copies: what stores one tensor twice, {copy: original}. old: ends of names as they were once. buffers: tensors that
    are no parameters, with their shapes.
    """

    source: str
    prefix: str = ""
    copies: dict[str, str] = field(default_factory=dict)
    old: dict[str, str] = field(default_factory=dict)
    buffers: dict[str, tuple[int, ...]] = field(default_factory=dict)


ROTATED = {
    "model.rotary_emb.inv_freq": (4,),
    "model.layers.1.self_attn.rotary_emb.inv_freq": (4,),
    "model.layers.1.self_attn.rotary_emb.cos_cached": (9, 8),
    "model.layers.1.self_attn.rotary_emb.sin_cached": (9, 8),
}
LLAMA = {"prefix": "model.", "buffers": ROTATED}
TIED = {**LLAMA, "copies": {"lm_head.weight": "model.embed_tokens.weight"}}
NORMS = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
SHARED = {f"{name}.weight": "shared.weight" for name in ("lm_head", "encoder.embed_tokens", "decoder.embed_tokens")}
MODELS = {
    "gpt2": Model(
        "gpt2",
        "transformer.",
        {"lm_head.weight": "transformer.wte.weight"},
        buffers={"transformer.h.0.attn.bias": (1, 1, 9, 9), "transformer.h.1.attn.masked_bias": ()},
    ),
    "llama": Model("llama", **LLAMA),
    "llama-tied": Model("llama-tied", **TIED),
    "mistral": Model("mistral-tied", **TIED),
    "mixtral": Model("mixtral", **LLAMA),
    "mixtral-stacked": Model("mixtral-stacked", **LLAMA),
    "qwen3": Model("qwen3", **LLAMA),
    "olmo2": Model("olmo2-tied", **TIED),
    "gemma2": Model("gemma2", **TIED),
    "glm": Model("glm", **LLAMA),
    "gpt_oss": Model("gpt-oss-tied", **TIED),
    "deepseek_v2": Model("deepseek-v2-biases-tied", **TIED),
    "deepseek_v3": Model("deepseek-v3", **LLAMA),
    "deepseek_v32": Model("deepseek-v3.2", **LLAMA),
    "bert": Model(
        "bert-pretraining",
        "bert.",
        {
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
        NORMS,
        {"bert.embeddings.position_ids": (1, 9)},
    ),
    "albert": Model(
        "albert-mlm-groups",
        "albert.",
        {
            "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
            "predictions.decoder.bias": "predictions.bias",
        },
        buffers={"albert.embeddings.position_ids": (1, 9)},
    ),
    "t5": Model("t5", copies=SHARED),
    "switch": Model("switch", copies=SHARED),
    "chatglm": Model(
        "chatglm-6b",
        "transformer.",
        {"lm_head.weight": "transformer.word_embeddings.weight"},
        buffers={"transformer.layers.0.attention.rotary_emb.inv_freq": (4,)},
    ),
    "chatglm2": Model("chatglm2-6b", "transformer.", buffers={"transformer.rotary_pos_emb.inv_freq": (4,)}),
    "glm_130b": Model("glm-130b", "transformer.", buffers={"transformer.layers.0.attention.rotary_emb.inv_freq": (4,)}),
}
# Those that transformers does not write.
WRITTEN_HERE = {
    "chatglm-6b": (CHATGLM, shifted_shapes(1)),
    "chatglm2-6b": (CHATGLM2, chatglm2_shapes(80, 48, bias=False)),
    "glm-130b": (GLM_130B, shifted_shapes(2)),
}


class Plain(NamedTuple):
    """A checkpoint in one file of float32: its model, config.json, tensors, and what is read of it."""

    model: Model
    config: dict[str, Any]
    tensors: Tensors
    spec: fx.model.Transformer
    params: fx.model.Params


def write(folder, config, files, index=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name, tensors in files.items():
        save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, folder / name)
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.fixture(scope="module")
def plain(request, tmp_path_factory):
    """Numbers are multiples of 1/64 below 2, which any float holds exactly."""
    model, folder = MODELS[request.param], tmp_path_factory.mktemp(request.param)
    source = GOLDEN / model.source
    if model.source in WRITTEN_HERE:
        source = folder / "source"
        checkpoint(source, *WRITTEN_HERE[model.source])
    config = json.loads((source / "config.json").read_text())
    tensors = {
        name: (np.round(64 * tensor) / 64).clip(-127 / 64, 127 / 64)
        for name, tensor in load_file(source / "model.safetensors").items()
    }
    spec, params = fx.hf.load(write(folder / "plain", config, {"model.safetensors": tensors}))
    return Plain(model, config, tensors, spec, params)


def one(tensors):
    """All in one file, as usual."""
    return {"model.safetensors": tensors}, None


def halves(tensors):
    """Two files of every other tensor."""
    names = sorted(tensors)
    return [{name: tensors[name] for name in names[start::2]} for start in (0, 1)]


def renamed(tensors, rename):
    return {rename(name): tensor for name, tensor in tensors.items()}


def old_names(model, tensors):
    def rename(name):
        return next((name.removesuffix(new) + old for new, old in model.old.items() if name.endswith(new)), name)

    return one(renamed(tensors, rename))


def bare(model, tensors):
    return one(renamed(tensors, lambda name: name.removeprefix(model.prefix)))


def copies(model, tensors):
    return one({**tensors, **{copy: tensors[original] for copy, original in model.copies.items()}})


def copies_alone(model, tensors):
    by_original = {original: copy for copy, original in model.copies.items()}
    return one(renamed(tensors, lambda name: by_original.get(name, name)))


def buffers(model, tensors):
    return one({**tensors, **{name: np.ones(shape, np.float32) for name, shape in model.buffers.items()}})


def as_dtype(dtype):
    return lambda model, tensors: one({name: tensor.astype(dtype) for name, tensor in tensors.items()})


def dtypes_in_turns(model, tensors):
    turns = ("float32", jnp.bfloat16, "float16", "float64")
    return one({name: tensors[name].astype(turns[i % 4]) for i, name in enumerate(sorted(tensors))})


def shards(model, tensors):
    files = dict(zip(("a.safetensors", "b.safetensors"), halves(tensors), strict=True))
    return files, {name: file for file, content in files.items() for name in content}


def shards_with_a_stale_copy(model, tensors):
    files, index = shards(model, tensors)
    stale = {name: tensor + 1 for name, tensor in files["a.safetensors"].items()}
    return {**files, "b.safetensors": {**stale, **files["b.safetensors"]}}, index


def a_file_and_stale_shards(model, tensors):
    stale, index = shards(model, {name: tensor + 1 for name, tensor in tensors.items()})
    return {**stale, "model.safetensors": tensors}, index


def any_file(model, tensors):
    return {"of any name.safetensors": tensors}, None


Kind = Callable[[Model, Tensors], tuple[dict[str, Tensors], dict[str, str] | None]]
# How a model is stored, and what of it must be there to be stored so.
KINDS: dict[str, tuple[Kind, str | None]] = {
    "names of old": (old_names, "old"),
    "bare names": (bare, "prefix"),
    "copies of what is tied": (copies, "copies"),
    "copies for what is tied": (copies_alone, "copies"),
    "buffers": (buffers, "buffers"),
    "float16": (as_dtype("float16"), None),
    "bfloat16": (as_dtype(jnp.bfloat16), None),
    "float64": (as_dtype("float64"), None),
    "dtypes in turns": (dtypes_in_turns, None),
    "shards": (shards, None),
    "shards and a stale copy": (shards_with_a_stale_copy, None),
    "a file and stale shards": (a_file_and_stale_shards, None),
    "a file of any name": (any_file, None),
}


STORED = [
    (name, kind)
    for name, model in MODELS.items()
    for kind, (_, needed) in KINDS.items()
    if needed is None or getattr(model, needed)
]


@pytest.mark.parametrize(("plain", "kind"), STORED, indirect=["plain"])
def test_a_model_is_the_same_however_it_is_stored(plain, kind, tmp_path):
    store, _ = KINDS[kind]
    files, index = store(plain.model, plain.tensors)
    spec, params = fx.hf.load(write(tmp_path / "model", plain.config, files, index))
    assert spec == plain.spec
    assert_same(params, plain.params)
