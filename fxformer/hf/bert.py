"""BERT (`BertModel`, `BertForMaskedLM`, `BertForPreTraining`): post-norm, three embeddings, Linear weights (out, in).

The heads are those of the classes in `architectures`, and those whose tensors are stored beside them: published
checkpoints say BertForMaskedLM and hold the pooler and the next-sentence head too.
"""

from collections.abc import Collection, Mapping

from fxformer.block import Block
from fxformer.hf.family import ACTIVATION_NAMES, ACTIVATIONS, Family, Settings
from fxformer.hf.files import Stored
from fxformer.hf.layout import Axes
from fxformer.hf.names import tensor
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed, Learned
from fxformer.layers.ffn import MLP
from fxformer.layers.head import Bare, HeadSpec, Pooler, Tied, Transformed, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.lookup import nearest
from fxformer.model import Transformer
from fxformer.ops.mask import Full
from fxformer.stack import Repeat, Stack

# The parts that a class adds to the encoder, and by which name its tensors begin.
CLASSES: dict[str, tuple[str, ...]] = {
    "BertModel": ("pooler",),
    "BertForMaskedLM": ("cls.predictions",),
    "BertForNextSentencePrediction": ("pooler", "cls.seq_relationship"),
    "BertForPreTraining": ("cls.predictions", "pooler", "cls.seq_relationship"),
}


def read(settings: Settings) -> Transformer:
    """The Spec of a BERT config."""
    parts = {part for name in settings["architectures"] or () for part in CLASSES.get(name, ())}
    labels = (2 if "cls.seq_relationship" in parts else 0) if "pooler" in parts else None
    groups = (Repeat(settings["num_hidden_layers"], (block_of(settings),)),)
    return encoder(settings, groups, predicts="cls.predictions" in parts, labels=labels)


def encoder(settings: Settings, groups: tuple[Repeat, ...], *, predicts: bool, labels: int | None) -> Transformer:
    """Blocks with the embeddings of BERT and its heads; labels: of the pooler, None for no pooler."""
    init, norm = Normal(settings["initializer_range"]), norm_of(settings)
    activation = nearest(ACTIVATIONS, settings["hidden_act"], "hidden_act")
    readout = Tied() if settings["tie_word_embeddings"] else Untied(init=init)
    return Transformer(
        embed=Embed(
            vocab=settings["vocab_size"],
            width=settings["hidden_size"],
            position=Learned(limit=settings["max_position_embeddings"], init=init),
            types=settings["type_vocab_size"],
            factor=settings.get("embedding_size"),
            norm=norm,
            dropout=settings["hidden_dropout_prob"],
            init=init,
        ),
        stack=Stack(groups=groups, norm=norm),
        head=Transformed(activation=activation, norm=norm, readout=readout, init=init) if predicts else Bare(),
        pooler=None if labels is None else Pooler(labels=labels, init=init),
    )


def block_of(settings: Settings) -> Block:
    """One layer of BERT."""
    init, width, heads = Normal(settings["initializer_range"]), settings["hidden_size"], settings["num_attention_heads"]
    if width % heads:
        raise ValueError(f"config.json has num_attention_heads={heads}, which does not divide hidden_size={width}")
    return Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads,
            key_width=width // heads,
            mask=Full(),
            bias=True,
            out_bias=True,
            dropout=settings["attention_probs_dropout_prob"],
            init=init,
            value_init=init,
            out_init=init,
        ),
        ffn=MLP(
            inner=settings["intermediate_size"],
            activation=nearest(ACTIVATIONS, settings["hidden_act"], "hidden_act"),
            bias=True,
            up_init=init,
            down_init=init,
        ),
        residual=Residual(placement="post", norm=norm_of(settings), dropout=settings["hidden_dropout_prob"]),
    )


def norm_of(settings: Settings) -> Norm:
    """The norm that stands everywhere."""
    return Norm(kind="layer", eps=settings["layer_norm_eps"], bias=True)


def write(spec: Transformer) -> Settings | None:
    """The config of a post-norm encoder with learned positions and an MLP."""
    match spec.stack.groups:
        case (Repeat(n=depth, blocks=(block,), tied=False),):
            sizes = sizes_of(spec, block)
            if sizes is None:
                return None
            parts = parts_of(spec.head, spec.pooler, "cls.seq_relationship", "cls.predictions")
            return {**sizes, "num_hidden_layers": depth, "architectures": classes_of(parts, CLASSES)}
    return None


def sizes_of(spec: Transformer, block: Block) -> Settings | None:
    """The settings of BERT that one block and the embedding decide."""
    match spec.embed, block:
        case (
            Embed(position=Learned(limit=length), types=types) as embed,
            Block(attention=GQA() as attention, ffn=MLP() as ffn, residual=residual),
        ) if types > 0 and embed.width % attention.heads == 0:
            return {
                "vocab_size": embed.vocab,
                "hidden_size": embed.width,
                "num_attention_heads": attention.heads,
                "intermediate_size": ffn.inner,
                "hidden_act": nearest(ACTIVATION_NAMES, ffn.activation, "activation of transformers"),
                "hidden_dropout_prob": residual.dropout,
                "attention_probs_dropout_prob": attention.dropout,
                "max_position_embeddings": length,
                "type_vocab_size": types,
                "initializer_range": embed.init.std(embed.factor or embed.width, embed.vocab),
                "layer_norm_eps": residual.norm.eps,
                "tie_word_embeddings": type(spec.head) is not Transformed or type(spec.head.readout) is Tied,
            }
    return None


