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
from fxformer.zoo.family import Family


def python(value: Any, indent: int = 0) -> str:
    """The Python that makes a spec again, one field a line; fields at their default are left out."""
    if isinstance(value, tuple):
        items = [python(item, indent + 4) for item in value]
        inner = ", ".join(items)
        return f"({inner},)" if len(items) == 1 else f"({inner})"
    if not is_dataclass(value):
        return repr(value)
    said = [(f.name, getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) != f.default]
    space = " " * (indent + 4)
    body = ", ".join(f"{name}={python(item, indent + 4)}" for name, item in said)
    name = type(value).__name__
    if len(body) + indent <= 80 and "\n" not in body:
        return f"{name}({body})"
    lines = "".join(f"{space}{field}={python(item, indent + 4)},\n" for field, item in said)
    return f"{name}(\n{lines}{' ' * indent})"


def row(name: str, family: Family, spec: Transformer) -> tuple[str, ...]:
    """A line of `list`: name, family, year, kind, norm, placement, position, attention, ffn, parameters."""
    block = next(accounting.blocks(spec))
    norm = block.residual.norm.kind
    attention = _heads(block)
    return (
        name,
        family.title,
        str(family.year),
        family.kind,
        norm,
        block.residual.placement,
        _position(spec, block),
        attention,
        f"{type(block.ffn).__name__} {block.ffn.activation}",
        f"{accounting.count(spec):,}",
    )


COLUMNS = ("name", "family", "year", "kind", "norm", "placement", "position", "attention", "ffn", "parameters")


def describe(name: str, family: Family, spec: Transformer, length: int) -> str:
    """Everything about a model on one page."""
    facts = {
        "parameters": f"{accounting.count(spec):,}",
        "forward FLOPs per token": f"{accounting.flops(spec, length):.4g} at {length} tokens",
        "cache bytes per token": f"{accounting.cache_bytes(spec):,} in 16 bits",
        "objective": "next token",
        "source": family.source,
    }
    lines = [f"{name}: {family.title}, {family.year}, {family.kind}", "", python(spec), ""]
    lines += [f"  {part:<24}{formula}" for part, formula in _formulas(spec)]
    lines += ["", *(f"  {title:<24}{value}" for title, value in facts.items())]
    return "\n".join(lines)


def _formulas(spec: Transformer) -> Iterator[tuple[str, str]]:
    """The first line of what documents each part of the first block."""
    block = next(accounting.blocks(spec))
    yield "placement", _first_line(PLACEMENTS[block.residual.placement].join)
    yield "norm", _first_line(NORMS[block.residual.norm.kind])
    yield "attention", _first_line(type(block.attention))
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


def _position(spec: Transformer, block: Block) -> str:
    slots = (spec.embed.position, block.attention.rotary, spec.stack.bias)
    return ", ".join(type(slot).__name__.lower() for slot in slots if slot is not None) or "none"
