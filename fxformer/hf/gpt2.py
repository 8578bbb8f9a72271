"""GPT-2 (`GPT2LMHeadModel`): Conv1D weights are (in, out), query, key and value are fused in this order.

Dropout of attention weights has no counterpart; it changes no logits outside of training.
"""

import math
from dataclasses import replace

from fxformer.block import Block
from fxformer.hf.depth import fold
from fxformer.hf.family import ACTIVATION_NAMES, ACTIVATIONS, Family, Settings, count
from fxformer.hf.layout import Axes, Fused
from fxformer.hf.names import tensor
from fxformer.hf.parts import DECODER_PARTS, LM_HEAD, SCORE, TOKEN_SCORE, decoder_parts, read_head
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed, Learned
from fxformer.layers.ffn import MLP
from fxformer.layers.head import Tied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.lookup import nearest
from fxformer.model import Transformer
from fxformer.stack import Stack


def read(settings: Settings) -> Transformer:
    """The Spec of a GPT-2 config."""
    width, depth, heads = settings["n_embd"], settings["n_layer"], settings["n_head"]
    norm = Norm(kind="layer", eps=settings["layer_norm_epsilon"], bias=True)
    deviation = settings["initializer_range"]
    init, out_init = Normal(deviation), Normal(deviation / math.sqrt(2 * depth))
    key_width = width // heads
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads,
            key_width=key_width,
            scale=None if settings["scale_attn_weights"] else 1.0,
            bias=True,
            out_bias=True,
            init=init,
            value_init=init,
            out_init=out_init,
        ),
        ffn=MLP(
            inner=count(settings, "n_inner", 4 * width),
            activation=nearest(ACTIVATIONS, settings["activation_function"], "activation_function"),
            bias=True,
            up_init=init,
            down_init=out_init,
        ),
        residual=Residual(placement="pre", norm=norm, dropout=settings["resid_pdrop"]),
    )
    return Transformer(
        embed=Embed(
            vocab=settings["vocab_size"],
            width=width,
            position=Learned(limit=settings["n_positions"], init=Normal(deviation / 2)),
            dropout=settings["embd_pdrop"],
            init=init,
        ),
        stack=Stack(groups=fold(_scaled(settings, block)), norm=norm),
        head=read_head(settings, init),
    )


def _scaled(settings: Settings, block: Block) -> list[Block]:
    """The layers, which differ where logits of layer i, from 1 on, are also divided by i."""
    blocks = [block] * settings["n_layer"]
    if not settings["scale_attn_by_inverse_layer_idx"]:
        return blocks
    width = settings["n_embd"] // settings["n_head"]
    scale = width**-0.5 if settings["scale_attn_weights"] else 1.0
    later = [replace(block, attention=replace(block.attention, scale=scale / i)) for i in range(2, len(blocks) + 1)]
    return [block, *later]


def write(spec: Transformer) -> Settings | None:
    """The config of a pre-norm decoder with learned positions and an MLP."""
    embed, norm, blocks = spec.embed, spec.stack.norm, spec.stack.blocks
    match embed.position, blocks[0]:
        case Learned(limit=length), Block(attention=GQA(heads=heads) as attention, ffn=MLP() as ffn, residual=residual):
            return {
                "vocab_size": embed.vocab,
                "n_positions": length,
                "n_embd": embed.width,
                "n_layer": len(blocks),
                "n_head": heads,
                "n_inner": ffn.inner,
                "activation_function": nearest(ACTIVATION_NAMES, ffn.activation, "activation of transformers"),
                "resid_pdrop": residual.dropout,
                "embd_pdrop": embed.dropout,
                "attn_pdrop": 0.0,
                "layer_norm_epsilon": norm.eps,
                "initializer_range": embed.init.std(embed.width, embed.vocab),
                "tie_word_embeddings": spec.head == Tied(),
                "scale_attn_weights": attention.scale is None,
                "scale_attn_by_inverse_layer_idx": len({block.attention for block in blocks}) > 1,
            }
    return None


TENSORS = (
    tensor("transformer.wte.weight", "embed.table"),
    tensor("transformer.wpe.weight", "embed.position.table"),
    tensor("transformer.h.{}.ln_1.weight", "stack.{}.attention_residual.before.scale"),
    tensor("transformer.h.{}.ln_1.bias", "stack.{}.attention_residual.before.bias"),
    tensor(
        "transformer.h.{}.attn.c_attn.weight",
        "stack.{}.attention.query.weight",
        "stack.{}.attention.key.weight",
        "stack.{}.attention.value.weight",
        layout=Fused("d *"),
    ),
    tensor(
        "transformer.h.{}.attn.c_attn.bias",
        "stack.{}.attention.query.bias",
        "stack.{}.attention.key.bias",
        "stack.{}.attention.value.bias",
        layout=Fused("*"),
    ),
    tensor("transformer.h.{}.attn.c_proj.weight", "stack.{}.attention.out.weight", layout=Axes("h k d -> (h k) d")),
    tensor("transformer.h.{}.attn.c_proj.bias", "stack.{}.attention.out.bias"),
    tensor("transformer.h.{}.ln_2.weight", "stack.{}.ffn_residual.before.scale"),
    tensor("transformer.h.{}.ln_2.bias", "stack.{}.ffn_residual.before.bias"),
    tensor("transformer.h.{}.mlp.c_fc.weight", "stack.{}.ffn.up.weight"),
    tensor("transformer.h.{}.mlp.c_fc.bias", "stack.{}.ffn.up.bias"),
    tensor("transformer.h.{}.mlp.c_proj.weight", "stack.{}.ffn.down.weight"),
    tensor("transformer.h.{}.mlp.c_proj.bias", "stack.{}.ffn.down.bias"),
    tensor("transformer.ln_f.weight", "stack.final_norm.scale"),
    tensor("transformer.ln_f.bias", "stack.final_norm.bias"),
)

GPT2 = Family(
    architecture="GPT2LMHeadModel",
    classes={
        "GPT2LMHeadModel": (LM_HEAD,),
        "GPT2Model": (),
        "GPT2ForSequenceClassification": (SCORE,),
        "GPT2ForTokenClassification": (TOKEN_SCORE,),
    },
    parts={
        **DECODER_PARTS,
        TOKEN_SCORE: (
            tensor("classifier.weight", "head.out.weight", layout=Axes("d y -> y d")),
            tensor("classifier.bias", "head.out.bias"),
        ),
    },
    parts_of=decoder_parts,
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    synonyms={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    inert=frozenset(
        {
            "n_ctx",
            "n_special",
            "predict_special_tokens",
            "reorder_and_upcast_attn",
            "summary_type",
            "summary_use_proj",
            "summary_activation",
            "summary_proj_to_labels",
            "summary_first_dropout",
        }
    ),
    read=read,
    write=write,
    tensors=TENSORS,
    prefix="transformer.",
    buffers=("h.*.attn.bias", "h.*.attn.masked_bias"),
    copies={"lm_head.weight": "transformer.wte.weight"},
)
