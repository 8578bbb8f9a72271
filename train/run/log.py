"""The files of a run: its resolved configuration, and a log of JSON lines."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from train.config.config import OLD_NAMES, Config
from train.data.corpus import Corpus
from train.data.tokenizer import BYTES
from train.errors import UserError
from train.files import COUNT, NUMBER, SETTINGS, TEXT, is_count, json_lines, read_lines, read_object, write_whole
from train.run.processes import first_does, is_first
from train.run.provenance import provenance
from train.trackers import Tracker, numbers_in

TOKENIZER = "tokenizer.json"  # of a folder, where it has one
LINE = {"step": COUNT, "val_loss": NUMBER._replace(optional=True)}
NEWER = {"tokenizer": BYTES}  # settings that runs of before do not name, and what they did
HOME = {"settings": SETTINGS, "corpus": TEXT}


class Log:
    """`log.jsonl`: one JSON object a line. A run that goes on keeps the lines up to the step it goes on from.

    tracker: is told the numbers of each line that is added. Of several processes the first one writes and reads.
    """

    def __init__(self, path: Path, *, keep_until: int, tracker: Tracker | None = None) -> None:
        self.path, self._tracker = path, tracker
        first_does(lambda: write_whole(path, json_lines([each for each in read(path) if each["step"] <= keep_until])))

    def write(self, line: dict[str, Any]) -> None:
        """Add one line; it is in the file when this returns."""
        if not is_first():
            return
        with self.path.open("ab") as file:
            file.write(json_lines([line]))
        if self._tracker is not None:
            self._tracker.log(line["step"], numbers_in(line))

    def judge(self, step: int, val_loss: float, windows: int, bytes_a_token: float = 1.0) -> None:
        """Add the validation loss after `step` updates, in nats per token, on so many windows of the held-out text."""
        bits = val_loss / math.log(2) / bytes_a_token
        self.write({"step": step, "val_loss": val_loss, "val_bits_per_byte": bits, "windows": windows})

    def val_loss(self, step: int) -> float | None:
        """The validation loss after `step` updates, None where the log does not say it."""

        def said() -> float | None:
            return next(
                (each["val_loss"] for each in read(self.path) if each["step"] == step and "val_loss" in each), None
            )

        return first_does(said)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without one that a killed process left half written. UserError where one is damaged."""
    return read_lines(path, LINE, "remove this line, or the file: a run goes on without")


def read_home(home: Path) -> dict[str, Any]:
    """The settings and the corpus that a run's config.json says. UserError where it is damaged."""
    held = read_object(home, HOME, "repair it, or choose another name or run.out")
    settings = {**NEWER, **{OLD_NAMES.get(name, name): value for name, value in held["settings"].items()}}
    return {"settings": settings, "corpus": held["corpus"]}


def claim(folder: Path, config: Config, corpus: Corpus) -> int | None:
    """Make a folder that is there the home of this run, or find that it is; UserError where it is another run's.

    Of a run that differs in nothing but that it has fewer steps, it gives how many, and leaves the folder as it is.
    """
    home = folder / "config.json"
    if any((folder / name).exists() for name in ("results.jsonl", "plan.json")):
        raise UserError(f"{folder} holds a sweep; choose another name or run.out")
    settings = settings_of(config)
    if not home.exists():
        write_home(home, config, corpus)
        return None
    held = read_home(home)
    there = held["settings"]
    names = [name for name in {**there, **settings} if there.get(name) != settings.get(name)]
    differing = [f"{name} is {there.get(name)!r} there and {settings.get(name)!r} here" for name in names]
    if held["corpus"] != corpus.sha256:
        differing.append("the corpus is another")
    elif names == ["steps"] and is_count(there.get("steps")) and there["steps"] < config.train.steps:
        return there["steps"]
    if differing:
        raise UserError(f"{folder} holds another run: {'; '.join(differing)}; choose another name or run.out")
    return None


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder, with the tokenizer that it keeps there."""
    settings, own = read_home(folder / "config.json")["settings"], folder / TOKENIZER
    return {**settings, "tokenizer": str(own)} if own.exists() else settings


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that decide a run's result, by their flat names."""
    return {name: value for name, value in config.flat().items() if name not in asdict(config.run)}


def write_home(home: Path, config: Config, corpus: Corpus) -> None:
    """Write what `read_home` reads, and where it comes from."""
    content = {"settings": settings_of(config), "corpus": corpus.sha256, "provenance": provenance()}
    if corpus.tokenized is not None:
        write_whole(home.parent / TOKENIZER, corpus.tokenized.tokenizer.content)
    write_whole(home, json.dumps(content, indent=1).encode())
