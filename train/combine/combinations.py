"""Every two choices of the toy factory and of the objectives, together in one model that is tried, or refused."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

import fxformer as fx
from fxformer import zoo
from fxformer.block import Block
from fxformer.given import check_cacheable
from fxformer.layers.attention import GQA
from fxformer.layers.head import Pooler
from fxformer.layers.residual import PLACEMENTS
from fxformer.mtp import MTP
from fxformer.ops.mask import Full
from fxformer.ops.norm import NORMS
from fxformer.stack import Stack
from fxformer.table import columns
from fxformer.zoo.toy import ATTENTIONS, FFNS, GATES, MASKS, POSITIONS, TALKING
from train.combine.covering import Pair, Row, covering, pairs
from train.combine.trial import Finding, findings
from train.config.fit import check_objective, shapes
from train.objectives import OBJECTIVES, Batch

AXES: dict[str, tuple[Any, ...]] = {
    "position": tuple(POSITIONS),
    "attention": tuple(ATTENTIONS),
    "mask": tuple(MASKS),
    "norm": tuple(NORMS),
    "placement": tuple(PLACEMENTS),
    "ffn": tuple(FFNS),
    "gate": tuple(GATES),
    "talking_heads": tuple(TALKING),
    "value_residual": (None, 0.5),
    "layer_scale": (None, 0.1),
    "memory_tokens": (0, 2),
    "objective": tuple(OBJECTIVES),
}
WIDTH, DEPTH, HEADS = 24, 2, 3
ROWS = 2
OFTEN = 5  # combinations tried between two lines that say how far it is
INPUTS = 72  # tokens that an objective makes, at most; GLM's spans with their gaps need most of them
TEXT = b"Every two choices meet in a model that works, or one sentence says why not; a third choice is no excuse. "


def spec_of(row: Row) -> fx.Transformer:
    """The toy of these choices with what its objective needs beside: an encoder, a pooler, multi-token prediction.

    Raises ValueError where choices exclude each other.
    """
    name, objective = row["objective"], OBJECTIVES[row["objective"]]
    choices: dict[str, Any] = {axis: value for axis, value in row.items() if axis != "objective"}
    toy = zoo.toy(**choices, width=WIDTH, depth=DEPTH, heads=HEADS, length=INPUTS, vocab=objective.vocab)
    rows = jax.ShapeDtypeStruct((ROWS, objective.raw_length(INPUTS)), np.int32)
    spec = _completed(toy, shapes(name, rows))
    check_objective(name, spec, rows)
    return spec


def _completed(spec: fx.Transformer, batch: Batch) -> fx.Transformer:
    (block,) = spec.stack.groups[0].blocks
    if batch.labels is not None:
        spec = replace(spec, pooler=Pooler(labels=2), embed=replace(spec.embed, types=2))
    if batch.mtp is not None:
        spec = replace(spec, mtp=MTP(block=block, norm=spec.stack.norm))
    if batch.encoder_tokens is not None:
        encoding = replace(block, attention=replace(block.attention, mask=Full()))
        crossing = replace(block, cross=GQA(heads=HEADS, kv_heads=HEADS, key_width=WIDTH // HEADS, mask=Full()))
        stack = spec.stack
        spec = replace(spec, encoder=_with_block(stack, encoding), stack=_with_block(stack, crossing))
    return spec


def _with_block(stack: Stack, block: Block) -> Stack:
    return replace(stack, groups=(replace(stack.groups[0], blocks=(block,)),))


def refusal(row: Row) -> str | None:
    """Why there is no model of these choices, in one sentence, or None."""
    return _said(spec_of, row)


def _said(function: Callable[[Any], Any], argument: Any) -> str | None:
    """The ValueError that a call raises, or None."""
    try:
        function(argument)
    except ValueError as error:
        return str(error)
    return None


@lru_cache(maxsize=len(OBJECTIVES))
def batch_of(name: str) -> Batch:
    """What an objective makes of ROWS rows of text."""
    objective, text = OBJECTIVES[name], np.frombuffer(TEXT, np.uint8).astype(np.int32)
    rows = text[np.arange(ROWS)[:, None] * 9 + np.arange(objective.raw_length(INPUTS))]
    return jax.jit(objective)(rows, jax.random.key(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A combination that was tried. uncached: why it cannot be decoded with a cache, None where it was."""

    row: Row
    findings: tuple[Finding, ...]
    uncached: str | None

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.kept)


def attempt(row: Row) -> Outcome:
    """Build the model of a row that is accepted, and try it."""
    spec = spec_of(row)
    return Outcome(
        row=row, findings=tuple(findings(spec, batch_of(row["objective"]))), uncached=_said(check_cacheable, spec)
    )


def attempts(rows: Sequence[Row], workers: int = 2) -> Iterator[Outcome]:
    """Try each row, some at a time: the compiler leaves the interpreter to others while it works."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(attempt, rows)


def verify_combinations(say: Callable[[str], None] = partial(print, flush=True)) -> bool:
    """Try a covering array of AXES and say what came out, failures as they are found; True where there are none."""
    rows, refused = covering(AXES, refusal)
    say(f"{len(rows)} combinations to try")
    outcomes = []
    for outcome in attempts(rows):
        outcomes.append(outcome)
        for finding in outcome.failures:
            say(f"FAILED {finding.name}: {finding.deviation:.1e} > {finding.allowed:.1e} in {_named(outcome.row)}")
        if len(outcomes) % OFTEN == 0:
            say(f"{len(outcomes)} of {len(rows)} tried")
    say(report(outcomes, refused))
    return not any(outcome.failures for outcome in outcomes)


def report(outcomes: Sequence[Outcome], refused: dict[Pair, Row]) -> str:
    """The counts, and each sentence with how often it was said."""
    laws = Counter(finding.name for outcome in outcomes for finding in outcome.findings)
    failed = Counter(finding.name for outcome in outcomes for finding in outcome.failures)
    total = sum(1 for _ in pairs(AXES))
    counts = {
        "combinations": f"{len(outcomes)} tried, {sum(bool(outcome.failures) for outcome in outcomes)} of them failed",
        "pairs of choices": f"{total}: {total - len(refused)} met, {len(refused)} refused",
    }
    lines = [f"{name:<18}{value}" for name, value in counts.items()]
    lines += ["", columns([("found out", "models", "failures"), *((n, str(laws[n]), str(failed[n])) for n in laws)])]
    for title, sentences in (
        ("pairs refused, because", Counter(refusal(row) for row in refused.values())),
        ("combinations without a cache, because", Counter(outcome.uncached for outcome in outcomes)),
    ):
        lines += ["", title, *(f"{count:5}  {said}" for said, count in sentences.most_common() if said is not None)]
    return "\n".join(lines)


def _named(row: Row) -> str:
    return ", ".join(f"{axis}={value}" for axis, value in row.items())
