"""A Spec in words and in Python."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from fxformer import accounting
from fxformer.block import Block
from fxformer.layers.residual import PLACEMENTS
from fxformer.model import Transformer
from fxformer.ops.activation import ACTIVATIONS
from fxformer.ops.norm import NORMS
from fxformer.ops.rotary import Rotary, rotate
from fxformer.zoo.family import Family

LINE = 100  # characters
SPOKEN = {Rotary: rotate}  # specs whose formula stands at a function


def python(value: Any, indent: int = 0) -> str:
    """The Python that makes a spec again; fields at their default are left out."""
    if not (is_dataclass(value) or isinstance(value, tuple)):
        return repr(value)
    name, parts = _parts(value)
    items = [label + python(item, indent + 4) for label, item in parts]
    comma = "," if len(items) == 1 and not name else ""
    line = f"{name}({', '.join(items)}{comma})"
    if "\n" not in line and indent + len(line) <= LINE:
        return line
    body = "".join(f"{' ' * (indent + 4)}{item},\n" for item in items)
    return f"{name}(\n{body}{' ' * indent})"


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]]]:
    """What stands before the bracket, and what in it: (label, value)."""
    if isinstance(value, tuple):
        return "", [("", item) for item in value]
    said = [(f"{field.name}=", getattr(value, field.name), field.default) for field in fields(value)]
    return type(value).__name__, [(label, item) for label, item, default in said if item != default]


COLUMNS = ("name", "family", "year", "kind", "norm", "placement", "position", "attention", "ffn", "parameters")


def row(name: str, family: Family, spec: Transformer) -> tuple[str, ...]:
    """The line of `list` under COLUMNS, by the first block of the model."""
    block = next(accounting.blocks(spec))
    return (
        name,
        family.title,
        str(family.year),
        family.kind,
        block.residual.norm.kind,
        block.residual.placement,
        ", ".join(type(position).__name__.lower() for position in _positions(spec, block)) or "none",
        _heads(block),
        f"{type(block.ffn).__name__} {block.ffn.activation}",
        f"{accounting.count(spec):,}",
    )


def describe(name: str, family: Family, spec: Transformer, length: int) -> str:
    """Everything about a model on one page; FLOPs are those of a sequence of `length` tokens."""
    full, causal = accounting.flops(spec, length), accounting.flops(spec, length, causal=True)
    inference, training = accounting.inference_bytes(spec) / 1e9, accounting.training_bytes(spec) / 1e9
    facts = {
        "parameters": f"{accounting.count(spec):,}",
        "FLOPs per token": f"{full:.4g} forward at {length} tokens, {causal:.4g} if future keys are skipped",
        "cache per token": f"{accounting.cache_bytes(spec):,} bytes in 16 bits",
        "memory": f"{inference:,.2f} GB in 16 bits, {training:,.2f} GB to train with Adam",
        "source": family.source,
    }
    lines = [f"{name}: {family.title}, {family.year}, {family.kind}", "", python(spec), ""]
    lines += [f"{part:<16}  {formula}" for part, formula in _formulas(spec)]
    lines += ["", *(f"{title:<16}  {value}" for title, value in facts.items())]
    return "\n".join(lines)


def _formulas(spec: Transformer) -> Iterator[tuple[str, str]]:
    """The first line of what documents each part of the first block."""
    block = next(accounting.blocks(spec))
    yield "placement", _first_line(PLACEMENTS[block.residual.placement].join)
    yield "norm", _first_line(NORMS[block.residual.norm.kind])
    for position in _positions(spec, block):
        yield "position", _first_line(SPOKEN.get(type(position), type(position)))
    yield f"attention: {_heads(block)}", _first_line(type(block.attention))
    yield "mask", _first_line(type(block.attention.mask))
    yield "feed-forward", _first_line(type(block.ffn))
    yield "activation", _first_line(ACTIVATIONS[block.ffn.activation])
    yield "head", _first_line(type(spec.head))


def _first_line(documented: Any) -> str:
    return documented.__doc__.strip().splitlines()[0]


def _heads(block: Block) -> str:
    attention = block.attention
    if attention.kv_heads == attention.heads:
        return "MHA"
    return "MQA" if attention.kv_heads == 1 else f"GQA-{attention.kv_heads}"


def _positions(spec: Transformer, block: Block) -> list[Any]:
    """The three places where position acts: those that are filled."""
    slots = (spec.embed.position, block.attention.rotary, spec.stack.bias)
    return [slot for slot in slots if slot is not None]
