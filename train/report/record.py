"""A record: one run of a sweep, a line of results.jsonl, with all that verdicts and figures read."""

from collections.abc import Mapping
from typing import Any

from train.files import COUNT, NUMBER, SETTINGS, TEXT, Kind, complaint, is_count, is_number
from train.verdict.outcome import OUTCOMES
from train.verdict.runs import unpacked


def _is_measured(value: Any) -> bool:
    return value is None or is_number(value)


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_measured, value))


def _is_ordinal(value: Any) -> bool:
    return is_count(value) and value > 0


def _is_by_layer(value: Any) -> bool:
    return isinstance(value, list) and all(_is_measured(each) or _is_curve(each) for each in value)


def _is_course(value: Any) -> bool:
    looks = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(each, list) and all(map(_is_by_layer, each)) for each in looks)


def _is_windows(value: Any) -> bool:
    try:
        return isinstance(value, str) and unpacked(value).ndim == 1
    except ValueError:
        return False


MEASURED = Kind("a finite number or null", _is_measured)
CURVE = Kind("a list of finite numbers and nulls", _is_curve)
ORDINAL = Kind("a whole number, 1 or more", _is_ordinal)
KINDS = {
    "key": TEXT,
    "args": SETTINGS,
    "outcome": Kind(f"one of {', '.join(OUTCOMES)}", OUTCOMES.__contains__),
    "outcome_step": ORDINAL,
    "stopped": Kind("a whole number, 1 or more, or null", lambda value: value is None or _is_ordinal(value), True),
    "behind": MEASURED._replace(optional=True),
    "initial_loss": MEASURED,
    "val_loss": MEASURED,
    "windows": Kind("losses of windows as train.verdict.runs packs them", _is_windows),
    "loss": CURVE,
    "loss_every": ORDINAL,
    "grad_norm": CURVE,
    "last_ffn_grad_norm": MEASURED,
    "stats_final": Kind(
        "numbers of each layer by name",
        lambda value: isinstance(value, dict) and all(map(_is_by_layer, value.values())),
    ),
    "stats_every": ORDINAL,
    "stats_curve": Kind("numbers of each layer at each look by name", _is_course),
    "params": NUMBER,
    "tokens": NUMBER,
    "flops": NUMBER,
    "cache_bytes": COUNT._replace(optional=True),  # earlier versions wrote none
    "seconds": NUMBER,
    "seconds_a_step": MEASURED,
    "corpus": SETTINGS,
    "provenance": SETTINGS,
}
WITHIN = {
    "place": COUNT._replace(optional=True),  # earlier versions wrote none
    "args.lr": NUMBER,
    "args.seed": COUNT,
    "args.depth": ORDINAL._replace(optional=True),  # a published model has none of its own
    "corpus.log_vocab": NUMBER,
    "corpus.unigram_entropy": NUMBER,
    "corpus.bigram_entropy": NUMBER,
}


def fault(record: Mapping[str, Any]) -> str:
    """The first way in which this is no record, like "it has no flops"; empty where it is one."""
    if what := complaint(record, KINDS):
        return what
    within = {f"{part}.{name}": value for part in ("args", "corpus") for name, value in record[part].items()}
    return complaint({**record, **within}, WITHIN)
