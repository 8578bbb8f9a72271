"""One entry of one table on a page: its formula, source and code, what it costs, and what holds it to its word."""

import argparse
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fxformer import accounting, zoo
from fxformer.layers import bias, embed, head
from fxformer.layers.attention import ATTENTION, GQA
from fxformer.layers.ffn import FFN, GLU, MLP
from fxformer.layers.norm import Norm
from fxformer.layers.residual import PLACEMENTS, Residual
from fxformer.lookup import nearest
from fxformer.model import Transformer
from fxformer.ops import ACTIVATIONS, DISPATCHES, KERNELS, NORMS, PAIRINGS, ROUTERS, SCALINGS
from fxformer.ops.mask import Blocks, Causal, Full, Prefix, Strided, Window
from fxformer.ops.rotary import NTK, Dynamic, Linear, Llama3, Rotary
from fxformer.stack import Stack
from fxformer.verify import DECODE_LAWS, LAWS, lawful, uncacheable, verify, verify_decoding
from fxformer.walk import parts, replaced
from fxformer.zoo.toy import ATTENTIONS, FFNS, GATES, HEADS, MASKS, POSITIONS, TALKING, toy

ROOT = Path(__file__).parents[2]
ORACLES = ("tests/ops/*.py", "tests/laws/reference.py", "tests/test_m*.py")  # where truths in NumPy are
LENGTH = 64  # tokens that FLOPs are stated at: those of a toy
MASK_KINDS = (Full, Causal, Window, Prefix, Strided, Blocks)
TYPED: dict[str, Mapping[type, Any]] = {  # tables of what is chosen by its type, with the modules that compute it
    "ATTENTION": ATTENTION, "FFN": FFN, "BIASES": bias.BIASES, "POSITIONS": embed.POSITIONS, "HEADS": head.HEADS,
    "ROUTERS": ROUTERS, "DISPATCHES": DISPATCHES, "SCALINGS": SCALINGS, "masks": {kind: kind for kind in MASK_KINDS},
}  # fmt: skip
NAMED: dict[str, Mapping[str, Any]] = {  # and of what is chosen by a name
    "NORMS": NORMS, "ACTIVATIONS": ACTIVATIONS, "PLACEMENTS": PLACEMENTS, "PAIRINGS": PAIRINGS, "KERNELS": KERNELS,
}  # fmt: skip
# Fields of a spec that are variants of their own: the spec, and what the toy factory calls it and sets it to.
FIELDS: dict[str, tuple[type, str, Any]] = {
    "gate": (GQA, "gate", "head"),
    "mix_logits": (GQA, "talking_heads", "logits"),
    "mix_weights": (GQA, "talking_heads", "weights"),
    "value_residual": (GQA, "value_residual", 0.5),
    "softcap": (GQA, "softcap", 30.0),
    "qk_norm": (GQA, "qk_norm", "rms"),
    "memory_tokens": (Stack, "memory_tokens", 3),
    "layer_scale": (Residual, "layer_scale", 0.1),
    "stochastic_depth": (Residual, "stochastic_depth", 0.2),
}
OTHER_NAMES = {
    "talking_heads": "mix_logits", "gated_attention": "gate", "layerscale": "layer_scale",
    "drop_path": "stochastic_depth", "registers": "memory_tokens",
    "swiglu": "glu", "mha": "gqa", "mqa": "gqa", "t5": "buckets",
}  # fmt: skip
AXES: dict[str, Mapping[str, Any]] = {  # settings of the toy factory by which a model with an entry is found
    "norm": NORMS, "placement": PLACEMENTS, "position": POSITIONS, "mask": MASKS, "attention": ATTENTIONS, "ffn": FFNS,
    "activation": ACTIVATIONS, "head": HEADS, "gate": GATES, "talking_heads": TALKING,
}  # fmt: skip
SAYING = (head.Labels(labels=2), head.Span())  # what no factory chooses
STRETCHED = (
    Linear(factor=2.0), NTK(factor=2.0), Dynamic(factor=2.0, original_length=64),
    Llama3(factor=8.0, original_length=64),
)  # fmt: skip
SOURCE = re.compile(
    r"(?:[A-Z][\w'-]+(?:, | & | and | |-))+(?:et al\. )?(?:19|20)\d\d(?: \([^)]*\))?"
    r"(?:, (?:section|eq\.|appendix|algorithms?) [A-Z\d]\w*(?:\.\d+)*(?: (?:to|and) \d+)?|, \d\.\d)?"
    r"|[A-Z]\w+ \d, 20\d\d"
)


