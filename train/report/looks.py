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
REMEDY = "remove the file; that the question was looked at before is then forgotten"


def looked_at(folder: Path, question: Question | None, results: Sequence[Result]) -> int:
    """How often this question was looked at with fewer seeds than these results have; this look is written down.

    looks.jsonl of the folder holds them. Raises UserError where it is damaged.
    """
    asked = json.dumps(None if question is None else asdict(question))
    now, file = _seeds(results), folder / "looks.jsonl"
    looks = [look for look in read_lines(file, KINDS, REMEDY) if look["question"] == asked]
    if all(look["seeds"] != now for look in looks):
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        append_lines(file, [{"question": asked, "seeds": now, "time": time}])
    return len({look["seeds"] for look in looks if look["seeds"] < now})


def _seeds(results: Sequence[Result]) -> int:
    """The seeds that the settings with most of them have."""
    counts = Counter(repr([each for each in r["args"].items() if each[0] != SEED]) for r in results)
    return max(counts.values(), default=0)
