"""One question for models of all objectives: which bytes fill a hole in a row of held-out text?

With text on both sides of the hole it is a cloze, with none after it a continuation. The answer is the probability of
the whole hole, a product of one byte after the other, each given those before it: that holds for whatever a model was
trained on, so their bits per byte are comparable. What is left of a model's probability, on special tokens say, is its
loss; so is the end of a span, which only some have to predict and which is not counted.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import fxformer as fx
from fxformer.coords import Coords, plain
from fxformer.model import Params
from fxformer.table import columns
from train.config import Config
from train.data.corpus import Corpus, entropies, validation_windows
from train.data.tokenizer import BYTES
from train.errors import UserError, user_input
from train.objectives import (
    OBJECTIVES,
    Batch,
    BlankInfilling,
    Causal,
    Masked,
    MultiToken,
    NextSentence,
    PrefixLM,
    SentenceOrder,
    SpanCorruption,
)
from train.objectives.blanks import blank
from train.objectives.objective import answer, token_loss
from train.objectives.pairs import join
from train.objectives.spans import corrupt
from train.objectives.tasks import Spans
from train.run.sample import load_run


class Hole(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of a row of `length` are asked for."""

    start: int
    stop: int
    length: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def open(self) -> bool:
        """Does nothing follow it?"""
        return self.stop == self.length


def holes(length: int, size: int) -> dict[str, Hole]:
    """The probes by name: a hole in the middle of the row, and one at its end. ValueError where a row is too short."""
    begin = (length - size) // 2
    if size < 1:
        raise ValueError(f"size={size} is no hole; use 1 or more")
    if begin < 1:
        raise ValueError(f"a hole of {size} in rows of {length} bytes leaves nothing before it; use a longer row")
    return {"cloze": Hole(begin, begin + size, length), "continuation": Hole(length - size, length, length)}


def from_the_left(objective: Any, rows_BT: Array, hole: Hole) -> Batch:
    """Each byte of the hole from all before it; what follows the hole is not seen."""
    if not hole.open:
        raise ValueError("it sees only what stands before the hole")
    inputs_BT, targets_BT = rows_BT[:, :-1], rows_BT[:, 1:]
    place_T = jnp.arange(1, hole.length)
    weights_BT = jnp.broadcast_to((place_T >= hole.start).astype(jnp.float32), targets_BT.shape)
    return Batch(inputs_BT, targets_BT, weights_BT, plain(hole.length - 1))


def from_a_prefix(objective: Any, rows_BT: Array, hole: Hole) -> Batch:
    """The same with all bytes before the hole seeing each other."""
    batch = from_the_left(objective, rows_BT, hole)
    prefix_BT = jnp.arange(batch.inputs.shape[1])[None] < hole.start
    return batch._replace(coords=replace(batch.coords, prefix=prefix_BT))


def of_masks(objective: Any, rows_BT: Array, hole: Hole) -> Batch:
    """The hole is masks, as many as bytes are missing; one after another is replaced by its byte."""
    return _masked_in_turn(rows_BT, plain(hole.length), hole.start, hole.size, objective.specials.mask)


