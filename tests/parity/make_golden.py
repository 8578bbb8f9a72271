"""Golden files from the real classes of Hugging Face transformers; torch needs an environment of its own.

    python tests/parity/make_golden.py            remake tests/parity/golden
    python tests/parity/make_golden.py --check    let transformers load what `fx.hf.save` writes, and compare

A variant of a config is one line of MODELS. No two axes of a model are equal, so that no transpose goes unseen.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel

import fxformer as fx

GOLDEN = Path(__file__).parent / "golden"
BATCH, LENGTH, PROMPT, NEW = 3, 11, 7, 20
TOLERANCE = 1e-5  # of the largest logit

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
LLAMA3 = {"factor": 8.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_theta": 10.0, "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 4.0}

MODELS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(**GPT2),
    "gpt2-deep": GPT2Config(**{**GPT2, "n_embd": 24, "n_head": 6, "n_layer": 5}),
    "gpt2-untied": GPT2Config(**GPT2, tie_word_embeddings=False),
    "gpt2-inner-relu": GPT2Config(**GPT2, n_inner=52, activation_function="relu", layer_norm_epsilon=1e-2),
    "llama": LlamaConfig(**LLAMA),
    "llama-tied": LlamaConfig(**LLAMA, tie_word_embeddings=True, rms_norm_eps=1e-2),
    "llama-multi-head": LlamaConfig(**{**LLAMA, "num_key_value_heads": 8}),
    "llama-multi-query": LlamaConfig(**{**LLAMA, "num_key_value_heads": 1}),
    "llama-head-width": LlamaConfig(**{**LLAMA, "hidden_size": 40}, head_dim=6),
    "llama-biases": LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
    "llama-theta": LlamaConfig(**LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama-linear": LlamaConfig(**LLAMA, rope_parameters={"rope_type": "linear", "factor": 2.5}),
    "llama-llama3": LlamaConfig(**LLAMA, rope_parameters={"rope_type": "llama3", **LLAMA3}),
    "llama-yarn": LlamaConfig(**LLAMA, rope_parameters={"rope_type": "yarn", **YARN}),
    "llama-yarn-mscale": LlamaConfig(
        **LLAMA, rope_parameters={"rope_type": "yarn", **YARN, "mscale": 1.5, "mscale_all_dim": 0.7}
    ),
}
SHARDED = {"llama-biases": "40KB"}
ZOO = ("gpt2", "llama-7b", "llama2-7b", "llama2-70b")


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """A model in which no parameter, bias or gain has its initial value."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def tokens_of(vocab: int) -> np.ndarray:
    """Tokens [BATCH, LENGTH]."""
    return np.random.default_rng(0).integers(0, vocab, (BATCH, LENGTH), dtype=np.int32)


@torch.no_grad()
def answers(model: PreTrainedModel, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """What the model says about the tokens: logits, loss, the stream after each layer, and a greedy continuation."""
    ids = torch.from_numpy(tokens).long()
    out = model(ids, labels=ids, output_hidden_states=True)
    prompt = ids[:, :PROMPT]
    generated = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return {
        "tokens": tokens,
        "logits": out.logits.numpy(),
        "loss": out.loss.numpy(),
        "hidden": torch.stack(out.hidden_states).numpy(),
        "generated": generated.numpy().astype(np.int32),
    }


def remake() -> None:
    """Write config.json, weights and answers of every model."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for name, config in MODELS.items():
        model, folder = build(config), GOLDEN / name
        model.save_pretrained(folder, max_shard_size=SHARDED.get(name, "1GB"))
        (folder / "generation_config.json").unlink()
        expected = answers(model, tokens_of(config.vocab_size))
        save_file(
            {key: np.ascontiguousarray(value) for key, value in expected.items()}, folder / "expected.safetensors"
        )
        print(f"{name:24} largest logit {np.abs(expected['logits']).max():.3f}  loss {expected['loss']:.4f}")


def subjects() -> Iterator[tuple[str, fx.Transformer, dict]]:
    """Models of the zoo at toy widths, with noise in every parameter, and every golden one."""
    noise = np.random.default_rng(1)
    for name in ZOO:
        spec = fx.zoo.tiny(name)
        params = fx.init(spec, jax.random.key(0))
        yield name, spec, jax.tree.map(lambda leaf: leaf + 0.2 * noise.standard_normal(leaf.shape, np.float32), params)
    for name in MODELS:
        yield f"golden {name}", *fx.hf.load(GOLDEN / name)


def check() -> None:
    """transformers loads what we save, whole or in pieces, and says and generates the same."""
    for name, spec, params in subjects():
        tokens = tokens_of(spec.embed.vocab)
        ours = fx.apply(spec, params, jnp.asarray(tokens)).logits
        for shard in (10**9, 20_000):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "saved"
                fx.hf.save(spec, params, folder, shard=shard)
                model, report = AutoModelForCausalLM.from_pretrained(
                    folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
                )
                wrong = {kind: keys for kind, keys in report.items() if keys}
                assert not wrong, f"{name}: transformers reports {wrong}"
                assert json.loads((folder / "config.json").read_text())["architectures"] == [type(model).__name__]
            theirs = answers(model.eval(), tokens)
            difference = np.abs(ours - theirs["logits"]).max() / np.abs(theirs["logits"]).max()
            assert difference <= TOLERANCE, f"{name}: logits differ by {difference:.1e} of the largest"
        generated = np.asarray(fx.generate(spec, params, jnp.asarray(tokens[:, :PROMPT]), NEW))
        assert (generated == theirs["generated"]).all(), f"{name}: greedy continuations differ"
        print(f"{name:32} logits within {difference:.1e}, {NEW} greedy tokens equal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="check what fx.hf.save writes instead")
    check() if parser.parse_args().check else remake()