class Entry(NamedTuple):
    """What is explained: the table it is in, its name there, what it says of itself, and the code that computes it."""

    table: str
    name: str
    about: str
    code: tuple[Any, ...]


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser with the options of `explain`."""
    parser.add_argument("name", help="an entry of a table: mla, rms, sandwich, alibi, switch, gate, layer_scale, …")
    parser.add_argument("--verify", action="store_true", help="try its laws too; exit code 1 where one is broken")
    return parser


def explain(arguments: argparse.Namespace) -> int:
    """Print the page of every entry of this name; returns 1 where a law that was tried is broken."""
    name = arguments.name.lower().replace("-", "_")
    name, broken = OTHER_NAMES.get(name, name), False
    for entry in nearest(entries(), name, "entry"):
        words, model = example(entry)
        print("\n".join(page(entry, words, model)))
        if arguments.verify:
            tried = [*verify(model), *(() if uncacheable(model) else verify_decoding(model))]
            broken = broken or any(verdict != "ok" for _, verdict, _ in tried)
            print("\n".join(f"{'':11}{law:<28}{verdict:<8}{deviation}" for law, verdict, deviation in tried))
    return int(broken)


@lru_cache(maxsize=1)
def entries() -> dict[str, tuple[Entry, ...]]:
    """Every entry by its name in small letters, with _ for -; a name may stand in several tables."""
    found = [
        Entry(table, kind.__name__, _said(kind), tuple(dict.fromkeys((kind, module))))
        for table, kinds in TYPED.items()
        for kind, module in kinds.items()
    ]
    found += [
        Entry(table, name, "\n".join(map(_said, _functions(value))), _functions(value))
        for table, names in NAMED.items()
        for name, value in names.items()
    ]
    found += [Entry(kind.__name__, field, _field(kind, field), (kind,)) for field, (kind, _, _) in FIELDS.items()]
    by_name: dict[str, tuple[Entry, ...]] = {}
    for entry in found:
        name = entry.name.lower().replace("-", "_")
        by_name[name] = (*by_name.get(name, ()), entry)
    return by_name


def page(entry: Entry, words: str, model: Transformer) -> Iterator[str]:
    """Its lines. words: the Python that makes `model`, which has the entry."""
    yield f"{entry.name}, of {entry.table}"
    yield from _titled("formula", entry.about)
    sources = SOURCE.findall(entry.about.replace("\n", " "))
    yield from _titled("source", "; ".join(dict.fromkeys(sources or _of_file(entry))))
    yield from _titled("code", "\n".join(map(_place, entry.code)))
    yield from _titled("oracle", _oracle(entry))
    yield from _titled("costs", "\n".join((f"of {words}", *_costs(model))))
    laws = [name for name, law in LAWS.items() if law.concerns(lawful(model))]
    decoding = [] if uncacheable(model) else [name for name, law in DECODE_LAWS.items() if law.concerns(lawful(model))]
    yield from _titled("laws", f"{', '.join(laws)}\ndecoding: {', '.join(decoding) or uncacheable(model)}")


def _titled(title: str, text: str) -> Iterator[str]:
    """The lines of a text beside its title; nothing for no text."""
    for i, line in enumerate(text.splitlines()):
        yield f"  {title if i == 0 else '':<9}{line}".rstrip()


def _said(documented: Any) -> str:
    return inspect.getdoc(documented) or ""


def _functions(value: Any) -> tuple[Any, ...]:
    """The functions of an entry: a placement has one for attention, feed-forward and either end."""
    return (value,) if callable(value) and not isinstance(value, tuple) else tuple(dict.fromkeys(value))


def _field(kind: type, field: str) -> str:
    """What the docstring of a spec says of one field, up to the next."""
    text = " ".join(_said(kind).split())
    names = "|".join(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    found = re.search(rf"(?:^|\s)((?:\w+, )*{field}(?:, \w+)*: .*?)(?=\s(?:(?:{names}), )*(?:{names}): |$)", text)
    assert found is not None, f"{kind.__name__} does not say what {field} is"
    return found[1]


def _of_file(entry: Entry) -> list[str]:
    """The sources that the file of its code names, where the entry itself names none."""
    module = inspect.getmodule(entry.code[0])
    return SOURCE.findall((_said(module)).replace("\n", " "))


def _place(part: Any) -> str:
    part = inspect.unwrap(part)
    file, (_, line) = Path(inspect.getsourcefile(part) or ""), inspect.getsourcelines(part)
    return f"{file.relative_to(ROOT).as_posix()}:{line}  {part.__name__}"


def _oracle(entry: Entry) -> str:
    """Where the tests have a truth in NumPy that names it; they are not part of an installed package."""
    names = {entry.name, *(part.__name__ for part in entry.code)}
    named = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")
    files = [file for pattern in ORACLES for file in sorted(ROOT.glob(pattern)) if named.search(file.read_text("utf8"))]
    return ", ".join(file.relative_to(ROOT).as_posix() for file in files)


def _costs(model: Transformer) -> Iterator[str]:
    """Its costs by the accounting, and those of the toy without the entry."""
    for title, of in (
        ("parameters", accounting.count),
        (f"FLOPs a token at {LENGTH}", lambda spec: round(accounting.flops(spec, LENGTH))),
        ("cache bytes a token", accounting.cache_bytes),
    ):
        yield f"{title:<22}{of(model):>12,}   toy() {of(toy()):>10,}"


@lru_cache(maxsize=256)
def example(entry: Entry) -> tuple[str, Transformer]:
    """(the Python that makes it, a model with the entry): a toy where the factory can choose it, else a tiny one."""
    if entry.name in FIELDS:
        _, setting, value = FIELDS[entry.name]
        return f"toy({setting}={value!r})", toy(**{setting: value})
    for words, model in _models():
        if entry.table == "KERNELS" or _has(model, entry):
            return words, model
    raise AssertionError(f"no model has {entry.name}")


def _models() -> Iterator[tuple[str, Transformer]]:
    yield "toy()", toy()
    for axis, values in AXES.items():
        for name in values:
            setting: dict[str, Any] = {axis: name}
            yield f"toy({axis}={name!r})", toy(**setting)
    yield from ((f"zoo.tiny({name!r})", zoo.tiny(name)) for name in zoo.names())
    yield from ((f"toy() with {saying}", replace(toy(), head=saying)) for saying in SAYING)
    for scaling in STRETCHED:
        yield f"toy() with {scaling}", replaced(toy(), Rotary, Rotary(width=16, scaling=scaling))


def _has(model: Transformer, entry: Entry) -> bool:
    """Whether some part of the model is the entry, or names it."""
    names = {
        "NORMS": [norm.kind for norm in parts(model, Norm)],
        "ACTIVATIONS": [*(mlp.activation for mlp in parts(model, MLP)), *(glu.activation for glu in parts(model, GLU))],
        "PLACEMENTS": [residual.placement for residual in parts(model, Residual)],
        "PAIRINGS": [rotary.pairing for rotary in parts(model, Rotary)],
    }
    if entry.table in names:
        return entry.name in names[entry.table]
    return any(type(part) is entry.code[0] for part in parts(model, object))
