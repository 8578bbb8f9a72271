"""When a question was looked at: with how many seeds, so that who adds seeds until it is clear pays for looking."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from train.files import COUNT, TEXT, append_lines, read_lines
from train.verdict.question import SEED, Question
from train.verdict.runs import Result

KINDS = {"question": TEXT, "seeds": COUNT, "time": TEXT}
FILE = "looks.jsonl"
REMEDY = "remove the file; that the question was looked at before is then forgotten"


def looked_at(folder: Path, question: Question | None, results: Sequence[Result]) -> int:
    """How often this question was looked at with fewer seeds than these results have; this look is written down.

    looks.jsonl of the folder holds them. Raises UserError where it is damaged.
    """
    now, looks = _seeds(results), looks_at(folder, question)
    if now not in looks:
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        append_lines(folder / FILE, [{"question": _asked(question), "seeds": now, "time": time}])
    return sum(seeds < now for seeds in looks)


def looks_at(folder: Path, question: Question | None) -> set[int]:
    """With how many seeds this question was looked at; nothing is written. Raises UserError for a damaged file."""
    looks = read_lines(folder / FILE, KINDS, REMEDY)
    return {look["seeds"] for look in looks if look["question"] == _asked(question)}


def _asked(question: Question | None) -> str:
    return json.dumps(None if question is None else asdict(question))


def _seeds(results: Sequence[Result]) -> int:
    """The seeds that the settings with most of them have."""
    counts = Counter(repr([each for each in r["args"].items() if each[0] != SEED]) for r in results)
    return max(counts.values(), default=0)
