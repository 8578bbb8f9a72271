"""Which class of transformers a checkpoint is: the bare model, and the parts that its class adds, such as a head.

config.json names the class; published checkpoints say BertForMaskedLM and hold the pooler and the next-sentence head
too, so that a part whose tensors are stored is read whatever the class.
"""

from collections.abc import Callable, Container, Mapping

from fxformer.hf.family import Family, Settings
from fxformer.hf.layout import Axes
from fxformer.hf.names import Tensor, tensor
from fxformer.layers.head import Bare, HeadSpec, Labels, Tied, Untied
from fxformer.layers.project import Init
from fxformer.model import Transformer

Parts = frozenset[str]


def stored_parts(family: Family, declared: Parts, stored: Container[str], bare: Callable[[str], str]) -> Parts:
    """The declared parts and those that are stored beside them, without spare ones that are not.

    bare: a name as it is stored. A part joins only where no other holds its tensors, or the same parameters.
    """

    def held(part: str) -> list[Tensor]:
        return [line for line in family.parts[part] if bare(line.name) in stored]

    found = set(declared)
    for part in family.parts:
        taken = lines_of(family, frozenset(found))
        names, paths = {line.name for line in taken}, {path for line in taken for path in line.paths}
        lines = held(part)
        if lines and not any(line.name in names or paths & {*line.paths} for line in lines):
            found.add(part)
    return frozenset(part for part in found if part not in family.spare or held(part) or found & {*family.spare[part]})


def lines_of(family: Family, parts: Parts) -> tuple[Tensor, ...]:
    """The lines of these parts in the name table, each once."""
    return tuple(dict.fromkeys(line for part, lines in family.parts.items() if part in parts for line in lines))


def exact_classes(family: Family, parts: Parts) -> list[str]:
    """The classes with exactly these parts, or else with these and spare ones."""
    own, spare = {name: frozenset(each) for name, each in family.classes.items()}, frozenset(family.spare)
    same = [name for name, each in own.items() if each == parts]
    return same or [name for name, each in own.items() if each - spare == parts - spare]


def classes_of(family: Family, parts: Parts) -> list[str]:
    """The exact classes, or else those that together have these parts; raises ValueError where there are none."""
    if not family.classes:
        return [family.architecture]
    exact = exact_classes(family, parts)
    within = {name: each for name, each in family.classes.items() if parts.issuperset(each)}
    if not exact and parts.difference(*within.values()):
        raise ValueError(f"none of {', '.join(family.classes)} has the parts {', '.join(sorted(parts))}")
    return exact[:1] or list(within)


def other_class(family: Family, config: Settings) -> str:
    """What to say behind a sentence on tensors where config.json names no class that is read; nothing where it does."""
    named = config.get("architectures") or ()
    classes = family.classes or {family.architecture: ()}
    if not named or set(named) & set(classes):
        return ""
    return f"; config.json says {', '.join(named)}, and of this family {', '.join(classes)} are read"


def label_names(spec: Transformer) -> Settings:
    """The settings that say how many classes a model tells apart, where it does."""
    labels = spec.head.labels if type(spec.head) is Labels else 0
    labels = labels or (0 if spec.pooler is None else spec.pooler.labels)
    names = {i: f"LABEL_{i}" for i in range(labels)}
    return {"id2label": names, "label2id": {name: i for i, name in names.items()}} if labels else {}


# A decoder with its head over the vocabulary, with classes for a text or for each of its tokens, or alone.
LM_HEAD, SCORE, TOKEN_SCORE = "lm_head", "score", "token_score"
WEIGHT = tensor("score.weight", "head.out.weight", layout=Axes("d y -> y d"))
DECODER_PARTS: Mapping[str, tuple[Tensor, ...]] = {
    LM_HEAD: (tensor("lm_head.weight", "head.out.weight", layout=Axes("d v -> v d")),),
    SCORE: (WEIGHT,),
    TOKEN_SCORE: (WEIGHT, tensor("score.bias", "head.out.bias")),
}
DECODER_CLASSES = {
    "ForCausalLM": (LM_HEAD,),
    "Model": (),
    "ForSequenceClassification": (SCORE,),
    "ForTokenClassification": (TOKEN_SCORE,),
}


def decoder_classes(name: str, without: Container[str] = ()) -> Mapping[str, tuple[str, ...]]:
    """The classes of a decoder called `name`, but for those that end in one of `without`."""
    return {f"{name}{end}": parts for end, parts in DECODER_CLASSES.items() if end not in without}


def read_head(settings: Settings, init: Init) -> HeadSpec:
    """The head of a decoder."""
    parts = settings["parts"]
    if parts & {SCORE, TOKEN_SCORE}:
        return Labels(labels=settings["labels"], bias=TOKEN_SCORE in parts, init=init)
    if LM_HEAD not in parts:
        return Bare()
    return Tied() if settings["tie_word_embeddings"] else Untied(init=init)


def decoder_parts(spec: Transformer) -> tuple[Parts, ...]:
    """What `read_head` makes the head of."""
    match spec.head:
        case Bare():
            return (frozenset(),)
        case Labels(bias=bias):
            return (frozenset({TOKEN_SCORE if bias else SCORE}),)
    return (frozenset({LM_HEAD}),)
