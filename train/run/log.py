"""The files of a run: its resolved configuration, and a log of JSON lines."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from train.config.config import OLD_NAMES, Config
from train.data.corpus import Corpus
from train.errors import UserError
from train.run.provenance import provenance


class Log:
    """`log.jsonl`: one JSON object a line. A run that goes on keeps the lines up to the step it goes on from."""

    def __init__(self, path: Path, *, keep_until: int) -> None:
        self.path = path
        kept = [line for line in read(path) if line["step"] <= keep_until]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf8")

    def write(self, line: dict[str, Any]) -> None:
        """Add one line; it is in the file when this returns."""
        with self.path.open("a", encoding="utf8") as file:
            file.write(json.dumps(line) + "\n")

    def last(self, name: str) -> float:
        """The latest value of `name` in the log, NaN where there is none."""
        return next((line[name] for line in reversed(read(self.path)) if name in line), math.nan)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; what a killed process left half written at its end is ignored."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def read_home(home: Path) -> dict[str, Any]:
    """What a run's config.json says. UserError where it is damaged."""
    try:
        held = json.loads(home.read_text(encoding="utf8"))
        settings = {OLD_NAMES.get(name, name): value for name, value in held["settings"].items()}
        return {"settings": settings, "corpus": held["corpus"]}
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{home} does not say which run this is; repair it, or choose another name or run.out"
        ) from None


def claim(folder: Path, config: Config, corpus: Corpus) -> None:
    """Make `folder` the home of this run, or find that it already is; UserError where it is another run's."""
    home = folder / "config.json"
    if (folder / "results.jsonl").exists():
        raise UserError(f"{folder} holds a sweep; choose another name or run.out")
    settings = {name: value for name, value in config.flat().items() if name not in asdict(config.run)}
    content = {"settings": settings, "corpus": corpus.sha256}
    if home.exists():
        held = read_home(home)
        differing = [
            f"{name} is {held['settings'].get(name)!r} there and {settings.get(name)!r} here"
            for name in {**held["settings"], **settings}
            if held["settings"].get(name) != settings.get(name)
        ]
        if held["corpus"] != corpus.sha256:
            differing.append("the corpus is another")
        if differing:
            raise UserError(f"{folder} holds another run: {'; '.join(differing)}; choose another name or run.out")
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = home.with_suffix(".partial")
    partial.write_text(json.dumps({**content, "provenance": provenance()}, indent=1), encoding="utf8")
    partial.replace(home)
