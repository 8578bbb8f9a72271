"""[question] of a configuration: the question it states, completed from the grid and held against it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from fxformer.lookup import nearest
from train.config.config import SECTIONS, Config, place
from train.config.values import short, typed
from train.verdict.asked import objections
from train.verdict.question import Question, completed

SETTINGS = ("compare", "across", "tune")  # fields that hold names of settings
FIELDS = {field.name: field.type for field in fields(Question)}


def rows_of(config: Config, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings of each cell, as its record will say them, those of the grid first: a question names them so."""
    fixed, rows = config.settings(), []
    for cell in cells:
        own = {name: typed(SECTIONS[place(name)[0]][name], name, value) for name, value in cell.items()}
        rows.append({**own, **{name: value for name, value in fixed.items() if name not in own}})
    return rows


def stated(table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Question:
    """The question of a TOML table. Raises ValueError with one sentence where it is none, or the cells answer none."""
    given = {nearest({name: name for name in FIELDS}, name, "question"): value for name, value in table.items()}
    for name in (*SETTINGS, "measure"):
        if name in given:
            given[name] = _names(name, given[name])
    for name in SETTINGS:
        if name in given:
            given[name] = tuple(place(each)[1] for each in given[name])
    if "by" in given:
        given["by"] = place(given["by"])[1]
    question = completed(given, rows)
    for sentence in objections(question, rows):
        raise ValueError(sentence)
    return question


def _names(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f'{name}={short(value)} is no list of names; write {name} = ["…"]')
    return tuple(value)
