"""A Spec in words and in Python."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from fxformer import accounting
from fxformer.layers.attention import GQA, MLA
from fxformer.layers.bias import ALiBi, Buckets
from fxformer.layers.embed import Learned, LearnedPair, Sinusoidal
from fxformer.layers.ffn import GLU, MLP, MoE
from fxformer.layers.norm import Norm
from fxformer.layers.residual import PLACEMENTS, Residual
from fxformer.model import Transformer
from fxformer.ops.activation import ACTIVATIONS
from fxformer.ops.norm import NORMS
from fxformer.ops.rotary import Rotary, rotate
from fxformer.ops.route import ROUTERS
from fxformer.walk import parts
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
    """The line of `list` under COLUMNS."""
    return *features(name, family, spec), f"{accounting.count(spec):,}"


def features(name: str, family: Family, spec: Transformer) -> tuple[str, ...]:
    """All of it but the parameters, at once; what alternates along the depth is said once each, joined by +."""
    blocks = tuple(dict.fromkeys(spec.stack.blocks))
    return (
        name,
        family.title,
        str(family.year),
        family.kind,
        _joined(block.residual.norm.kind for block in blocks),
        _joined(block.residual.placement for block in blocks),
        ", ".join(dict.fromkeys(map(_position, _positions(spec)))) or "none",
        _joined(ATTENTION_WORDS[type(block.attention)](block.attention) for block in blocks),
        _joined(FFN_WORDS[type(block.ffn)](block.ffn) for block in blocks),
    )


def _joined(words: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(words))


def _position(spec: Any) -> str:
    return POSITION_WORDS.get(type(spec), type(spec).__name__.lower())


def _gqa(spec: GQA) -> str:
    kinds = {spec.heads: "MHA", 1: "MQA"}
    return kinds.get(spec.kv_heads, f"GQA-{spec.kv_heads}") + ("" if spec.mask.reach is None else f" {spec.mask.reach}")


def _moe(spec: MoE) -> str:
    return f"MoE {spec.router.k} of {spec.experts} x {FFN_WORDS[type(spec.expert)](spec.expert)}"


# A layer in a few words; the number after an attention is how far back it sees.
ATTENTION_WORDS: dict[type, Callable[[Any], str]] = {
    GQA: _gqa,
    MLA: lambda spec: "MLA" if spec.index is None else f"MLA, best {spec.index.keep}",
}
POSITION_WORDS: dict[type, str] = {LearnedPair: "learned pair"}  # what is not called by its type
FFN_WORDS: dict[type, Callable[[Any], str]] = {
    MLP: lambda spec: f"MLP {spec.activation}",
    GLU: lambda spec: f"GLU {spec.activation}",
    MoE: _moe,
}


def describe(name: str, family: Family, spec: Transformer, length: int) -> str:
    """Everything about a model on one page; FLOPs are those of a sequence of `length` tokens."""
    full, causal = accounting.flops(spec, length), accounting.flops(spec, length, causal=True)
    inference, training = accounting.inference_bytes(spec) / 1e9, accounting.training_bytes(spec) / 1e9
    facts = {
        "parameters": f"{accounting.count(spec):,}",
        "FLOPs per token": f"{full:.4g} forward at {length} tokens, {causal:.4g} if future keys are skipped",
        "cache per token": f"{accounting.cache_bytes(spec):,} bytes in 16 bits",
        "memory": f"{inference:,.2f} GB in 16 bits, {training:,.2f} GB to train with Adam",
        "objective": family.objective,
        "source": family.source,
    }
    lines = [f"{name}: {family.title}, {family.year}, {family.kind}", "", python(spec), ""]
    lines += [f"{part:<16}  {formula}" for part, formula in _formulas(spec)]
    lines += ["", *(f"{title:<16}  {value}" for title, value in facts.items())]
    return "\n".join(lines)


def _formulas(spec: Transformer) -> Iterator[tuple[str, str]]:
    """The first line of what documents each different part."""
    stacks = (spec.stack,) if spec.encoder is None else (spec.encoder, spec.stack)
    said = [
        *(("placement", line) for residual in parts(stacks, Residual) for line in _joins(residual)),
        *(("norm", _first_line(NORMS[norm.kind])) for norm in parts(spec, Norm)),
        *(("position", _first_line(SPOKEN.get(type(position), type(position)))) for position in _positions(spec)),
    ]
    for block in (block for stack in stacks for block in stack.blocks):
        said.append(("attention", _first_line(type(block.attention))))
        said.append(("mask", _first_line(type(block.attention.mask))))
        said.append(("feed-forward", _first_line(type(block.ffn))))
    said += [("router", _first_line(ROUTERS[type(moe.router)])) for moe in parts(spec, MoE)]
    dense: tuple[MLP | GLU, ...] = (*parts(spec, MLP), *parts(spec, GLU))
    said += [("activation", _first_line(ACTIVATIONS[ffn.activation])) for ffn in dense]
    said += [("head", _first_line(type(spec.head)))]
    said += [(name, _first_line(type(part))) for name, part in _extras(spec) if part is not None]
    last = ""
    for name, line in sorted(dict.fromkeys(said), key=lambda pair: [name for name, _ in said].index(pair[0])):
        yield "" if name == last else name, line
        last = name


def _joins(residual: Residual) -> tuple[str, ...]:
    placement = PLACEMENTS[residual.placement]
    return _first_line(placement.attention), _first_line(placement.ffn)


def _extras(spec: Transformer) -> tuple[tuple[str, Any], ...]:
    return ("pooler", spec.pooler), ("multi-token prediction", spec.mtp)


def _first_line(documented: Any) -> str:
    return documented.__doc__.strip().splitlines()[0]


def _positions(spec: Transformer) -> tuple[Any, ...]:
    """What fills the three places where position acts: embedding, queries and keys, logits."""
    kinds = (Sinusoidal, Learned, LearnedPair, Rotary, Buckets, ALiBi)
    return tuple(dict.fromkeys(part for kind in kinds for part in parts(spec, kind)))
