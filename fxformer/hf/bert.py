"""BERT (`BertModel` and the classes with its heads): post-norm, three embeddings, Linear weights (out, in).

With is_decoder each token sees those before it only. ALBERT has the same embeddings, layers and heads by other names.
"""

from fxformer.block import Block
from fxformer.hf.family import ACTIVATION_NAMES, ACTIVATIONS, Family, Settings
from fxformer.hf.layout import Axes, Same
from fxformer.hf.names import Tensor, tensor
from fxformer.hf.parts import Parts
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed, Learned
from fxformer.layers.ffn import MLP
from fxformer.layers.head import Bare, HeadSpec, Labels, Pooler, Span, Tied, Transformed, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.lookup import nearest
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Full, Mask
from fxformer.stack import Repeat, Stack

# What a class adds to the encoder; `bert_parts` says by which names it is stored.
PREDICTIONS, POOLER, SENTENCES = "predictions", "pooler", "sentences"
CLASSIFIER, TOKEN_CLASSIFIER, SPAN = "classifier", "token_classifier", "span"
SPARE = {POOLER: (SENTENCES, CLASSIFIER)}


def classes(name: str) -> dict[str, tuple[str, ...]]:
    """The classes of a relative of BERT called `name`, and the parts of each."""
    return {
        f"{name}Model": (POOLER,),
        f"{name}ForMaskedLM": (PREDICTIONS,),
        f"{name}ForPreTraining": (PREDICTIONS, POOLER, SENTENCES),
        f"{name}ForSequenceClassification": (POOLER, CLASSIFIER),
        f"{name}ForTokenClassification": (TOKEN_CLASSIFIER,),
        f"{name}ForQuestionAnswering": (SPAN,),
    }


def read(settings: Settings) -> Transformer:
    """The Spec of a BERT config."""
    block = block_of(settings, Causal() if settings["is_decoder"] else Full())
    return encoder(settings, (Repeat(settings["num_hidden_layers"], (block,)),), sentences=2)


def encoder(settings: Settings, groups: tuple[Repeat, ...], *, sentences: int) -> Transformer:
    """Blocks with the embeddings of BERT and its heads; sentences: labels of the one for pairs of sentences."""
    init, norm = Normal(settings["initializer_range"]), norm_of(settings)
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
        head=head_of(settings),
        pooler=pooler_of(settings, sentences),
    )


def head_of(settings: Settings) -> HeadSpec:
    """What is said of each token."""
    parts, init = settings["parts"], Normal(settings["initializer_range"])
    if TOKEN_CLASSIFIER in parts:
        return Labels(labels=settings["labels"], init=init)
    if SPAN in parts:
        return Span(init=init)
    if PREDICTIONS not in parts:
        return Bare()
    return Transformed(
        activation=nearest(ACTIVATIONS, settings["hidden_act"], "hidden_act"),
        norm=norm_of(settings),
        readout=Tied() if settings["tie_word_embeddings"] else Untied(init=init),
        init=init,
    )


def pooler_of(settings: Settings, sentences: int) -> Pooler | None:
    """What is said of a whole text."""
    parts = settings["parts"]
    if POOLER not in parts:
        return None
    labels = sentences if SENTENCES in parts else settings["labels"] if CLASSIFIER in parts else 0
    return Pooler(labels=labels, init=Normal(settings["initializer_range"]))


def parts_of(spec: Transformer) -> tuple[Parts, ...]:
    """What `head_of` and `pooler_of` make the head and the pooler of; labels of a text may be of two parts."""
    own = {Bare: frozenset[str](), Labels: frozenset({TOKEN_CLASSIFIER}), Span: frozenset({SPAN})}
    head = own.get(type(spec.head), frozenset({PREDICTIONS}))
    if spec.pooler is None:
        return (head,)
    if not spec.pooler.labels:
        return (head | {POOLER},)
    kinds = (SENTENCES, CLASSIFIER) if PREDICTIONS in head else (CLASSIFIER, SENTENCES)
    return tuple(head | {POOLER, kind} for kind in kinds)


def block_of(settings: Settings, mask: Mask) -> Block:
    """One layer of BERT."""
    init, width, heads = Normal(settings["initializer_range"]), settings["hidden_size"], settings["num_attention_heads"]
    if width % heads:
        raise ValueError(f"config.json has num_attention_heads={heads}, which does not divide hidden_size={width}")
    return Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads,
            key_width=width // heads,
            mask=mask,
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
            causal = type(block.attention.mask) is Causal
            writes = causal and parts_of(spec) == (frozenset({PREDICTIONS}),)
            named = {"architectures": ["BertLMHeadModel"]} if writes else {}
            return {**sizes, "num_hidden_layers": depth, "is_decoder": causal, **named}
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


