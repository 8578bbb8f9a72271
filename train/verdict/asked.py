"""A question held against the grid it is asked of: what cannot be answered, and what is asked in words."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from train.verdict.cells import FEWEST_SEEDS
from train.verdict.number import number_of
from train.verdict.question import (
    MEASURES,
    MOST_ARMS,
    RATES,
    RUNS,
    SEED,
    Cell,
    Question,
    arms_of,
    determined,
    pairs_of,
    places_of,
    values_of,
    varying,
    with_name,
)
from train.verdict.race import is_raced

FEWEST_RATES = 3  # of fewer, the best one always lies on the edge of the grid
SHOWN = 8  # arms that are called by name, at most


def objections(question: Question, cells: Sequence[Cell]) -> Iterator[str]:
    """Why the cells cannot answer the question, a sentence each; none where they can. Raises ValueError for a `versus`
    that is no arm."""
    for find in (_fixed, _forgotten, _unmeasurable, _crowded):
        yield from find(question, cells)
    if len(arms_of(cells, question)) > MOST_ARMS:
        return  # what follows looks at each two of them
    for find in (_nothing, _unpaired, _unequal, _edges):
        yield from find(question, cells)


def thin(question: Question, cells: Sequence[Cell]) -> list[str]:
    """That too few seeds are given for a verdict, where that is so; one sentence, or none."""
    given = places_of(cells, question, (*question.across, SEED))
    shared = [Counter(place[:-1] for place in given[a.name] & given[b.name]) for a, b in pairs_of(cells, question)]
    most = max((count for counts in shared for count in counts.values()), default=0)
    if not 0 < most < FEWEST_SEEDS:
        return []
    given_are = f"{number_of(most, 'seed')} {'is' if most == 1 else 'are'} given"
    return [f"{given_are}, and a verdict would be withheld: it needs {FEWEST_SEEDS}, --seeds {FEWEST_SEEDS}"]


def in_words(question: Question, cells: Sequence[Cell]) -> str:
    """What is asked, in one sentence with the number of pairs."""
    arms, pairs = arms_of(cells, question), pairs_of(cells, question)
    names = [arm.name for arm in arms[:SHOWN]] + [f"{len(arms) - SHOWN} more"] * (len(arms) > SHOWN)
    against = f" each with {question.versus}" if question.versus is not None else ""
    across = [f"{name} {_listed(values_of(cells, name))}" for name in question.across]
    said = [f"compares {' and '.join(question.compare)} ({', '.join(names)}){against}"]
    said[0] += (f" across {' and '.join(across)}" if across else "") + _rates(question, cells)
    units = {"loss": f"smallest difference that matters {question.smallest:g} nats"}
    said += [f"measures {', '.join(question.measure)}", *(units[name] for name in question.measure if name in units)]
    given = places_of(cells, question, (*question.across, SEED))
    runs = sum(len(given[a.name] & given[b.name]) for a, b in pairs)
    one = "s" * (len(pairs) != 1)
    said += [
        f"{len(pairs)} pair{one} of arms, {runs} of runs" + (" at a rate" if len(values_of(cells, "lr")) > 1 else "")
    ]
    if question.extend:
        said.append(f"while a best lr lies on its edge, the grid grows by up to {question.extend} rungs")
    if question.run == "racing":
        said.append(RUNS["racing"] if is_raced(question) else "runs that are dead stop; every rate counts, and all run")
    return "; ".join(said)


def _rates(question: Question, cells: Sequence[Cell]) -> str:
    tuned = [name for name in question.tune if len(values_of(cells, name)) > 1]
    if tuned:
        return " " + RATES[question.at].format(tune=" and ".join(tuned))
    rates = values_of(cells, "lr")
    return f" at lr {rates[0]:g}" if len(rates) == 1 and rates[0] is not None else ""


def _everywhere(name: str, cells: Sequence[Cell]) -> str:
    (value,) = values_of(cells, name) or (None,)
    return f"it is {value!r} in every cell"


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _fixed(question: Question, cells: Sequence[Cell]) -> Iterator[str]:
    varied = varying(cells)
    for role, names in (("compare", question.compare), ("across", question.across)):
        for name in names:
            if name not in varied:
                yield f"{role} names {name}, which does not vary: {_everywhere(name, cells)}; sweep it, or leave it out"
    for name in question.tune:
        if name not in varied and question.at != "the same rate":
            yield (f'at = "{question.at}" needs values of {name} to choose from, and there is one: '
                   f'{_everywhere(name, cells)}; sweep it, or ask at = "the same rate"')  # fmt: skip


def _forgotten(question: Question, cells: Sequence[Cell]) -> Iterator[str]:
    """What varies beside the question would make several runs of one seed of an arm."""
    roles = (*question.compare, *question.across, *question.tune)
    for name in varying(cells):
        if name not in (*roles, SEED) and not determined(name, roles, cells):
            yield f"{name} varies and is neither compared, across nor tuned; add it to one of them"
    if question.by in roles:
        yield f"{question.by} is solved for by match, and cannot be asked about too; solve for another size"


def _unmeasurable(question: Question, cells: Sequence[Cell]) -> Iterator[str]:
    if "objective" in question.compare and "loss" in question.measure:
        yield "losses of different objectives cannot be compared; take objective out of compare, and name it in across"
    for name in question.measure:
        over = MEASURES[name].over
        if over and (over not in varying(cells) or over not in (*question.across, *question.tune)):
            yield f'measure "{name}" is taken over values of {over}; sweep it, and name it in across or tune'
    if question.extend and (question.at != "best rate" or "lr" not in question.tune):
        yield 'extend looks for a best lr beyond the grid; tune lr and ask at = "best rate", or leave extend out'


def _crowded(question: Question, cells: Sequence[Cell]) -> Iterator[str]:
    arms = len(arms_of(cells, question))
    if arms > MOST_ARMS:
        yield f"{arms} arms are too many to compare with each other; use {MOST_ARMS} or fewer, or tune what was drawn"


def _nothing(question: Question, cells: Sequence[Cell]) -> Iterator[str]:
    if pairs_of(cells, question):
        return
    arms = arms_of(cells, question)
    if len(arms) < 2:
        yield f"nothing is compared: {arms[0].name} is the only arm; sweep what is to be compared"
    else:
        apart = " and ".join(question.across)
        yield f"nothing is compared: no two of the {len(arms)} arms are given the same {apart}; give them the same"


def _unpaired(question: Question, cells: Sequence[Cell]) -> Iterator[str]:
    seeds = places_of(cells, question, (*question.across, SEED))
    for a, b in pairs_of(cells, question):
        if not seeds[a.name] & seeds[b.name]:
            yield f"{a.name} and {b.name} have no seed in common, by which runs are paired; give both the same seeds"
            return


def _unequal(question: Question, cells: Sequence[Cell]) -> Iterator[str]:
    """Rivals chosen from unequal grids: the one that was tried more often would win more often, equal otherwise."""
    if question.at != "best rate":
        return
    given, size = places_of(cells, question, (*question.across, *question.tune)), len(question.across)
    for a, b in pairs_of(cells, question):
        places = {place[:size] for place in given[a.name]} & {place[:size] for place in given[b.name]}
        if apart := sorted((p for p in given[a.name] ^ given[b.name] if p[:size] in places), key=repr):
            where, only = apart[0][:size], apart[0][size:]
            counts = " and ".join(str(sum(p[:size] == where for p in given[arm.name])) for arm in (a, b))
            at = "".join(f" at {with_name(name, value)}" for name, value in zip(question.across, where, strict=True))
            yield (f"{a.name} and {b.name} have different values of {' and '.join(question.tune)}{at}, {counts} of "
                   f"them, and a verdict would be withheld; give both {_listed(only)} or neither")  # fmt: skip
            return


def _edges(question: Question, cells: Sequence[Cell]) -> Iterator[str]:
    rates = values_of(cells, "lr")
    if question.at == "best rate" and "lr" in question.tune and 1 < len(rates) < FEWEST_RATES and not question.extend:
        yield (f"of {len(rates)} rates the best one always lies on the edge of the grid, and a verdict would be "
               f"withheld; give {FEWEST_RATES} or more, or extend")  # fmt: skip
