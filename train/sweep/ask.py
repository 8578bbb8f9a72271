"""What a sweep asks, said before its first step."""

from collections.abc import Mapping, Sequence
from typing import Any

from train.config import Config
from train.config.ask import rows_of
from train.config.match import costs_in_words
from train.verdict.asked import in_words, objections, thin
from train.verdict.question import Question, question_of


def question_for(config: Config) -> tuple[Question | None, list[str]]:
    """The question that is stated, or else derived from the grid; it in words, and what a verdict on it will lack.

    A stated question lacks nothing but seeds: it was refused when the configuration was read.
    """
    rows: Sequence[Mapping[str, Any]] = rows_of(config, config.cells)
    if config.question is not None:
        costs = costs_in_words(config, config.question) if config.question.match else []
        return config.question, [in_words(config.question, rows), *costs, *thin(config.question, rows)]
    question = question_of(rows)
    if question is None:
        return None, [
            "nothing is compared: the cells differ in seeds alone, or in too much; [question] may say in what"
        ]
    return question, [in_words(question, rows), *objections(question, rows), *thin(question, rows)]
