"""Objectives: `(tokens, key) -> Batch`, pure functions that say what is read and what is predicted.

Imports no other room. An objective is a frozen value, so its rates are fields: `replace(OBJECTIVES["prefix"], cut=7)`.
One file a family.
"""

from dataclasses import replace
from functools import cache

from fxformer.lookup import nearest
from train.objectives.blanks import BlankInfilling
from train.objectives.causal import Causal, MultiToken, PrefixLM
from train.objectives.masked import Masked, Masking, Tokens, Words
from train.objectives.objective import Batch, Objective, Specials
from train.objectives.pairs import NextSentence, SentenceOrder
from train.objectives.spans import SpanCorruption
from train.objectives.tasks import BASE, GLM_10B, GLM_130B, Document, Sentences, Short

OBJECTIVES: dict[str, Objective] = {
    "causal": Causal(),
    "prefix": PrefixLM(),
    "multi_token": MultiToken(),
    "masked": Masked(),
    "whole_word": Masked(masking=Masking(unit=Words())),
    "ngram": Masked(masking=Masking(unit=Words(longest=3))),
    "next_sentence": NextSentence(),
    "sentence_order": SentenceOrder(),
    "span_corruption": SpanCorruption(),
    "blank_infilling": BlankInfilling(),
    "blank_infilling_base": BlankInfilling(tasks=BASE),
    "blank_infilling_130b": BlankInfilling(tasks=GLM_130B),
}

OF_BYTES = ("whole_word", "ngram", "sentence_order", "blank_infilling")  # that tell words or sentences by bytes


@cache
def objective_of(name: str, text: int = 256) -> Objective:
    """The objective for text of so many tokens, special ones behind it. Raises ValueError for one that reads bytes."""
    objective = nearest(OBJECTIVES, name, "objective")
    if text == objective.specials.text:
        return objective
    if name in OF_BYTES:
        others = ", ".join(each for each in OBJECTIVES if each not in OF_BYTES)
        raise ValueError(
            f"objective={name!r} tells words or sentences by their bytes; use tokenizer='bytes', or {others}"
        )
    return replace(objective, specials=objective.specials.after(text))


__all__ = [
    "OBJECTIVES",
    "objective_of",
    "Batch",
    "Objective",
    "Specials",
    "Causal",
    "PrefixLM",
    "MultiToken",
    "Masked",
    "Masking",
    "Tokens",
    "Words",
    "NextSentence",
    "SentenceOrder",
    "SpanCorruption",
    "BlankInfilling",
    "Short",
    "Sentences",
    "Document",
    "BASE",
    "GLM_10B",
    "GLM_130B",
]
