"""LLaMA (`LlamaForCausalLM`): Linear weights are (out, in), rotary pairs half-split."""

import math

from fxformer.block import Block
from fxformer.hf.family import ACTIVATION_NAMES, ACTIVATIONS, Family, Settings
from fxformer.hf.layout import Axes
from fxformer.hf.names import tensor
from fxformer.hf.rope import DEFAULTS, read_rope, write_rope
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed, Free, Tied
from fxformer.layers.ffn import GLU
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.names import nearest
from fxformer.ops.rotary import Linear, Llama3, Rotary, YaRN
from fxformer.stack import Repeat, Stack


def read(settings: Settings) -> Transformer:
    """The Spec of a LLaMA config."""
    heads = settings["num_attention_heads"]
    key_width = settings["head_dim"] or settings["hidden_size"] // heads
    rotary, magnitude = read_rope(settings, key_width)
    norm, init = Norm(kind="rms", eps=settings["rms_norm_eps"]), Normal(settings["initializer_range"])
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=settings["num_key_value_heads"] or heads,
            key_width=key_width,
            rotary=rotary,
            scale=None if magnitude == 1 else magnitude**2 / math.sqrt(key_width),
            bias=settings["attention_bias"],
            out_bias=settings["attention_bias"],
            init=init,
            value_init=init,
            out_init=init,
        ),
        ffn=GLU(
            inner=settings["intermediate_size"],
            activation=nearest(ACTIVATIONS, settings["hidden_act"], "hidden_act"),
            bias=settings["mlp_bias"],
            up_init=init,
            down_init=init,
        ),
        residual=Residual(placement="pre", norm=norm),
    )
    return Transformer(
        embed=Embed(vocab=settings["vocab_size"], width=settings["hidden_size"], init=init),
        stack=Stack(groups=(Repeat(settings["num_hidden_layers"], (block,)),), norm=norm),
        head=Tied() if settings["tie_word_embeddings"] else Free(init=init),
    )


def write(spec: Transformer) -> Settings | None:
    """The config of a pre-norm decoder with rotary positions and a GLU."""
    embed, norm = spec.embed, spec.stack.norm
    match spec.stack.groups:
        case (
            Repeat(
                n=depth,
                blocks=(
                    Block(
                        attention=GQA(
                            rotary=Rotary(scaling=None | Linear() | Llama3() | YaRN()) as rotary
                        ) as attention,
                        ffn=GLU() as ffn,
                    ),
                ),
            ),
        ) if embed.width % attention.heads == 0:
            scale = attention.scale or 1 / math.sqrt(attention.key_width)
            return {
                "vocab_size": embed.vocab,
                "hidden_size": embed.width,
                "intermediate_size": ffn.inner,
                "num_hidden_layers": depth,
                "num_attention_heads": attention.heads,
                "num_key_value_heads": attention.kv_heads,
                "head_dim": attention.key_width,
                "hidden_act": nearest(ACTIVATION_NAMES, ffn.activation, "activation of transformers"),
                "rms_norm_eps": norm.eps,
                "attention_bias": attention.bias,
                "mlp_bias": ffn.bias,
                "initializer_range": embed.init.std(embed.width, embed.vocab),
                "tie_word_embeddings": spec.head == Tied(),
                **write_rope(rotary, math.sqrt(scale * math.sqrt(attention.key_width))),
            }
    return None


TENSORS = (
    tensor("model.embed_tokens.weight", "embed.table"),
    tensor("model.layers.{}.input_layernorm.weight", "stack.{}.attention_residual.before.scale"),
    tensor(
        "model.layers.{}.self_attn.q_proj.weight", "stack.{}.attention.query.weight", layout=Axes("d h k -> (h k) d")
    ),
    tensor("model.layers.{}.self_attn.k_proj.weight", "stack.{}.attention.key.weight", layout=Axes("d g k -> (g k) d")),
    tensor(
        "model.layers.{}.self_attn.v_proj.weight", "stack.{}.attention.value.weight", layout=Axes("d g k -> (g k) d")
    ),
    tensor("model.layers.{}.self_attn.o_proj.weight", "stack.{}.attention.out.weight", layout=Axes("h k d -> d (h k)")),
    tensor("model.layers.{}.self_attn.q_proj.bias", "stack.{}.attention.query.bias", layout=Axes("h k -> (h k)")),
    tensor("model.layers.{}.self_attn.k_proj.bias", "stack.{}.attention.key.bias", layout=Axes("g k -> (g k)")),
    tensor("model.layers.{}.self_attn.v_proj.bias", "stack.{}.attention.value.bias", layout=Axes("g k -> (g k)")),
    tensor("model.layers.{}.self_attn.o_proj.bias", "stack.{}.attention.out.bias"),
    tensor("model.layers.{}.post_attention_layernorm.weight", "stack.{}.ffn_residual.before.scale"),
    tensor("model.layers.{}.mlp.gate_proj.weight", "stack.{}.ffn.gate.weight", layout=Axes("d f -> f d")),
    tensor("model.layers.{}.mlp.up_proj.weight", "stack.{}.ffn.up.weight", layout=Axes("d f -> f d")),
    tensor("model.layers.{}.mlp.down_proj.weight", "stack.{}.ffn.down.weight", layout=Axes("f d -> d f")),
    tensor("model.layers.{}.mlp.gate_proj.bias", "stack.{}.ffn.gate.bias"),
    tensor("model.layers.{}.mlp.up_proj.bias", "stack.{}.ffn.up.bias"),
    tensor("model.layers.{}.mlp.down_proj.bias", "stack.{}.ffn.down.bias"),
    tensor("model.norm.weight", "stack.final_norm.scale"),
    tensor("lm_head.weight", "head.out.weight", layout=Axes("d v -> v d")),
)

LLAMA = Family(
    architecture="LlamaForCausalLM",
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        **DEFAULTS,
    },
    fixed={"rope_interleaved": False},
    inert=frozenset({"attention_dropout", "pretraining_tp", "max_sequence_length", "is_llama_config"}),
    read=read,
    write=write,
    tensors=TENSORS,
    prefix="model.",
    buffers=("layers.*.self_attn.rotary_emb.inv_freq",),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
)