def of_masks_in_a_pair(objective: Any, rows_BT: Array, hole: Hole) -> Batch:
    """The same in the form that pairs of segments have, the first one a quarter of the row, in their own order."""
    cut = jnp.asarray(hole.length // 4)
    join_row = partial(join, begin=jnp.asarray(0), size=cut, second=cut, specials=objective.specials)
    tokens_BN, types_BN = jax.vmap(lambda row_T: join_row(row_T, b_T=row_T))(rows_BT)
    coords = replace(plain(tokens_BN.shape[1]), type=types_BN[:1])
    return _masked_in_turn(tokens_BN, coords, hole.start + 2, hole.size, objective.specials.mask)


def _masked_in_turn(tokens_BN: Array, coords: Coords, start: int, size: int, mask: int) -> Batch:
    """Row b * size + k has bytes k … of the hole masked, and byte k predicted."""
    place_N, turn_K1 = jnp.arange(tokens_BN.shape[1]), jnp.arange(size)[:, None]
    hidden_KN = (place_N >= start + turn_K1) & (place_N < start + size)
    inputs_BKN = jnp.where(hidden_KN, mask, tokens_BN[:, None])
    targets_BKN = jnp.broadcast_to(tokens_BN[:, None], inputs_BKN.shape)
    weights_BKN = jnp.broadcast_to((place_N == start + turn_K1).astype(jnp.float32), inputs_BKN.shape)
    flat = (-1, place_N.size)
    return Batch(inputs_BKN.reshape(flat), targets_BKN.reshape(flat), weights_BKN.reshape(flat), coords)


def of_sentinels(objective: Any, rows_BT: Array, hole: Hole) -> Batch:
    """The encoder reads the row with a sentinel for the hole; the decoder writes it after that sentinel."""
    place_T = jnp.arange(hole.length)
    noise_T = (place_T >= hole.start) & (place_T < hole.stop)
    runs = 1 if hole.open else 2  # of text
    lengths = (hole.length - hole.size + 2, hole.size + runs + 1)
    inputs_BS, targets_BT = jax.vmap(lambda row_T: corrupt(row_T, noise_T, lengths, objective.specials))(rows_BT)
    place_N = jnp.arange(lengths[1])
    weights_BT = jnp.broadcast_to(((place_N >= 1) & (place_N <= hole.size)).astype(jnp.float32), targets_BT.shape)
    start_B1 = jnp.full((rows_BT.shape[0], 1), objective.specials.pad)
    return Batch(
        inputs=jnp.concatenate([start_B1, targets_BT[:, :-1]], axis=1),
        targets=targets_BT,
        weights=weights_BT,
        coords=plain(lengths[1]),
        encoder_tokens=inputs_BS,
        encoder_coords=plain(lengths[0]),
    )


def of_blanks(objective: Any, rows_BT: Array, hole: Hole) -> Batch:
    """The row with [MASK] for the hole, [gMASK] where nothing follows; then the piece."""
    mark = objective.specials.gmask if hole.open else objective.specials.mask
    spans = Spans(jnp.asarray([hole.start]), jnp.asarray([hole.size]))
    row = jax.vmap(lambda row_T: blank(row_T, spans, mark, objective.specials))(rows_BT)
    coords = Coords(index=row.order, segment=jnp.zeros_like(row.order), prefix=row.source, pos=row.pos)
    step_BN = row.pos[..., 1]  # in the piece: 1 predicts its first byte
    weights_BN = ((step_BN >= 1) & (step_BN <= hole.size)).astype(jnp.float32)
    return Batch(row.inputs, row.targets, weights_BN, coords)


Ask = Callable[[Any, Array, Hole], Batch]
ASKED: dict[type, Ask] = {
    Causal: from_the_left,
    MultiToken: from_the_left,
    PrefixLM: from_a_prefix,
    Masked: of_masks,
    NextSentence: of_masks_in_a_pair,
    SentenceOrder: of_masks_in_a_pair,
    SpanCorruption: of_sentinels,
    BlankInfilling: of_blanks,
}


def question(name: str, rows_BT: Array, hole: Hole) -> Batch:
    """What a model of this objective reads and is asked; ValueError, with the reason, where it cannot be."""
    objective = OBJECTIVES[name]
    return jax.jit(ASKED[type(objective)], static_argnums=(0, 2))(objective, rows_BT, hole)


def bits_per_byte(spec: fx.Transformer, params: Params, batch: Batch, rows: int = 64) -> float:
    """-log2 of the probability of what is asked, on average over its bytes; `rows` are read at a time."""

    @jax.jit
    def score(params: Params, batch: Batch) -> tuple[Array, Array]:
        return token_loss(answer(spec, params, batch), batch), jnp.sum(batch.weights)

    count = batch.inputs.shape[0]

    def part(begin: int) -> Batch:
        return jax.tree.map(lambda leaf: leaf[begin : begin + rows] if leaf.shape[0] == count else leaf, batch)

    scores = np.array([score(params, part(begin)) for begin in range(0, count, rows)])
    return float(np.average(scores[:, 0], weights=scores[:, 1]) / math.log(2))


class Probed(NamedTuple):
    """A run and its bits per byte of each probe, or why it cannot be asked."""

    config: Config
    parameters: int
    answers: dict[str, float | str]


def probe(folders: Sequence[Path], *, length: int = 48, size: int = 8, count: int = 256) -> list[Probed]:
    """Ask the model of each run for the holes of the same `count` rows of text that none of them has read.

    Raises UserError where the runs were not trained on one text, or their models read no rows of `length`.
    """
    if count < 1:
        raise UserError(f"count={count} asks for nothing; use 1 or more")
    runs = [load_run(folder) for folder in folders]
    for config, _, _ in runs:
        if config.data.tokenizer != BYTES:
            raise UserError(
                f"{config.name} reads tokens of tokenizer={config.data.tokenizer!r}; give runs that read bytes"
            )
    corpus = _common_corpus([config for config, _, _ in runs])
    with user_input():
        corpus.check(length - 1)
        asked = holes(length, size)
    rows_BT = jnp.asarray(validation_windows(corpus.validation, length=length - 1, count=count), jnp.int32)
    return [
        Probed(config, fx.count(spec), {name: _answer(config, spec, params, rows_BT, asked[name]) for name in asked})
        for config, spec, params in runs
    ]


def _answer(config: Config, spec: fx.Transformer, params: Params, rows_BT: Array, hole: Hole) -> float | str:
    try:
        batch = question(config.train.objective, rows_BT, hole)
    except ValueError as error:
        return str(error)
    with user_input():
        return bits_per_byte(spec, params, batch)


def _common_corpus(configs: Sequence[Config]) -> Corpus:
    if not configs:
        raise UserError("there is no run to ask; give one or more folders")
    read = {config.name: config.corpus() for config in configs}
    first, *others = read.items()
    for name, corpus in others:
        if corpus.sha256 != first[1].sha256:
            raise UserError(
                f"{first[0]} was trained on {first[1].name}, {name} on {corpus.name}; give runs on one text"
            )
    return first[1]


def table(probed: Sequence[Probed]) -> str:
    """One line a run, and the entropy of single bytes; why a run was not asked stands below."""
    names = tuple(probed[0].answers)
    corpus = _common_corpus([run.config for run in probed])
    rows = [
        (
            run.config.name,
            run.config.train.objective,
            f"{run.parameters:,}",
            str(run.config.train.steps),
            *(_number(run.answers[name]) for name in names),
        )
        for run in probed
    ]
    unigram = f"{entropies(corpus).unigram_entropy / math.log(2):.3f}"
    rows.append(("(single bytes)", "", "", "", *(unigram for _ in names)))
    reasons = [
        f"{run.config.name}, {name}: {run.answers[name]}"
        for run in probed
        for name in names
        if isinstance(run.answers[name], str)
    ]
    return "\n".join([columns([("run", "objective", "parameters", "steps", *names), *rows]), *reasons])


def _number(answer: float | str) -> str:
    return "-" if isinstance(answer, str) else f"{answer:.3f}"