def parts_of(head: HeadSpec, pooler: Pooler | None, labels: str, predictions: str) -> set[str]:
    """The parts of a class that a head and a pooler are."""
    found = {predictions} if type(head) is Transformed else set()
    if pooler is not None:
        found |= {"pooler", labels} if pooler.labels else {"pooler"}
    return found


def classes_of(parts: Collection[str], classes: Mapping[str, Collection[str]]) -> list[str]:
    """The class with exactly these parts, or else all whose parts are among them."""
    exact = [name for name, own in classes.items() if set(own) == set(parts)]
    return exact or [name for name, own in classes.items() if set(own) <= set(parts)]


def with_stored(settings: Settings, stored: Mapping[str, Stored], classes: Mapping[str, Collection[str]]) -> Settings:
    """The settings with `architectures` that also have the parts whose tensors are stored."""
    parts = {part for own in classes.values() for part in own if any(name.startswith(f"{part}.") for name in stored)}
    return {**settings, "architectures": [*(settings["architectures"] or ()), *classes_of(parts, classes)]}


def amend(settings: Settings, stored: Mapping[str, Stored]) -> Settings:
    """The heads of BERT that are stored."""
    return with_stored(settings, stored, CLASSES)


LAYER = "bert.encoder.layer.{}"
TENSORS = (
    tensor("bert.embeddings.word_embeddings.weight", "embed.table"),
    tensor("bert.embeddings.position_embeddings.weight", "embed.position.table"),
    tensor("bert.embeddings.token_type_embeddings.weight", "embed.types"),
    tensor("bert.embeddings.LayerNorm.weight", "embed.norm.scale"),
    tensor("bert.embeddings.LayerNorm.bias", "embed.norm.bias"),
    tensor(f"{LAYER}.attention.self.query.weight", "stack.{}.attention.query.weight", layout=Axes("d h k -> (h k) d")),
    tensor(f"{LAYER}.attention.self.query.bias", "stack.{}.attention.query.bias", layout=Axes("h k -> (h k)")),
    tensor(f"{LAYER}.attention.self.key.weight", "stack.{}.attention.key.weight", layout=Axes("d g k -> (g k) d")),
    tensor(f"{LAYER}.attention.self.key.bias", "stack.{}.attention.key.bias", layout=Axes("g k -> (g k)")),
    tensor(f"{LAYER}.attention.self.value.weight", "stack.{}.attention.value.weight", layout=Axes("d g k -> (g k) d")),
    tensor(f"{LAYER}.attention.self.value.bias", "stack.{}.attention.value.bias", layout=Axes("g k -> (g k)")),
    tensor(f"{LAYER}.attention.output.dense.weight", "stack.{}.attention.out.weight", layout=Axes("h k d -> d (h k)")),
    tensor(f"{LAYER}.attention.output.dense.bias", "stack.{}.attention.out.bias"),
    tensor(f"{LAYER}.attention.output.LayerNorm.weight", "stack.{}.attention_residual.after.scale"),
    tensor(f"{LAYER}.attention.output.LayerNorm.bias", "stack.{}.attention_residual.after.bias"),
    tensor(f"{LAYER}.intermediate.dense.weight", "stack.{}.ffn.up.weight", layout=Axes("d f -> f d")),
    tensor(f"{LAYER}.intermediate.dense.bias", "stack.{}.ffn.up.bias"),
    tensor(f"{LAYER}.output.dense.weight", "stack.{}.ffn.down.weight", layout=Axes("f d -> d f")),
    tensor(f"{LAYER}.output.dense.bias", "stack.{}.ffn.down.bias"),
    tensor(f"{LAYER}.output.LayerNorm.weight", "stack.{}.ffn_residual.after.scale"),
    tensor(f"{LAYER}.output.LayerNorm.bias", "stack.{}.ffn_residual.after.bias"),
    tensor("bert.pooler.dense.weight", "pooler.pool.weight", layout=Axes("d f -> f d")),
    tensor("bert.pooler.dense.bias", "pooler.pool.bias"),
    tensor("cls.predictions.transform.dense.weight", "head.transform.weight", layout=Axes("d w -> w d")),
    tensor("cls.predictions.transform.dense.bias", "head.transform.bias"),
    tensor("cls.predictions.transform.LayerNorm.weight", "head.norm.scale"),
    tensor("cls.predictions.transform.LayerNorm.bias", "head.norm.bias"),
    tensor("cls.predictions.bias", "head.bias"),
    tensor("cls.predictions.decoder.weight", "head.readout.out.weight", layout=Axes("d v -> v d")),
    tensor("cls.predictions.decoder.bias", "head.bias", beside="head.readout.out.weight"),  # the one that counts
    tensor("cls.seq_relationship.weight", "pooler.out.weight", layout=Axes("f y -> y f")),
    tensor("cls.seq_relationship.bias", "pooler.out.bias"),
)

BERT = Family(
    architecture="BertForPreTraining",
    defaults={
        "architectures": None,
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
    },
    fixed={"position_embedding_type": "absolute", "is_decoder": False},
    inert=frozenset(
        {
            "classifier_dropout",
            "directionality",
            "pooler_fc_size",
            "pooler_num_attention_heads",
            "pooler_num_fc_layers",
            "pooler_size_per_head",
            "pooler_type",
        }
    ),
    read=read,
    write=write,
    amend=amend,
    tensors=TENSORS,
    prefix="bert.",
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)
