"""ALBERT (`AlbertModel`, `AlbertForMaskedLM`, `AlbertForPreTraining`): BERT with narrow tables and tied layers.

A group of layers shares its parameters; layer i of L belongs to group floor(i G / L) of G.
"""

from collections.abc import Mapping

from fxformer.hf.bert import block_of, classes_of, encoder, parts_of, sizes_of, with_stored
from fxformer.hf.family import Family, Settings
from fxformer.hf.files import Stored
from fxformer.hf.layout import Axes
from fxformer.hf.names import tensor
from fxformer.model import Transformer
from fxformer.stack import Repeat

CLASSES: dict[str, tuple[str, ...]] = {
    "AlbertModel": ("pooler",),
    "AlbertForMaskedLM": ("predictions",),
    "AlbertForPreTraining": ("predictions", "pooler", "sop_classifier"),
}


def read(settings: Settings) -> Transformer:
    """The Spec of an ALBERT config."""
    depth, count = settings["num_hidden_layers"], settings["num_hidden_groups"]
    if count > depth:
        raise ValueError(f"config.json has num_hidden_groups={count}, more than num_hidden_layers={depth}")
    owners = [int(i / (depth / count)) for i in range(depth)]  # rounded as transformers rounds
    blocks = (block_of(settings),) * settings["inner_group_num"]
    parts = {part for name in settings["architectures"] or () for part in CLASSES.get(name, ())}
    labels = (_labels(settings) if "sop_classifier" in parts else 0) if "pooler" in parts else None
    groups = tuple(Repeat(owners.count(g), blocks, tied=True) for g in range(count))
    return encoder(settings, groups, predicts="predictions" in parts, labels=labels)


def _labels(settings: Settings) -> int:
    """The number of classes of the sentence-order head."""
    return len(settings["id2label"]) if settings["id2label"] else settings["num_labels"]


def write(spec: Transformer) -> Settings | None:
    """The config of a post-norm encoder with a factorised embedding whose repeats are tied."""
    group = spec.stack.groups[0]
    sizes = sizes_of(spec, group.blocks[0])
    if sizes is None or spec.embed.factor is None:
        return None
    labels = 2 if spec.pooler is None else spec.pooler.labels
    names = {i: f"LABEL_{i}" for i in range(labels)}
    parts = parts_of(spec.head, spec.pooler, "sop_classifier", "predictions")
    return {
        **sizes,
        "embedding_size": spec.embed.factor,
        "num_hidden_layers": sum(group.n for group in spec.stack.groups),
        "num_hidden_groups": len(spec.stack.groups),
        "inner_group_num": len(group.blocks),
        "architectures": classes_of(parts, CLASSES),
        **({"id2label": names, "label2id": {name: i for i, name in names.items()}} if labels else {}),
    }


def amend(settings: Settings, stored: Mapping[str, Stored]) -> Settings:
    """The heads of ALBERT that are stored."""
    return with_stored(settings, stored, CLASSES)


LAYER = "albert.encoder.albert_layer_groups.{group}.albert_layers.{block}"
TENSORS = (
    tensor("albert.embeddings.word_embeddings.weight", "embed.table"),
    tensor("albert.embeddings.position_embeddings.weight", "embed.position.table"),
    tensor("albert.embeddings.token_type_embeddings.weight", "embed.types"),
    tensor("albert.embeddings.LayerNorm.weight", "embed.norm.scale"),
    tensor("albert.embeddings.LayerNorm.bias", "embed.norm.bias"),
    tensor("albert.encoder.embedding_hidden_mapping_in.weight", "embed.widen.weight", layout=Axes("w d -> d w")),
    tensor("albert.encoder.embedding_hidden_mapping_in.bias", "embed.widen.bias"),
    tensor(f"{LAYER}.attention.query.weight", "stack.{}.attention.query.weight", layout=Axes("d h k -> (h k) d")),
    tensor(f"{LAYER}.attention.query.bias", "stack.{}.attention.query.bias", layout=Axes("h k -> (h k)")),
    tensor(f"{LAYER}.attention.key.weight", "stack.{}.attention.key.weight", layout=Axes("d g k -> (g k) d")),
    tensor(f"{LAYER}.attention.key.bias", "stack.{}.attention.key.bias", layout=Axes("g k -> (g k)")),
    tensor(f"{LAYER}.attention.value.weight", "stack.{}.attention.value.weight", layout=Axes("d g k -> (g k) d")),
    tensor(f"{LAYER}.attention.value.bias", "stack.{}.attention.value.bias", layout=Axes("g k -> (g k)")),
    tensor(f"{LAYER}.attention.dense.weight", "stack.{}.attention.out.weight", layout=Axes("h k d -> d (h k)")),
    tensor(f"{LAYER}.attention.dense.bias", "stack.{}.attention.out.bias"),
    tensor(f"{LAYER}.attention.LayerNorm.weight", "stack.{}.attention_residual.after.scale"),
    tensor(f"{LAYER}.attention.LayerNorm.bias", "stack.{}.attention_residual.after.bias"),
    tensor(f"{LAYER}.ffn.weight", "stack.{}.ffn.up.weight", layout=Axes("d f -> f d")),
    tensor(f"{LAYER}.ffn.bias", "stack.{}.ffn.up.bias"),
    tensor(f"{LAYER}.ffn_output.weight", "stack.{}.ffn.down.weight", layout=Axes("f d -> d f")),
    tensor(f"{LAYER}.ffn_output.bias", "stack.{}.ffn.down.bias"),
    tensor(f"{LAYER}.full_layer_layer_norm.weight", "stack.{}.ffn_residual.after.scale"),
    tensor(f"{LAYER}.full_layer_layer_norm.bias", "stack.{}.ffn_residual.after.bias"),
    tensor("albert.pooler.weight", "pooler.pool.weight", layout=Axes("d f -> f d")),
    tensor("albert.pooler.bias", "pooler.pool.bias"),
    tensor("predictions.dense.weight", "head.transform.weight", layout=Axes("d w -> w d")),
    tensor("predictions.dense.bias", "head.transform.bias"),
    tensor("predictions.LayerNorm.weight", "head.norm.scale"),
    tensor("predictions.LayerNorm.bias", "head.norm.bias"),
    tensor("predictions.bias", "head.bias"),
    tensor("predictions.decoder.weight", "head.readout.out.weight", layout=Axes("d v -> v d")),
    tensor("predictions.decoder.bias", "head.bias", beside="head.readout.out.weight"),  # the one that counts
    tensor("sop_classifier.classifier.weight", "pooler.out.weight", layout=Axes("f y -> y f")),
    tensor("sop_classifier.classifier.bias", "pooler.out.bias"),
)

ALBERT = Family(
    architecture="AlbertForPreTraining",
    defaults={
        "architectures": None,
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
        "id2label": None,
        "num_labels": 2,
    },
    unseen=frozenset({"num_hidden_layers"}),  # which share their parameters
    fixed={"position_embedding_type": "absolute"},
    inert=frozenset(
        {"classifier_dropout_prob", "down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks"}
    ),
    read=read,
    write=write,
    amend=amend,
    tensors=TENSORS,
    prefix="albert.",
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),
    copies={
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
)
