"""What racing saves: the runs of a finished sweep are replayed as a race, and the claims from both are compared.

    python -m benchmarks.racing runs/NAME

The sweep must have been run whole, all seeds at all rates; of its question, what a race can answer is asked. Prints the
steps that a race takes, runs that it stops and that would have ended otherwise, and the claims that differ.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from train.data.corpus import batches, load_corpus, unigram_nats
from train.sweep.kept import answered
from train.verdict.claims import Claim, claims
from train.verdict.question import Question
from train.verdict.race import CLIMBED, RACED, next_rung, to_stop

RESULTS = Path(__file__).parent / "results" / "racing.json"
CHUNK = 40  # steps between two looks
TAIL = 10  # steps whose mean is the loss of a moment
Record = dict[str, Any]


def references(records: Sequence[Record]) -> list[np.ndarray]:
    """Of each run, the loss of the unigram model on the tokens of each step."""
    one = records[0]["args"]
    corpus = load_corpus(one["path"], one["task"])
    if corpus.sha256 != records[0]["corpus"]["sha256"]:
        return [np.full(len(record["loss"]), record["corpus"]["unigram_entropy"]) for record in records]
    sizes = {"steps": range(one["steps"]), "batch": one["batch"], "length": one["length"]}
    seeds = {record["args"]["seed"] for record in records}
    nats = unigram_nats(corpus)
    told = {seed: nats[batches(corpus.train, seed=seed, **sizes)[..., 1:]].mean(axis=(1, 2)) for seed in seeds}
    return [told[record["args"]["seed"]] for record in records]


def curve(record: Record) -> np.ndarray:
    """The loss of each step; NaN where it was no number."""
    return np.array([np.nan if loss is None else loss for loss in record["loss"]])


def run(records: Sequence[Record], unigram_KT: Sequence[np.ndarray], question: Question) -> list[Record]:
    """The records of runs that advance together, each to its end or to where it stops. What a stopped one would have
    said of the held-out text is what its last steps said, and the difference of both at its real end."""
    losses_KT, living, ended = np.stack([curve(record) for record in records]), list(range(len(records))), {}
    for step in range(CHUNK, losses_KT.shape[1], CHUNK):
        unigram = np.stack([unigram_KT[k] for k in living])[:, :step]
        stops = to_stop([records[k]["args"] for k in living], losses_KT[living, :step], unigram, question)
        for k, stop in ((living[i], stop) for i, stop in stops.items()):
            beyond_T = losses_KT[k] - unigram_KT[k]
            told = {"outcome": stop.outcome or records[k]["outcome"], "val_loss": records[k]["val_loss"]}
            told["val_loss"] += float(np.mean(beyond_T[step - TAIL : step]) - np.mean(beyond_T[-TAIL:]))
            ended[k] = {**records[k], **told, "stopped": step, "behind": stop.behind}
        living = [k for k in living if k not in ended]
    return [ended.get(k, record) for k, record in enumerate(records)]


def race(records: Sequence[Record], unigram: Sequence[np.ndarray], question: Question) -> dict[int, Record]:
    """The records of a race, by place."""
    cells, results = [record["args"] for record in records], {}
    while (rung := next_rung(cells, results, question)).due:
        told = run([records[place] for place in rung.due], [unigram[place] for place in rung.due], question)
        results.update(zip(rung.due, told, strict=True))
        stopped = sum(record["stopped"] is not None for record in told)
        print(f"  {len(rung.due)} runs, {stopped} of them stopped")
    print(f"  {len(rung.left_out)} not run: {dict(Counter(rung.left_out.values()))}")
    return results


def name(claim: Claim) -> tuple[str, ...]:
    where = claim.where if claim.kind == "cell" else ""
    return claim.kind, claim.measure, claim.first, claim.second, claim.axis, where


def differing(whole: Sequence[Claim], some: Sequence[Claim]) -> Iterator[str]:
    """Claims whose answer is another, in words."""
    others = {name(claim): claim for claim in some}
    for claim in whole:
        other = others.get(name(claim))
        if other is None or other.answer != claim.answer:
            yield f"{' '.join(name(claim))}: {claim.answer}, raced {other and other.answer} ({other and other.reason})"


def shifts(whole: Sequence[Claim], some: Sequence[Claim]) -> Iterator[float]:
    """How far estimates moved, in half widths of the intervals from all runs."""
    others = {name(claim): claim for claim in some}
    for claim in whole:
        other = others.get(name(claim))
        if other is not None and np.isfinite([claim.value, other.value]).all() and claim.high > claim.low:
            yield abs(other.value - claim.value) / ((claim.high - claim.low) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    asked, records = answered(folder)
    assert asked is not None, "only seeds differ"
    assert all(record["stopped"] is None and record["loss_every"] == 1 for record in records), "it was not run whole"
    measures = tuple(name for name in asked.measure if name in (*RACED, *CLIMBED))
    question = replace(asked, run="racing", measure=measures)
    raced = race(records, references(records), question)
    whole, taken = (sum(r["stopped"] or len(r["loss"]) for r in some) for some in (records, raced.values()))
    print(f"{len(raced)} of {len(records)} runs, {taken:,} of {whole:,} steps: {taken / whole:.1%}")
    wrong = sum(record["outcome"] != records[place]["outcome"] for place, record in raced.items())
    print(f"{wrong} stopped that would have ended otherwise")
    full, some = claims(records, question), claims(list(raced.values()), question)
    made = [claim for claim in full if claim.answer in ("better", "same")]
    lost, differ = list(differing(made, some)), list(differing(full, some))
    print(f"{len(made) - len(lost)} of {len(made)} claims that are made are the same", *lost, sep="\n  ")
    print(f"{len(full) - len(differ)} of {len(full)} answers are the same", *differ, sep="\n  ")
    moved = max(shifts(full, some), default=0.0)
    print(f"the estimate of a claim moved by {moved:.2f} of the half width of its interval, at most")
    told = {
        "runs": [len(raced), len(records)],
        "steps": [taken, whole],
        "share": taken / whole,
        "stopped_wrongly": wrong,
    }
    claimed = {
        "claims_made": len(made),
        "of_these_differ": lost,
        "answers": len(full),
        "answers_that_differ": differ,
        "moved": moved,
    }
    every = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    every[folder.name] = {"provenance": records[0]["provenance"], **told, **claimed}
    RESULTS.write_text(json.dumps(every, indent=1) + "\n")


if __name__ == "__main__":
    main()
