"""ALBERT (`AlbertModel` and the classes with its heads): BERT with narrow tables and tied layers.

A group of layers shares its parameters; layer i of L belongs to group floor(i G / L) of G.
"""

from fxformer.hf.bert import (
    SPARE,
    block_of,
    classes,
    copies,
    embeddings,
    encoder,
    layers,
    linear,
    parts,
    parts_of,
    sizes_of,
)
from fxformer.hf.family import Family, Settings
from fxformer.model import Transformer
from fxformer.ops.mask import Full
from fxformer.stack import Repeat


def read(settings: Settings) -> Transformer:
    """The Spec of an ALBERT config."""
    depth, count = settings["num_hidden_layers"], settings["num_hidden_groups"]
    if count > depth:
        raise ValueError(f"config.json has num_hidden_groups={count}, more than num_hidden_layers={depth}")
    owners = [int(i / (depth / count)) for i in range(depth)]  # rounded as transformers rounds
    blocks = (block_of(settings, Full()),) * settings["inner_group_num"]
    groups = tuple(Repeat(owners.count(g), blocks, tied=True) for g in range(count))
    return encoder(settings, groups, sentences=settings["labels"])


def write(spec: Transformer) -> Settings | None:
    """The config of a post-norm encoder with a factorised embedding whose repeats are tied."""
    group = spec.stack.groups[0]
    sizes = sizes_of(spec, group.blocks[0])
    if sizes is None or spec.embed.factor is None:
        return None
    return {
        **sizes,
        "embedding_size": spec.embed.factor,
        "num_hidden_layers": sum(group.n for group in spec.stack.groups),
        "num_hidden_groups": len(spec.stack.groups),
        "inner_group_num": len(group.blocks),
    }


LAYER = layers(
    "albert.encoder.albert_layer_groups.{group}.albert_layers.{block}",
    heads="attention",
    out="attention.dense",
    norm="attention.LayerNorm",
    up="ffn",
    down="ffn_output",
    last="full_layer_layer_norm",
)

ALBERT = Family(
    architecture="AlbertModel",
    classes=classes("Albert"),
    parts=parts(
        predictions="predictions",
        transform="predictions.",
        pooler="albert.pooler",
        sentences="sop_classifier.classifier",
    ),
    spare=SPARE,
    parts_of=parts_of,
    defaults={
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_hidden_layers": 12,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
    },
    unseen=frozenset({"num_hidden_layers"}),  # which share their parameters
    fixed={"position_embedding_type": "absolute"},
    inert=frozenset(
        {"classifier_dropout_prob", "down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks"}
    ),
    read=read,
    write=write,
    tensors=(
        *embeddings("albert"),
        *linear("albert.encoder.embedding_hidden_mapping_in", "embed.widen", "w d -> d w"),
        *LAYER,
    ),
    prefix="albert.",
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),
    copies=copies("albert", "predictions"),
)
