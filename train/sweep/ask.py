"""What a sweep asks, said before its first step."""

from train.config import Config
from train.config.ask import rows_of
from train.verdict.asked import in_words, objections
from train.verdict.question import question_of


def asked(config: Config) -> list[str]:
    """The question in words, and where it was derived from the grid, what the verdict on it will lack. A stated one
    lacks nothing: it was refused when the configuration was read."""
    rows = rows_of(config, config.cells)
    if config.question is not None:
        return [in_words(config.question, rows)]
    question = question_of(rows)
    if question is None:
        return ["nothing is compared: only seeds differ"]
    return [in_words(question, rows), *objections(question, rows)]
