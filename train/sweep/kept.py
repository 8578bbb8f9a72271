"""What a folder of results answers: the question asked last, of which cells, on which text, by which code.

A folder may hold results of other grids, texts and code besides. They stay where they are, are named before training,
and are no part of the answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fxformer.lookup import nearest
from train.config import Config
from train.errors import UserError, user_input
from train.files import TEXT, Kind, check_there, damaged, read_object, write_whole
from train.sweep.results import Results
from train.sweep.workers import results_of_workers
from train.verdict.question import Question, arms_of, question_of

REMEDY = "remove it, and run the sweep again"
AGAIN = "to have them in it give ablate the same --add-rates, --seeds, … again, or write them into the configuration"
OLDER = "of an older edition, without the loss of each window: they stay there, and are no part of the answer"
QUESTION = Kind("a question or null", lambda value: value is None or isinstance(value, dict))
ARMS = Kind("names of arms by the keys of cells", lambda value: isinstance(value, dict)
            and all(isinstance(each, str) for each in value.values()))  # fmt: skip
OF_SWEEPS = ("results.jsonl", "question.json", "status.json", "plan.json")
KEPT = {"question": QUESTION, "arms": ARMS, "code": TEXT}


def keep_question(folder: Path, question: Question | None, arms: Mapping[str, str], code: str) -> None:
    """Write question.json: what `answered` reads. arms: by the keys of the grid's cells, in order, "" for no name."""
    said = {"question": None if question is None else asdict(question), "arms": dict(arms), "code": code}
    write_whole(folder / "question.json", json.dumps(said, indent=1).encode())


def answered(folder: Path) -> tuple[Question | None, list[dict[str, Any]]]:
    """The question of a folder and the results that answer it, in the order of the grid.

    A folder of an earlier version holds no question: all its results are taken, and the question is derived from them.
    Raises UserError where a file is damaged, or all results are of an older edition.
    """
    results, file = Results(folder / "results.jsonl"), folder / "question.json"
    if results.older and not results:
        raise UserError(
            f"all {results.older} results of {folder} are of an older edition, without the loss of each window; run "
            "the sweep again: they stay there, and are no part of the answer"
        )
    if not file.exists():
        every = results.in_order()
        return question_of([record["args"] for record in every]), every
    said = read_object(file, KEPT, REMEDY)
    try:
        question = None if said["question"] is None else _question(said["question"])
    except (TypeError, ValueError) as error:  # a field of another version, or a changed one
        raise damaged(str(file), str(error).removeprefix("Question.__init__() "), REMEDY) from None
    keys = [key for key in said["arms"] if key in results and is_of(results[key], said["code"])]
    return question, [named(results[key], said["arms"][key]) for key in keys]


def standing(folder: Path) -> list[str]:
    """What there is in a folder: results of the configuration that it answers, and what else lies there, a sentence
    each."""
    results, file = Results(folder / "results.jsonl"), folder / "question.json"
    if not file.exists():
        return [f"{folder} holds no question, of an earlier version: all its {len(results)} results are taken"]
    said = read_object(file, KEPT, REMEDY)
    known = [key for key in said["arms"] if key in results and is_of(results[key], said["code"])]
    corpus = {results[key]["corpus"].get("sha256") for key in known}
    text = str(corpus.pop()) if corpus else ""
    counts = f"{folder} has results of {len(known)} of the {len(said['arms'])} cells of its configuration"
    return [counts, *strangers(results, [*said["arms"]], text, said["code"])]


def arm_at(place: str) -> list[dict[str, Any]]:
    """The results of FOLDER or FOLDER:ARM. Raises UserError where there is no sweep, no such arm, or several arms."""
    folder, colon, name = place.partition(":")
    check_sweep(Path(folder))
    question, results = answered(Path(folder))
    settings = [record["args"] for record in results]
    arms = [] if question is None else arms_of(settings, question)
    if not colon:
        if len(arms) > 1:
            raise UserError(f"{folder} has {len(arms)} arms; name one, like {folder}:{arms[0].name}")
        return results
    with user_input():
        arm = nearest({arm.name: arm for arm in arms}, name, "arm")
    return [record for record in results if arm.has(record["args"])]


def check_sweep(folder: Path) -> None:
    """Raise UserError, which says what a folder is, where it has no results of a sweep."""
    check_there(folder)
    file = folder / "results.jsonl"
    if any(each.exists() and each.stat().st_size for each in (file, *results_of_workers(file))):
        return
    if (folder / "config.json").exists():
        raise UserError(
            f"{folder} is a run and no sweep; its losses are in {folder / 'log.jsonl'}, and shown by python -m train "
            f"watch {folder}"
        )
    if any((folder / name).exists() for name in OF_SWEEPS):
        raise UserError(f"{folder} is a sweep without results yet; the command that it ran by goes on with it")
    raise UserError(f"{folder} is not a sweep: it has no results.jsonl")


def is_of(record: Mapping[str, Any], code: str) -> bool:
    """Was this run by this code?"""
    return record["provenance"].get("code") == code


def strangers(results: Results, keys: Sequence[str], corpus: str, code: str) -> list[str]:
    """What else stands in a folder, a sentence for each kind; corpus: SHA-256 of the present text."""
    said, known = [OLDER] * results.older, set(keys)
    for key, record in results.items():
        origin, text = record["provenance"], record["corpus"]
        if key in known:
            version = f"fxformer {origin.get('fxformer')}, git {origin.get('git')}"
            said += (
                [] if is_of(record, code) else [f"of other code ({version}): they stay there, their cells run again"]
            )
        elif text.get("sha256") != corpus:
            name = f"{text.get('name')}, SHA-256 {str(text.get('sha256'))[:12]}"
            said.append(f"of another text ({name}): they stay there, and are no part of the answer")
        else:
            said.append(f"of cells that are not in this grid: they stay there, and are no part of the answer; {AGAIN}")
    counts = {each: said.count(each) for each in dict.fromkeys(said)}
    return [f"{results.path} has results {each} ({count})" for each, count in counts.items()]


def named(record: dict[str, Any], arm: str) -> dict[str, Any]:
    """The record with the present name of its arm."""
    own = {name: value for name, value in record["args"].items() if name != "arm"}
    return {**record, "args": {**own, "arm": arm} if arm else own}


def _question(said: Mapping[str, Any]) -> Question:
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    return Question(**given)


def home_of(config: Config) -> Path:
    """The folder of a sweep. Raises UserError where it holds a run, and for a mesh or processes: it uses neither."""
    if config.run.distributed:
        raise UserError("distributed does nothing in a sweep, which processes share by --worker K/N; leave it out")
    if config.run.mesh:
        raise UserError(f"mesh={config.run.mesh} does nothing in a sweep, whose runs share the devices; leave it out")
    folder = Path(config.run.out) / config.name
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a run, not a sweep; choose another name or run.out")
    return folder
