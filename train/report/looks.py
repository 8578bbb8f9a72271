"""When a question was looked at: with how many seeds, so that who adds seeds until it is clear pays for looking."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from train.files import COUNT, TEXT, append_lines, read_lines
from train.verdict.estimate import LEVEL
from train.verdict.question import SEED, Question
from train.verdict.runs import Result
from train.verdict.sequential import LATER, fewest

KINDS = {"question": TEXT, "seeds": COUNT, "time": TEXT}
FILE = "looks.jsonl"
REMEDY = "remove the file; that the question was looked at before is then forgotten"


def looked_at(folder: Path, question: Question | None, results: Sequence[Result]) -> int:
    """How often what is asked was looked at with fewer seeds than these results have; this look is written down.

    looks.jsonl of the folder holds them. Raises UserError where it is damaged.
    """
    now, looks = seeds_in(r["args"] for r in results), looks_at(folder, question)
    if now not in looks:
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        said = json.dumps(None if question is None else asdict(question))
        append_lines(folder / FILE, [{"question": said, "seeds": now, "time": time}])
    return sum(seeds < now for seeds in looks)


def looks_at(folder: Path, question: Question | None) -> set[int]:
    """With how many seeds what is asked was looked at; nothing is written. Raises UserError for a damaged file.

    Any question that compares one of the same settings has looked at these runs, whatever its measures and the smallest
    difference that matters to it: who words a question anew has not forgotten what he saw.
    """
    looks = read_lines(folder / FILE, KINDS, REMEDY)
    compared = set() if question is None else {*question.compare}
    return {look["seeds"] for look in looks if compared & _compared(look["question"])}


def _compared(said: str) -> set[str]:
    """The settings that a question compares, as a look has written it."""
    try:
        question = json.loads(said)
    except ValueError:
        question = None
    return {*question.get("compare", [])} if isinstance(question, dict) else set()


def too_few(folder: Path, question: Question | None, seeds: int) -> list[str]:
    """That so many seeds can tell nothing, where fewer were looked at before; one sentence, or none."""
    before, least = looks_at(folder, question), fewest(LEVEL * LATER)
    if not any(each < seeds for each in before) or seeds >= least:
        return []
    return [
        f"this was looked at with {min(before)} seeds before, and intervals that hold for looking again are infinite "
        f"for {seeds}; give at least {least}: --seeds {least}"
    ]


def seeds_in(cells: Iterable[Mapping[str, Any]]) -> int:
    """The seeds that the settings with most of them have."""
    counts = Counter(repr([each for each in cell.items() if each[0] != SEED]) for cell in cells)
    return max(counts.values(), default=0)
