"""Published models in words: a line of `list`, the page of `describe`."""

from collections.abc import Callable, Iterable
from typing import Any

from fxformer import accounting
from fxformer.layers.attention import GQA, MLA, Differential
from fxformer.layers.embed import LearnedPair
from fxformer.layers.ffn import GLU, MLP, MoE
from fxformer.model import Transformer
from fxformer.page import page, positions
from fxformer.zoo.family import Family

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
        ", ".join(dict.fromkeys(map(_position, positions(spec)))) or "none",
        _joined(ATTENTION_WORDS[type(block.attention)](block.attention) for block in blocks),
        _joined(FFN_WORDS[type(block.ffn)](block.ffn) for block in blocks),
    )


def _joined(words: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(words))


def _position(spec: Any) -> str:
    return POSITION_WORDS.get(type(spec), type(spec).__name__.lower())


def _gqa(spec: GQA | Differential) -> str:
    kinds = {spec.heads: "MHA", 1: "MQA"}
    return kinds.get(spec.kv_heads, f"GQA-{spec.kv_heads}") + ("" if spec.mask.reach is None else f" {spec.mask.reach}")


def _moe(spec: MoE) -> str:
    return f"MoE {spec.router.k} of {spec.experts} x {FFN_WORDS[type(spec.expert)](spec.expert)}"


# A layer in a few words; the number after an attention is how far back it sees.
ATTENTION_WORDS: dict[type, Callable[[Any], str]] = {
    GQA: _gqa,
    MLA: lambda spec: "MLA" if spec.index is None else f"MLA, best {spec.index.keep}",
    Differential: lambda spec: f"differential {_gqa(spec)}",
}
POSITION_WORDS: dict[type, str] = {LearnedPair: "learned pair"}  # what is not called by its type
FFN_WORDS: dict[type, Callable[[Any], str]] = {
    MLP: lambda spec: f"MLP {spec.activation}",
    GLU: lambda spec: f"GLU {spec.activation}",
    MoE: _moe,
}


def describe(name: str, family: Family, spec: Transformer, length: int | None = None) -> str:
    """Everything about a published model on one page; length: see `page`."""
    told = {"objective": family.objective, "source": family.source}
    lines = [f"{name}: {family.title}, {family.year}, {family.kind}", "", page(spec, length)]
    return "\n".join([*lines, *(f"{title:<16}  {value}" for title, value in told.items())])
