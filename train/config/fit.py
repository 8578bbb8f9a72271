"""Does a model fit an objective: tokens it must know, positions and tokens it must see, an encoder it must have."""

from functools import lru_cache

import jax

from fxformer import zoo
from fxformer.layers.embed import Learned, Sinusoidal
from fxformer.ops.rotary import Rotary
from fxformer.walk import parts
from train.data.tokenizer import VOCAB
from train.objectives import Batch, objective_of


@lru_cache(maxsize=1024)  # the cells of a grid have few models
def check_objective(name: str, spec: zoo.Transformer, rows: jax.ShapeDtypeStruct, text: int = VOCAB) -> None:
    """Raise ValueError where the model cannot be trained with the objective, on rows of text of this shape.

    text: how many tokens it is made of.
    """
    objective, said = objective_of(name, text), f"objective={name!r}"
    known, needed = spec.embed.vocab, objective.vocab
    if known < needed:
        raise ValueError(f"{said} has {needed} tokens, the model knows {known}")
    batch = shapes(name, rows, text)
    if (batch.encoder_tokens is not None) != (spec.encoder is not None):
        tokens, encoder = ("tokens", "no encoder") if spec.encoder is None else ("no tokens", "an encoder")
        raise ValueError(f"{said} has {tokens} for an encoder, the model has {encoder}")
    labels = 0 if spec.pooler is None else spec.pooler.labels
    if batch.labels is not None and labels < 2:
        raise ValueError(f"{said} has 2 classes of rows, the model has a pooler of labels={labels}; give it 2")
    if batch.mtp is not None and spec.mtp is None:
        raise ValueError(f"{said} predicts {1 + batch.mtp.shape[-1]} tokens, the model 1")
    singles = [1 for _ in parts(spec, (Learned, Sinusoidal))]
    given, seen = streams_of(batch), min([*singles, *(rotary.streams for rotary in parts(spec, Rotary))], default=2)
    if given > seen:
        raise ValueError(f"{said} has {given} streams of positions, the model sees {seen}")
    if not objective.hides and any(block.attention.mask.bidirectional for block in spec.stack.blocks):
        raise ValueError(f"{said} predicts tokens that the model's mask shows it; use a causal mask")


@lru_cache(maxsize=64)
def shapes(name: str, rows: jax.ShapeDtypeStruct, text: int = VOCAB) -> Batch:
    """The shapes of what an objective makes of rows of text; starts no device."""
    objective = objective_of(name, text)
    return jax.eval_shape(lambda rows: objective(rows, jax.random.key(0)), rows)


def streams_of(batch: Batch) -> int:
    """How many positions a token has."""
    assert batch.coords.pos is not None
    return 1 if batch.coords.pos.ndim == 2 else batch.coords.pos.shape[-1]
