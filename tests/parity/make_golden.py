"""Golden files from the real classes of Hugging Face transformers; torch needs an environment of its own.

    python -m tests.parity.make_golden [NAME…]            remake tests/parity/golden, or a part of it
    python -m tests.parity.make_golden --check [NAME…]    let transformers load what `fx.hf.save` writes, and compare

A variant of a config is one line of MODELS. No two axes of a model are equal, so that no transpose goes unseen.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    BertConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    DeepseekV32Config,
    Gemma2Config,
    GenerationConfig,
    GlmConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    NllbMoeConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    SwitchTransformersConfig,
    T5Config,
)
from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeTop2Router

import fxformer as fx
from tests.parity.say import apart, reading, say

GOLDEN = Path(__file__).parent / "golden"
BEAMS = Path(__file__).parent / "beams"
ROUTER = Path(__file__).parent / "routers" / "nllb_moe.safetensors"
BATCH, LENGTH, PROMPT, NEW = 3, 11, 7, 20
START = 0  # the token that a decoder with an encoder starts from
TOLERANCE = 1e-5  # of the largest logit
# What encoders call what they say, and what we do.
NAMES = {"prediction_logits": "logits", "seq_relationship_logits": "labels", "sop_logits": "labels"}
NAMES |= {"logits": "logits", "pooler_output": "pooled"}

GPT2 = {
    "vocab_size": 97,
    "n_positions": 37,
    "n_embd": 30,
    "n_head": 5,
    "n_layer": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
}
RELATIVE = {
    "vocab_size": 61,
    "hidden_size": 30,
    "intermediate_size": 22,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
MIXTURE = {**RELATIVE, "hidden_size": 28, "intermediate_size": 12, "num_local_experts": 5, "num_experts_per_tok": 3}
LAYER_TYPES = ["full_attention", "sliding_attention", "sliding_attention"]
LLAMA3 = {"factor": 8.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_theta": 10.0, "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 4.0}
FRACTIONAL = {"rope_type": "yarn", **YARN, "rope_theta": 50.0, "truncate": False}
LINEAR = {"rope_type": "linear", "factor": 2.5}

BERT = {
    "vocab_size": 97,
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 28,
    "max_position_embeddings": 37,
    "type_vocab_size": 3,
}
ALBERT = {**BERT, "hidden_size": 24, "num_attention_heads": 4, "embedding_size": 14, "num_hidden_layers": 3}
T5 = {
    "vocab_size": 53,
    "d_model": 18,
    "d_kv": 4,
    "d_ff": 14,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 5,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}
SWITCH = {**T5, "d_ff": 9, "num_experts": 6, "expert_capacity": 3}
DEEPSEEK = {
    "vocab_size": 61,
    "hidden_size": 18,
    "intermediate_size": 34,
    "moe_intermediate_size": 11,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "q_lora_rank": 20,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 4,
    "v_head_dim": 7,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
PATTERN = {
    "intermediate_size": 26,
    "moe_intermediate_size": 6,
    "num_hidden_layers": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
}
GROUPS = {"n_group": 4, "topk_group": 2}
INDEX = {"index_n_heads": 13, "index_head_dim": 11, "index_topk": 4}
STRETCHED = {"rope_type": "yarn", "rope_theta": 50.0, "factor": 40.0, "original_max_position_embeddings": 16}
BOTH = {"mscale": 0.707, "mscale_all_dim": 0.707}

MODELS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(**GPT2),
    "gpt2-deep": GPT2Config(**{**GPT2, "n_embd": 24, "n_head": 6, "n_layer": 5}),
    "gpt2-untied": GPT2Config(**GPT2, tie_word_embeddings=False),
    "gpt2-inner-relu": GPT2Config(**GPT2, n_inner=52, activation_function="relu", layer_norm_epsilon=1e-2),
    "gpt2-unscaled": GPT2Config(**GPT2, scale_attn_weights=False),
    "gpt2-by-layer": GPT2Config(**{**GPT2, "n_layer": 3}, scale_attn_by_inverse_layer_idx=True),
    "llama": LlamaConfig(**LLAMA),
    "llama-tied": LlamaConfig(**LLAMA, tie_word_embeddings=True, rms_norm_eps=1e-2),
    "llama-multi-head": LlamaConfig(**{**LLAMA, "num_key_value_heads": 8}),
    "llama-multi-query": LlamaConfig(**{**LLAMA, "num_key_value_heads": 1}),
    "llama-head-width": LlamaConfig(**{**LLAMA, "hidden_size": 40}, head_dim=6),
    "llama-biases": LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
    "llama-theta": LlamaConfig(**LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama-linear": LlamaConfig(**LLAMA, rope_parameters={"rope_type": "linear", "factor": 2.5}),
    # Longer than a prompt, so that transformers forgets what it read before.
    "llama-dynamic": LlamaConfig(
        **{**LLAMA, "max_position_embeddings": 8}, rope_parameters={"rope_type": "dynamic", "factor": 2.5}
    ),
    "llama-llama3": LlamaConfig(**LLAMA, rope_parameters={"rope_type": "llama3", **LLAMA3}),
    "llama-yarn": LlamaConfig(**LLAMA, rope_parameters={"rope_type": "yarn", **YARN}),
    "llama-yarn-mscale": LlamaConfig(
        **LLAMA, rope_parameters={"rope_type": "yarn", **YARN, "mscale": 1.5, "mscale_all_dim": 0.7}
    ),
    "mistral": MistralConfig(**RELATIVE, head_dim=8, sliding_window=5),
    "mistral-tied": MistralConfig(
        **RELATIVE, head_dim=10, sliding_window=None, tie_word_embeddings=True, rope_parameters=FRACTIONAL
    ),
    "mixtral": MixtralConfig(**MIXTURE, head_dim=8),
    "mixtral-stacked": MixtralConfig(
        **{**MIXTURE, "num_local_experts": 3, "num_experts_per_tok": 1},
        head_dim=10,
        sliding_window=4,
        tie_word_embeddings=True,
        hidden_act="gelu",
        rope_parameters=LINEAR,
    ),
    "qwen3": Qwen3Config(**RELATIVE, head_dim=8),
    "qwen3-windows": Qwen3Config(
        **{**RELATIVE, "num_hidden_layers": 3},
        head_dim=10,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
        attention_bias=True,
        tie_word_embeddings=True,
    ),
    "olmo2": Olmo2Config(**{**RELATIVE, "hidden_size": 36}),
    "olmo2-tied": Olmo2Config(
        **{**RELATIVE, "num_key_value_heads": 6},
        head_dim=8,
        attention_bias=True,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "llama3", **LLAMA3},
    ),
    "gemma2": Gemma2Config(
        **{**RELATIVE, "num_hidden_layers": 3}, head_dim=8, query_pre_attn_scalar=14, sliding_window=5
    ),
    "gemma2-untied": Gemma2Config(
        **{**RELATIVE, "num_hidden_layers": 3, "intermediate_size": 16},
        head_dim=10,
        query_pre_attn_scalar=10,
        sliding_window=4,
        layer_types=LAYER_TYPES,
        attn_logit_softcapping=None,
        final_logit_softcapping=2.0,
        attention_bias=True,
        tie_word_embeddings=False,
        rope_parameters=LINEAR,
    ),
    "glm": GlmConfig(**RELATIVE, head_dim=8),
    "glm-yarn": GlmConfig(
        **RELATIVE,
        head_dim=16,
        partial_rotary_factor=0.75,
        attention_bias=False,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "yarn", **YARN},
    ),
    "gpt-oss": GptOssConfig(**MIXTURE, head_dim=8, sliding_window=5),
    "gpt-oss-tied": GptOssConfig(
        **{**MIXTURE, "num_hidden_layers": 3, "intermediate_size": 9, "num_local_experts": 3, "num_experts_per_tok": 1},
        head_dim=10,
        sliding_window=4,
        layer_types=LAYER_TYPES,
        swiglu_limit=0.5,
        attention_bias=False,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    ),
    "bert": BertConfig(**BERT, architectures=["BertModel"]),
    "bert-mlm-relu": BertConfig(**BERT, architectures=["BertForMaskedLM"], hidden_act="relu", layer_norm_eps=1e-2),
    "bert-mlm-untied": BertConfig(**BERT, architectures=["BertForMaskedLM"], tie_word_embeddings=False),
    "bert-pretraining": BertConfig(**BERT, architectures=["BertForPreTraining"]),
    "albert": AlbertConfig(**ALBERT, architectures=["AlbertModel"]),
    "albert-mlm-groups": AlbertConfig(
        **ALBERT, architectures=["AlbertForMaskedLM"], num_hidden_groups=2, inner_group_num=2
    ),
    "albert-pretraining-untied": AlbertConfig(
        **ALBERT, architectures=["AlbertForPreTraining"], tie_word_embeddings=False
    ),
    "albert-pretraining-labels": AlbertConfig(
        **ALBERT, architectures=["AlbertForPreTraining"], hidden_act="gelu", num_labels=4
    ),
    "t5": T5Config(**T5),
    "t5-gated-untied": T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5-gated-unscaled": T5Config(**T5, feed_forward_proj="gated-silu", scale_decoder_outputs=False),
    "t5-untied-scaled": T5Config(**T5, layer_norm_epsilon=1e-2),
    "switch": SwitchTransformersConfig(**SWITCH, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1),
    "switch-all-sparse-bias": SwitchTransformersConfig(
        **SWITCH, num_sparse_encoder_layers=3, num_sparse_decoder_layers=5, router_bias=True
    ),
    "switch-untied": SwitchTransformersConfig(
        **SWITCH, num_sparse_encoder_layers=0, num_sparse_decoder_layers=2, tie_word_embeddings=False
    ),
    "deepseek-v2": DeepseekV2Config(
        **DEEPSEEK,
        **GROUPS,
        topk_method="group_limited_greedy",
        routed_scaling_factor=16.0,
        rope_parameters={**STRETCHED, **BOTH},
    ),
    "deepseek-v2-lite": DeepseekV2Config(
        **{**DEEPSEEK, "q_lora_rank": None, "num_hidden_layers": 3, "n_routed_experts": 6}
    ),
    "deepseek-v2-biases-tied": DeepseekV2Config(
        **DEEPSEEK, attention_bias=True, mlp_bias=True, hidden_act="gelu", tie_word_embeddings=True
    ),
    "deepseek-v3": DeepseekV3Config(**DEEPSEEK, **GROUPS, rope_parameters={**STRETCHED, **BOTH}),
    "deepseek-v3-half-bare": DeepseekV3Config(
        **{**DEEPSEEK, "q_lora_rank": None, "n_shared_experts": 1, "first_k_dense_replace": 0},
        **{"n_group": 1, "topk_group": 1},
        rope_interleave=False,
        norm_topk_prob=False,
        rms_norm_eps=1e-2,
    ),
    "deepseek-v3-mscales": DeepseekV3Config(
        **DEEPSEEK, **GROUPS, attention_bias=True, rope_parameters={**STRETCHED, "mscale": 1.3, "mscale_all_dim": 0.5}
    ),
    "deepseek-v3.2": DeepseekV32Config(**DEEPSEEK, **GROUPS, **INDEX, rope_parameters={**STRETCHED, **BOTH}),
    "deepseek-v3.2-pattern": DeepseekV32Config(
        **{**DEEPSEEK, **PATTERN, **INDEX, "index_n_heads": 5, "index_topk": 64},
        **{"n_group": 2, "topk_group": 1},
        mlp_layer_types=["sparse", "dense", "sparse", "dense"],
        rope_parameters=STRETCHED,
    ),
}
MODELS["deepseek-v3-stacked"] = MODELS["deepseek-v3"]
# Models without a head over tokens.
MODELS |= {
    "bert-decoder": BertConfig(**BERT, architectures=["BertLMHeadModel"], is_decoder=True),
    "bert-text-labels": BertConfig(**BERT, architectures=["BertForSequenceClassification"], num_labels=4),
    "bert-token-labels": BertConfig(**BERT, architectures=["BertForTokenClassification"], num_labels=6),
    "bert-span": BertConfig(**BERT, architectures=["BertForQuestionAnswering"]),
    "albert-text-labels": AlbertConfig(**ALBERT, architectures=["AlbertForSequenceClassification"], num_labels=7),
    "albert-span": AlbertConfig(**ALBERT, architectures=["AlbertForQuestionAnswering"]),
    "gpt2-token-labels": GPT2Config(**GPT2, architectures=["GPT2ForTokenClassification"], num_labels=3),
    "llama-bare": LlamaConfig(**LLAMA, architectures=["LlamaModel"]),
    "llama-token-labels": LlamaConfig(**LLAMA, architectures=["LlamaForTokenClassification"], num_labels=5),
    "qwen3-text-labels": Qwen3Config(
        **RELATIVE, head_dim=8, architectures=["Qwen3ForSequenceClassification"], num_labels=3
    ),
    "t5-encoder": T5Config(**T5, architectures=["T5EncoderModel"], is_encoder_decoder=False),
}
SHARDED = {"llama-biases": "40KB"}
STACKED = ("mixtral-stacked", "deepseek-v3-stacked")  # the experts of a layer in one tensor, as at runtime
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager", "dtype": torch.float32}
UNTIED = ("t5-gated-untied", "t5-untied-scaled", "switch-untied")  # a head of its own, and one embedding
STOPS = {"gpt2": [30], "t5-gated-untied": [14, 44]}  # beams of these models end at different lengths
PENALTIES = (1.0, 0.0, -1.0)  # powers of the length that scores are divided by
WIDTH = 3  # beams
ZOO = (
    *("gpt2", "llama-7b", "llama2-7b", "llama2-70b", "mistral-7b", "mixtral-8x7b", "qwen3-0.6b"),
    *("olmo2-32b", "gemma2-27b", "gpt-oss-20b"),
    *("bert-base", "bert-base-mlm", "bert-base-pretraining", "albert-base", "albert-base-pretraining"),
    *("t5-small", "t5-v1.1-small"),
    *("deepseek-v2-lite", "deepseek-v2", "deepseek-v3", "deepseek-v3.2"),
)


def class_of(config: PreTrainedConfig) -> type:
    """The class that makes models of a config; an auto class where the config does not say one."""
    if config.architectures:
        return getattr(transformers, config.architectures[0])
    return transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def build(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    """A model in which no parameter, bias or gain has its initial value."""
    torch.manual_seed(0)
    make = class_of(config)._from_config if config.architectures else class_of(config).from_config
    model = make(config, **EAGER).eval()
    with torch.no_grad():
        if name in UNTIED:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
            model.encoder.embed_tokens.weight = model.decoder.embed_tokens.weight = model.shared.weight
        learned = [buffer for name, buffer in model.named_buffers() if name.endswith("e_score_correction_bias")]
        for parameter in (*model.parameters(), *learned):
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs_of(config: PreTrainedConfig) -> dict[str, np.ndarray]:
    """Tokens [BATCH, LENGTH]; for encoders types and which tokens are no padding, for pairs what the encoder reads."""
    random = np.random.default_rng(0)
    inputs = {"tokens": random.integers(0, config.vocab_size, (BATCH, LENGTH), dtype=np.int32)}
    ends = np.array([[LENGTH + 2], [LENGTH - 3], [4]])
    if config.is_encoder_decoder:
        read = random.integers(0, config.vocab_size, (BATCH, LENGTH + 2), dtype=np.int32)
        inputs |= {"encoder_tokens": read, "encoder_valid": np.arange(LENGTH + 2) < ends}
    elif config.model_type in ("bert", "albert"):
        types = random.integers(0, config.type_vocab_size, (BATCH, LENGTH), dtype=np.int32)
        inputs |= {"types": types, "valid": np.arange(LENGTH) < ends}
    elif config.architectures == ["T5EncoderModel"]:
        inputs |= {"valid": np.arange(LENGTH) < ends}
    return inputs


@torch.no_grad()
def answers(model: PreTrainedModel, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model says: logits, the stream after each layer, and what its kind says besides."""
    given = {key: torch.from_numpy(value) for key, value in inputs.items()}
    ids = given["tokens"].long()
    if "encoder_tokens" in given:
        out = model(**prompt_of(given), decoder_input_ids=ids, output_hidden_states=True)
        hidden, said = out.decoder_hidden_states, {"logits": out.logits, "memory": out.encoder_last_hidden_state}
        said["generated"] = greedy(model, given)
    elif "valid" in given:
        types = {"token_type_ids": given["types"].long()} if "types" in given else {}
        out = model(ids, attention_mask=given["valid"].long(), **types, output_hidden_states=True)
        hidden, said = out.hidden_states, {NAMES[key]: value for key, value in out.items() if key in NAMES}
        if "start_logits" in out:
            said["logits"] = torch.stack([out.start_logits, out.end_logits], dim=-1)
        if "logits" in said and said["logits"].ndim == 2:
            said["labels"] = said.pop("logits")
    elif not model.can_generate():
        rows = [model(row[None], output_hidden_states=True) for row in ids]  # those of a text want no padding
        hidden = [torch.cat(layer) for layer in zip(*(out.hidden_states for out in rows), strict=True)]
        logits = torch.cat([out.logits for out in rows]) if "logits" in rows[0] else None
        said = {} if logits is None else {"at_last" if logits.ndim == 2 else "logits": logits}
    else:
        out = model(ids, labels=ids, output_hidden_states=True)
        hidden, said = out.hidden_states, {"logits": out.logits, "loss": out.loss, "generated": greedy(model, given)}
    said |= {"hidden": torch.stack(hidden), "last": hidden[-1]}
    return {key: value.numpy() for key, value in said.items()}