def linear(theirs: str, ours: str, weight: str, bias: str | None = None) -> tuple[Tensor, Tensor]:
    """The lines of a Linear: how its weight turns, and its bias where that turns too."""
    turned = Same() if bias is None else Axes(bias)
    return tensor(f"{theirs}.weight", f"{ours}.weight", layout=Axes(weight)), tensor(
        f"{theirs}.bias", f"{ours}.bias", layout=turned
    )


def gains(theirs: str, ours: str) -> tuple[Tensor, Tensor]:
    """The lines of a norm."""
    return tensor(f"{theirs}.weight", f"{ours}.scale"), tensor(f"{theirs}.bias", f"{ours}.bias")


def embeddings(name: str) -> tuple[Tensor, ...]:
    """The lines of the embeddings of a relative of BERT whose names begin so."""
    return (
        tensor(f"{name}.embeddings.word_embeddings.weight", "embed.table"),
        tensor(f"{name}.embeddings.position_embeddings.weight", "embed.position.table"),
        tensor(f"{name}.embeddings.token_type_embeddings.weight", "embed.types"),
        *gains(f"{name}.embeddings.LayerNorm", "embed.norm"),
    )


def layers(root: str, *, heads: str, out: str, norm: str, up: str, down: str, last: str) -> tuple[Tensor, ...]:
    """The lines of a layer: what its names begin with, and their words for heads, matrices and norms."""
    attention = "stack.{}.attention"
    return (
        *linear(f"{root}.{heads}.query", f"{attention}.query", "d h k -> (h k) d", "h k -> (h k)"),
        *linear(f"{root}.{heads}.key", f"{attention}.key", "d g k -> (g k) d", "g k -> (g k)"),
        *linear(f"{root}.{heads}.value", f"{attention}.value", "d g k -> (g k) d", "g k -> (g k)"),
        *linear(f"{root}.{out}", f"{attention}.out", "h k d -> d (h k)"),
        *gains(f"{root}.{norm}", "stack.{}.attention_residual.after"),
        *linear(f"{root}.{up}", "stack.{}.ffn.up", "d f -> f d"),
        *linear(f"{root}.{down}", "stack.{}.ffn.down", "f d -> d f"),
        *gains(f"{root}.{last}", "stack.{}.ffn_residual.after"),
    )


def parts(*, predictions: str, transform: str, pooler: str, sentences: str) -> dict[str, tuple[Tensor, ...]]:
    """The lines of the parts; their words for those that differ among relatives of BERT."""
    return {
        PREDICTIONS: (
            *linear(f"{transform}dense", "head.transform", "d w -> w d"),
            *gains(f"{transform}LayerNorm", "head.norm"),
            tensor(f"{predictions}.bias", "head.bias"),
            tensor(f"{predictions}.decoder.weight", "head.readout.out.weight", layout=Axes("d v -> v d")),
            # The bias that counts where the matrix is not tied.
            tensor(f"{predictions}.decoder.bias", "head.bias", beside="head.readout.out.weight"),
        ),
        POOLER: linear(pooler, "pooler.pool", "d f -> f d"),
        SENTENCES: linear(sentences, "pooler.out", "f y -> y f"),
        CLASSIFIER: linear("classifier", "pooler.out", "f y -> y f"),
        TOKEN_CLASSIFIER: linear("classifier", "head.out", "d y -> y d"),
        SPAN: linear("qa_outputs", "head.out", "d y -> y d"),
    }


def copies(name: str, predictions: str) -> dict[str, str]:
    """What the head of masked language modelling shares, of a relative of BERT whose names begin so."""
    return {
        f"{predictions}.decoder.weight": f"{name}.embeddings.word_embeddings.weight",
        f"{predictions}.decoder.bias": f"{predictions}.bias",
    }


LAYER = layers(
    "bert.encoder.layer.{}",
    heads="attention.self",
    out="attention.output.dense",
    norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    last="output.LayerNorm",
)

BERT = Family(
    architecture="BertModel",
    classes={
        **classes("Bert"),
        "BertForNextSentencePrediction": (POOLER, SENTENCES),
        "BertLMHeadModel": (PREDICTIONS,),
    },
    parts=parts(
        predictions="cls.predictions",
        transform="cls.predictions.transform.",
        pooler="bert.pooler.dense",
        sentences="cls.seq_relationship",
    ),
    spare=SPARE,
    parts_of=parts_of,
    defaults={
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
        "is_decoder": False,
    },
    fixed={"position_embedding_type": "absolute"},
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
    tensors=(*embeddings("bert"), *LAYER),
    prefix="bert.",
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    buffers=("embeddings.position_ids", "embeddings.token_type_ids"),
    copies=copies("bert", "cls.predictions"),
)
