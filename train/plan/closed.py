"""What a program takes by formulas alone: an estimate where no compiler is, and what candidates are sifted by.

What stays between steps (parameters, moments, caches) is exact, from shapes and places. The rest counts what a block
keeps for its backward pass (Korthikanti et al. 2022, section 4) and what each cut of it exchanges (Shoeybi et al. 2019,
section 3; Rajbhandari et al. 2020, section 7).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import fxformer as fx
from fxformer import accounting, sharding
from fxformer.block import Block
from fxformer.layers.attention import GQA, MLA, Differential
from fxformer.layers.ffn import GLU, MLP, MoE
from fxformer.pipeline import parts_of
from train.plan.hlo import Collective


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Into how many pieces a program is cut: its rows and tokens, the stream where nothing is computed on it, each
    layer, each parameter along the stream, the experts, the vocabulary, and the layers, of which stages have some."""

    rows: int
    tokens: int
    stream: int
    layer: int
    width: int
    experts: int
    vocab: int
    stages: int


def pieces_of(mesh: sharding.AnyMesh, rules: sharding.Rules) -> Pieces:
    """By the rules whose mesh axis there is."""

    def size(axis: str) -> int:
        return mesh.shape.get(rules.get(axis, ""), 1)

    over_layers = rules.get("token") == rules.get("ffn")
    return Pieces(
        rows=size("batch"),
        tokens=size("batch") * (1 if over_layers else size("token")),
        stream=size("token") if over_layers else 1,
        layer=size("ffn"),
        width=size("width"),
        experts=size("expert"),
        vocab=size("vocab"),
        stages=size("layer"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one device does in one run. flops: of matrix products. bytes: to and from memory. temporaries: bytes that
    stand there besides arguments, gradients among them."""

    flops: float
    bytes: float
    temporaries: float
    collectives: tuple[Collective, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A training step as far as formulas see it. held: bytes of the parameters on one device, and of the moments;
    stays: of those that are not gathered, for tokens come to them. naive: the longest rows whose every weight of
    attention is kept."""

    spec: fx.Transformer
    batch: int
    length: int
    parts: int
    remat: bool
    itemsize: int
    naive: int
    held: float
    stays: float
    moments: float
    pieces: Pieces = field(repr=False)

    @property
    def passed(self) -> int:
        """Into how many parts a batch is cut that passes through stages."""
        if self.pieces.stages == 1:
            return 1
        return parts_of(self.batch // self.parts // self.pieces.rows, self.pieces.stages)

    @property
    def ticks(self) -> int:
        """How many parts of a batch a stage works on, counting those that are not there while it waits."""
        return self.passed + self.pieces.stages - 1

    @property
    def busy(self) -> float:
        """What a stage computes, of what it would if it never waited: while it does it computes what nobody reads."""
        return self.ticks / self.passed

    @property
    def own(self) -> list[Block]:
        """The blocks of one device."""
        groups = [group for stack in _stacks(self.spec) for group in stack.groups]
        cut = [self.pieces.stages if group.stacked and not group.tied else 1 for group in groups]
        return [each for group, n in zip(groups, cut, strict=True) for each in group.blocks * (group.n // n)]


def training_work(step: Step) -> Work:
    """Of one update. Products are counted three times, four where blocks are computed again.

    Where parameters are gathered, those of two blocks are there at once, and a gradient that is not yet cut.
    """
    spec, pieces = step.spec, step.pieces
    tokens = step.batch * step.length / pieces.tokens / step.parts  # at once
    again = 4 if step.remat else 3
    head = 2.0 * accounting.HEAD_WEIGHTS[type(spec.head)](spec.head, spec.embed)
    blocks = accounting.flops(spec, step.length) - head
    share = step.busy * len(step.own) / len(_blocks(spec)) / pieces.layer  # of the blocks, on one device
    flops = tokens * step.parts * (again * blocks * share + 3 * head / pieces.vocab)
    streams = tokens * spec.embed.width * step.itemsize
    inside = [
        step.busy * kept(block, spec.embed.width, tokens, step.length, step.itemsize, pieces.layer, step.naive)
        for block in step.own
    ]
    saved = sum(inside)
    if step.remat:
        saved = len(inside) * step.busy * streams / pieces.stream + 2 * max(inside) / step.ticks
    said = _logits(spec) * tokens * 4.0 / pieces.vocab
    whole = (step.held - step.stays) * pieces.width  # of the parameters, as gathered
    gathered = 3 * whole / len(inside) * step.itemsize / 4 if pieces.width > 1 else 0.0
    temporaries = step.held + saved + gathered + 2 * said + (3 * streams if pieces.stages > 1 else 0.0)
    read = step.ticks * again * (whole + step.stays) * step.itemsize / 4  # in the type that is computed in
    moved = read + 3 * (step.held + step.moments) + 2 * again / 3 * (sum(inside) + 2 * said) * step.parts
    return Work(flops=flops, bytes=moved, temporaries=temporaries, collectives=tuple(_exchanged(step, streams)))


def _exchanged(step: Step, streams: float) -> list[Collective]:
    """Sums of gradients, parameters that are gathered, and sums of what parts of a layer say."""
    pieces, told = step.pieces, []
    whole = (step.held - step.stays) * pieces.width  # of the parameters that one part of each layer has
    if pieces.width > 1:
        each = whole * step.itemsize / 4
        told.append(
            Collective("all-gather", each, pieces.width, times=(3 if step.remat else 2) * step.ticks * step.parts)
        )
        told.append(Collective("reduce-scatter", each, pieces.width, times=step.parts))
    elif pieces.tokens > 1:
        each = whole if pieces.stages == 1 else whole * step.itemsize / 4  # a pipeline sums at every tick
        told.append(Collective("all-reduce", each, pieces.tokens, times=step.ticks))
    if pieces.experts > 1:
        chosen = sum(block.ffn.router.k for block in _blocks(step.spec) if isinstance(block.ffn, MoE))
        told.append(
            Collective("all-to-all", streams * chosen, pieces.experts, times=(6 if step.remat else 4) * step.parts)
        )
    if pieces.layer > 1:
        sums = (6 if step.remat else 4) * len(step.own) * step.parts * step.ticks
        told.append(Collective("all-reduce", streams / step.passed, pieces.layer, times=sums))
    if pieces.stages > 1:
        times = 2.0 * step.ticks * step.parts
        told.append(Collective("collective-permute", streams / step.passed, pieces.stages, times=times))
        # The stream on its way into the stages and out of them, forward and backward.
        told.append(Collective("all-reduce", streams, pieces.stages, times=4.0 * step.parts))
    return told


def decoding_work(spec: fx.Transformer, batch: int, length: int, held: float, cache: float, pieces: Pieces) -> Work:
    """Of one token more in each row: every parameter and every record is read once. `length` is what a row may hold."""
    rows, width = batch / pieces.tokens, spec.embed.width
    streams = rows * width * 2.0
    told = []
    if pieces.layer > 1:
        told.append(Collective("all-reduce", streams, pieces.layer, times=2.0 * len(_blocks(spec))))
    if pieces.width > 1:
        told.append(Collective("all-gather", held * pieces.width, pieces.width))
    flops = rows * accounting.flops(spec, length) / pieces.layer
    temporaries = rows * (_logits(spec) * 4.0 / pieces.layer + 8 * width * 2.0)
    return Work(flops=flops, bytes=held * pieces.width + cache, temporaries=temporaries, collectives=tuple(told))


def kept(block: Block, width: int, tokens: float, length: int, itemsize: int, pieces: int, naive: int) -> float:
    """Bytes that the backward pass of a block reads, of `tokens` in rows of `length`; its channels in `pieces`.

    naive: the longest rows whose every weight is kept.
    """
    attention = KEPT_BY_ATTENTION[type(block.attention)](block.attention)
    weights = block.attention.heads * (length * (4 + itemsize) if length <= naive else 8)
    hidden = KEPT_BY_FFN[type(block.ffn)](block.ffn)
    cross = 0 if block.cross is None else KEPT_BY_ATTENTION[GQA](block.cross)
    return tokens * (6 * width * itemsize + ((attention + cross + hidden) * itemsize + weights) / pieces)


def _gqa(spec: Any) -> int:
    return 2 * (spec.heads + spec.kv_heads) * spec.key_width


def _mla(spec: MLA) -> int:
    return spec.latent + spec.heads * (2 * (spec.nope_width + spec.rope_width) + 2 * spec.value_width)


def _moe(spec: MoE) -> int:
    shared = 0 if spec.shared is None else KEPT_BY_FFN[type(spec.shared)](spec.shared)
    return spec.router.k * KEPT_BY_FFN[type(spec.expert)](spec.expert) + shared


# Numbers of one token that a layer keeps: queries, keys, values and what they say; what comes before and after an
# activation.
KEPT_BY_ATTENTION: dict[type, Callable[[Any], int]] = {GQA: _gqa, Differential: lambda spec: 2 * _gqa(spec), MLA: _mla}
KEPT_BY_FFN: dict[type, Callable[[Any], int]] = {
    MLP: lambda spec: 2 * spec.inner,
    GLU: lambda spec: 3 * spec.inner,
    MoE: _moe,
}


def _logits(spec: fx.Transformer) -> float:
    """Numbers that the head says of one token."""
    return accounting.HEAD_WEIGHTS[type(spec.head)](spec.head, spec.embed) / spec.embed.width


def _stacks(spec: fx.Transformer) -> list[fx.Stack]:
    return [spec.stack, *(() if spec.encoder is None else (spec.encoder,))]


def _blocks(spec: fx.Transformer) -> list[Block]:
    return [block for stack in _stacks(spec) for block in stack.blocks]