def greedy(model: PreTrainedModel, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """The most likely continuation by NEW tokens, whatever they are, of the first PROMPT tokens or of START."""
    model.generation_config = GenerationConfig(pad_token_id=0, decoder_start_token_id=START)
    return model.generate(**prompt_of(given), max_new_tokens=NEW).int()


def searched(model: PreTrainedModel, inputs: dict[str, np.ndarray], stop: list[int]) -> dict[str, np.ndarray]:
    """Beam search from the same prompts, until no row can get better: for each penalty text [B, K, T + N] and scores.

    `stop` ends a hypothesis, and its first token stands behind the end.
    """
    model.generation_config = GenerationConfig(
        eos_token_id=stop, pad_token_id=stop[0], decoder_start_token_id=START, early_stopping="never", num_beams=WIDTH
    )
    model.generation_config.num_return_sequences = WIDTH
    prompt = prompt_of({key: torch.from_numpy(value) for key, value in inputs.items()})
    said = {}
    for penalty in PENALTIES:
        out = model.generate(
            **prompt, max_new_tokens=NEW, length_penalty=penalty, return_dict_in_generate=True, output_scores=True
        )
        text = out.sequences.numpy().astype(np.int32).reshape(BATCH, WIDTH, -1)
        start = 1 if "encoder_tokens" in inputs else PROMPT
        missing = start + NEW - text.shape[-1]  # cut behind the longest
        said[f"text {penalty}"] = np.pad(text, [(0, 0), (0, 0), (0, missing)], constant_values=stop[0])
        said[f"scores {penalty}"] = out.sequences_scores.numpy().reshape(BATCH, WIDTH)
    return said


def prompt_of(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `transformers` goes on from: the first PROMPT tokens, or what the encoder reads."""
    if "encoder_tokens" in given:
        return {"input_ids": given["encoder_tokens"].long(), "attention_mask": given["encoder_valid"].long()}
    prompt = given["tokens"][:, :PROMPT].long()
    return {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}


def remake(names: Collection[str]) -> None:
    """Write config.json, weights and answers of these models."""
    for name in names:
        config, folder = MODELS[name], GOLDEN / name
        shutil.rmtree(folder, ignore_errors=True)
        model, inputs = build(name, config), inputs_of(config)
        model.save_pretrained(folder, max_shard_size=SHARDED.get(name, "1GB"), save_original_format=name not in STACKED)
        (folder / "generation_config.json").unlink(missing_ok=True)
        expected = answers(model, inputs)
        del expected["last"]  # of hidden
        save_file(
            {key: np.ascontiguousarray(value) for key, value in {**inputs, **expected}.items()},
            folder / "expected.safetensors",
        )
        largest = {key: f"{np.abs(value).max():.3f}" for key, value in expected.items() if key != "generated"}
        print(f"{name:28} largest", largest)
        if name in STOPS:
            BEAMS.mkdir(exist_ok=True)
            beams = {"stop": np.array(STOPS[name], np.int32), **searched(model, inputs, STOPS[name])}
            save_file(beams, BEAMS / f"{name}.safetensors")


def remake_router() -> None:
    """Write what the router of NLLB-MoE, as far as it is GShard's, makes of logits: with room, padding and overflow.

    Its model is no model of ours: transformers 5 runs two of its experts, whatever the router says.
    """
    random = np.random.default_rng(0)
    logits, padding = random.standard_normal((23, 5), np.float32), np.arange(23) % 6 == 4
    tensors = {"logits": logits, "valid": ~padding}
    for case, share, mask in (("room", 1.0, None), ("padding", 1.0, padding), ("overflow", 0.3, padding)):
        config = NllbMoeConfig(
            num_experts=5, normalize_router_prob_before_dropping=True, moe_eval_capacity_token_fraction=share
        )
        router = NllbMoeTop2Router(config).eval()
        mask = None if mask is None else torch.from_numpy(mask)
        tensors[case] = router.route_tokens(torch.from_numpy(logits), padding_mask=mask)[1].numpy()
        tensors[f"{case}_places"] = np.array(router.expert_capacity)
    ROUTER.parent.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, ROUTER)


def subjects(names: Collection[str]) -> Iterator[tuple[str, fx.Transformer, dict]]:
    """Models of the zoo at toy widths, with noise in every parameter, and golden ones."""
    noise = np.random.default_rng(1)
    for name in names:
        if name in MODELS:
            yield f"golden {name}", *fx.hf.load(GOLDEN / name)
    for name in names:
        if name in ZOO:
            spec = fx.zoo.tiny(name)
            drawn = fx.init(spec, jax.random.key(0))
            noisy = jax.tree.map(lambda leaf: leaf + 0.1 * noise.standard_normal(leaf.shape, np.float32), drawn)
            yield f"tiny {name}", spec, noisy


def check(names: Collection[str]) -> None:
    """transformers loads what we save, whole or in pieces, and says and generates the same."""
    for name, spec, params in subjects(names):
        for shard in (10**9, 20_000):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "saved"
                fx.hf.save(spec, params, folder, shard=shard)
                config = transformers.AutoConfig.from_pretrained(folder)
                model, report = class_of(config).from_pretrained(folder, output_loading_info=True, **EAGER)
                wrong = {kind: keys for kind, keys in report.items() if keys}
                assert not wrong, f"{name}: transformers reports {wrong}"
                assert json.loads((folder / "config.json").read_text())["architectures"] == [type(model).__name__]
        inputs = inputs_of(config)
        theirs = answers(model.eval(), inputs)
        shares = apart(say(spec, params, inputs), theirs, inputs)
        assert max(shares.values()) <= TOLERANCE, f"{name}: shares of the largest by which we differ: {shares}"
        if "generated" in theirs:
            prompt = jnp.asarray(theirs["generated"][:, :-NEW])
            generated = np.asarray(fx.generate(spec, params, prompt, NEW, **reading(inputs)))
            lost = parted(spec, params, inputs, generated, theirs["generated"])
            assert lost <= TOLERANCE, f"{name}: greedy continuations differ by {lost} of the largest logit"
        if (stop := STOPS.get(name.removeprefix("golden "))) is not None:
            check_beams(name, spec, params, prompt, stop, inputs, searched(model, inputs, stop))
        print(f"{name:32} {', '.join(sorted(shares))} within {max(shares.values()):.1e}", flush=True)
        jax.clear_caches()  # a process has room for the programs of a few models, not of all


def parted(
    spec: fx.Transformer, params: dict, inputs: dict[str, np.ndarray], ours: np.ndarray, theirs: np.ndarray
) -> float:
    """How far apart the tokens are in which texts first differ, as a share of the largest logit: about 0 is a tie."""
    logits = np.asarray(fx.apply(spec, params, jnp.asarray(theirs), **reading(inputs)).logits)
    rows = np.flatnonzero((ours != theirs).any(axis=1))
    first = (ours != theirs).argmax(axis=1)[rows]
    apart = logits[rows, first - 1, theirs[rows, first]] - logits[rows, first - 1, ours[rows, first]]
    return float(np.max(np.abs(apart), initial=0) / np.abs(logits).max())


def check_beams(
    name: str,
    spec: fx.Transformer,
    params: dict,
    prompt: jax.Array,
    stop: list[int],
    inputs: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
) -> None:
    """Beam search finds the same texts, with the same scores."""
    for penalty in PENALTIES:
        found = fx.decode.beam(
            spec, params, prompt, NEW, beams=WIDTH, stop=stop, length_penalty=penalty, **reading(inputs)
        )
        assert (np.asarray(found.text) == theirs[f"text {penalty}"]).all(), f"{name}: beams differ, penalty {penalty}"
        np.testing.assert_allclose(found.scores, theirs[f"scores {penalty}"], rtol=TOLERANCE, err_msg=name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="check what fx.hf.save writes instead")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of MODELS or, to check, of ZOO; all without one")
    arguments = parser.parse_args()
    if arguments.check:
        check(arguments.names or (*ZOO, *MODELS))
    else:
        remake(arguments.names or MODELS)
        remake_router()
