"""Every setting in words: what it is, its unit, and what reads it; values and defaults are taken from the code."""

import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

from fxformer import sharding
from fxformer.layers.residual import PLACEMENTS
from fxformer.ops.activation import ACTIVATIONS
from fxformer.ops.norm import NORMS
from fxformer.table import widths_of
from fxformer.zoo.toy import ATTENTIONS, FFNS, GATES, HEADS, MASKS, POSITIONS, TALKING
from train.config.config import DTYPES, NAMES, PARAMETERS, SECTIONS, Data, Run, Train, place
from train.config.values import BELOW_1, COUNT, FLOAT, RANGES, kinds_of
from train.data.synthetic import TASKS
from train.objectives import OBJECTIVES
from train.optim.optimizer import OPTIMIZERS
from train.optim.parametrization import PARAMETRIZATIONS
from train.optim.schedule import SCHEDULES
from train.trackers import TRACKERS
from train.verdict.question import MATCHED, MEASURES, RATES, RUNS, SOLVABLE, Question


class About(NamedTuple):
    """What a setting is; its unit, empty where it has none; the file and the name in it that read it."""

    what: str
    unit: str
    file: str
    name: str


TOY, CORPUS, STEP, LOOP = "fxformer/zoo/toy.py", "train/data/corpus.py", "train/step.py", "train/run/loop.py"
SCHEDULE, OPTIMIZER = "train/optim/schedule.py", "train/optim/optimizer.py"
GQA, PARAMETRIZATION = "fxformer/layers/attention/gqa.py", "train/optim/parametrization.py"
QUESTION = "train/verdict/question.py"

MODEL = {
    "width": About("of the residual stream, d_model", "channels", "fxformer/layers/embed.py", "Embed"),
    "depth": About("blocks, each of attention and feed-forward layer", "layers", "fxformer/stack.py", "Repeat"),
    "heads": About("query heads; they divide the width", "heads", GQA, "GQA"),
    "kv_heads": About("heads of keys and values; none: as many as of queries", "heads", GQA, "GQA"),
    "norm": About("the normalisation", "", "fxformer/ops/norm.py", "NORMS"),
    "placement": About("where the norms stand", "", "fxformer/layers/residual.py", "PLACEMENTS"),
    "position": About("the position encoding", "", TOY, "POSITIONS"),
    "attention": About("the kind of attention", "", TOY, "ATTENTIONS"),
    "mask": About("which tokens a token sees", "", TOY, "MASKS"),
    "ffn": About("the kind of feed-forward layer", "", TOY, "FFNS"),
    "activation": About("of the feed-forward layer", "", "fxformer/ops/activation.py", "ACTIVATIONS"),
    "inner": About("of the feed-forward layer, d_ff; none: 4 x width, 8/3 x width where it is gated", "channels", TOY,
                   "toy"),
    "qk_norm": About("the normalisation of queries and keys", "", TOY, "toy"),
    "softcap": About("c in c tanh(logit / c), of attention; none: no cap", "logits", TOY, "toy"),
    "gate": About("a sigmoid of the layer's input on what attention says, for each head or channel", "", TOY, "GATES"),
    "talking_heads": About("what learned maps mix between heads", "", TOY, "TALKING"),
    "value_residual": About("the weight of the first block's values in later ones, where it starts; none: without",
                            "factor", GQA, "GQA"),
    "window": About("the last keys that the mask shows; none: all", "tokens", "fxformer/ops/mask.py", "Window"),
    "memory_tokens": About("learned vectors before the tokens of each row, which all of them see", "tokens",
                           "fxformer/stack.py", "Stack"),
    "head": About("what makes logits", "", TOY, "HEADS"),
    "layer_scale": About("where a learned factor on the channels of a branch starts; none: none", "factor", TOY, "toy"),
    "dropout": About("of embeddings and branches, in training", "probability", TOY, "toy"),
    "stochastic_depth": About("of passing the last block by, for a row, in training; before it in proportion",
                              "probability", "fxformer/layers/residual.py", "Residual"),
    "residual_scale": About("factor on the stream that is added to; DeepNorm: (2 depth)^(1/4)", "factor", TOY, "toy"),
    "branch_scale": About("initial gain of value, output and feed-forward matrices; DeepNorm: (8 depth)^(-1/4)",
                          "factor", TOY, "toy"),
    "init_scale": About("initial gain of all matrices", "factor", TOY, "toy"),
    "zoo": About("a published model, whole, in place of all others of [model]", "", "fxformer/zoo/__init__.py", "get"),
    "tiny": About("the structure of a published model, at toy widths", "", "fxformer/zoo/__init__.py", "tiny"),
}  # fmt: skip
DATA = {
    "path": About("the text: a file, a folder, or the running Python's own library", "", CORPUS, "load_corpus"),
    "tokenizer": About(
        "what makes tokens of it; bpe:N learns N of them from the text", "", "train/data/tokenizer.py", "tokenizer_of"
    ),
    "task": About("a synthetic task in place of the text", "", "train/data/synthetic.py", "TASKS"),
    "length": About("predicted in a sequence", "tokens", CORPUS, "batches"),
    "batch": About("read in a step", "sequences", CORPUS, "batches"),
    "validation": About("held-out windows that a trained model is judged on", "windows", LOOP, "held_out_windows"),
    "watch": About("held-out windows that it is looked at on while it trains", "windows", LOOP, "held_out_windows"),
}
TRAIN = {
    "objective": About("what is hidden, and what predicted", "", "train/objectives/__init__.py", "OBJECTIVES"),
    "steps": About("updates", "steps", LOOP, "train"),
    "seed": About("of initial values, the order of the text, dropout and what an objective draws", "", STEP, "start"),
    "optimizer": About("the rule of an update", "", OPTIMIZER, "OPTIMIZERS"),
    "schedule": About("of the learning rate", "", SCHEDULE, "SCHEDULES"),
    "lr": About("the learning rate that the schedule rises to", "", SCHEDULE, "rate"),
    "warmup": About("of the linear rise to lr", "steps", SCHEDULE, "rate"),
    "final": About("the last rate of a schedule that decays", "share of lr", SCHEDULE, "rate"),
    "weight_decay": About("decoupled, times lr; gains and biases are spared", "1 / lr a step", OPTIMIZER, "build"),
    "beta1": About("of the running mean of gradients", "", OPTIMIZER, "OptimizerRecipe"),
    "beta2": About("of the running mean of squared gradients", "", OPTIMIZER, "OptimizerRecipe"),
    "eps": About("added to the root of the second", "", OPTIMIZER, "OptimizerRecipe"),
    "clip": About("the largest global norm of a gradient; 0: no limit", "norm", OPTIMIZER, "OptimizerRecipe"),
    "z_loss": About("weight of log Z squared", "weight", STEP, "_beside"),
    "balance": About("weight of the losses that balance experts", "weight", STEP, "_beside"),
    "router_z": About("weight of the routers' log Z squared", "weight", STEP, "_beside"),
    "mtp": About("weight of predicting the token after the next", "weight", STEP, "_beside"),
    "accumulate": About("parts that a batch is cut into, one after another", "parts", OPTIMIZER, "accumulate"),
    "dtype": About("of activations; parameters stay float32", "", STEP, "_answer"),
    "parametrization": About("how initial values and rates follow width and depth", "", PARAMETRIZATION,
                             "PARAMETRIZATIONS"),
    "base_width": About("of the model that a parametrisation is relative to", "channels", PARAMETRIZATION, "Family"),
    "base_depth": About("of the same", "layers", PARAMETRIZATION, "Family"),
    "base_heads": About("of the same", "heads", PARAMETRIZATION, "Family"),
    "base_inner": About("of the same", "channels", PARAMETRIZATION, "Family"),
}  # fmt: skip
RUN = {
    "out": About("the folder of runs; a run goes to out/NAME, NAME being that of the file", "", LOOP, "run"),
    "arm": About("what a cell of a grid is an example of; arms are compared by it", "", "train/sweep/cells.py",
                 "cells_of"),
    "mesh": About("devices along each axis; empty: one device", "", "train/run/layout.py", "layout_of"),
    "remat": About("compute activations of a block again in the backward pass; none: of stacks deeper than 8", "",
                   "train/step.py", "recipe_of"),
    "rules": About("which axis of an array is cut over which axis of the mesh", "", "train/run/layout.py", "layout_of"),
    "save_every": About("from one checkpoint to the next", "steps", LOOP, "train"),
    "keep": About("last ones that stay, the best one besides; best: one, and in a sweep the best run of each arm",
                  "checkpoints", LOOP, "run"),
    "log_every": About("from one line of the log to the next", "steps", LOOP, "train"),
    "tracker": About("who is told the numbers of the log besides", "", "train/trackers.py", "TRACKERS"),
    "distributed": About("which of several processes this is, like localhost:9911,1/2; auto asks the cluster", "",
                         "train/run/processes.py", "place_of"),
}  # fmt: skip
ASKED = {
    "compare": About("settings whose values make the arms", "", QUESTION, "arms_of"),
    "across": About("settings that an effect is pooled over and may change with", "", QUESTION, "Question"),
    "tune": About("settings chosen for each arm", "", QUESTION, "Question"),
    "at": About("the rates at which arms meet", "", QUESTION, "RATES"),
    "measure": About("what is measured", "", QUESTION, "MEASURES"),
    "smallest": About("the smallest difference of losses that matters", "nats", QUESTION, "Question"),
    "versus": About("the arm that each other one is compared with; none: all pairs", "", QUESTION, "Question"),
    "match": About("what is made equal between arms", "", "train/config/match.py", "solved"),
    "by": About("the size that is solved for it", "", "train/config/match.py", "solved"),
    "extend": About("rungs that a grid of rates may grow by at either end", "rungs", "train/verdict/extend.py",
                    "next_rungs"),
    "run": About("whether all cells run to their end", "", "train/verdict/race.py", "next_rung"),
}  # fmt: skip
ABOUT = {"model": MODEL, "data": DATA, "train": TRAIN, "run": RUN, "question": ASKED}
CHOICES: dict[str, typing.Iterable[str]] = {  # of the names that a setting takes
    "norm": NORMS, "qk_norm": NORMS, "placement": PLACEMENTS, "position": POSITIONS,
    "attention": ATTENTIONS, "mask": MASKS, "ffn": FFNS, "activation": ACTIVATIONS, "head": HEADS, "gate": GATES,
    "talking_heads": TALKING,
    "task": ("text", *TASKS), "objective": OBJECTIVES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "dtype": DTYPES,
    "parametrization": PARAMETRIZATIONS, "rules": sharding.PRESETS, "tracker": TRACKERS,
    "question.at": RATES, "question.measure": MEASURES,
    "question.match": MATCHED, "question.by": SOLVABLE, "question.run": RUNS,
}  # fmt: skip
TEXTS = {
    "zoo": "a name of `python -m fxformer list`",
    "tiny": "a name of `python -m fxformer list`",
    "path": "a path, or stdlib",
    "keep": "whole, 1 to 2^31 - 1, or best",
    "tokenizer": "bytes, bpe:257 to bpe:1048576, or the path of a tokenizer.json",
    "out": "a path",
    "arm": "a text",
    "mesh": "like data=2,model=4",
    "distributed": "like localhost:9911,1/2, or auto",
    "question.versus": "the name of an arm",
    "question.smallest": "a number, more than 0",
    "question.extend": "0 to 10",
    **dict.fromkeys(("question.compare", "question.across", "question.tune"), "names of settings"),
}


class Setting(NamedTuple):
    """A line of the reference."""

    section: str
    name: str
    values: str
    default: str
    about: About

    @property
    def reader(self) -> str:
        return f"{self.about.file} {self.about.name}"


def settings() -> list[Setting]:
    """Every setting in the order of sections; one that nobody has described yet is read by the factory."""
    unknown = About("", "", TOY, "toy")
    return [
        Setting(section, name, _values(section, name, kind), default, ABOUT[section].get(name, unknown))
        for section, name, kind, default in _declared()
    ]


def _declared() -> Iterator[tuple[str, str, Any, str]]:
    """(section, name, type, default in words) of each setting."""
    defaults = {
        "model": {**{name: parameter.default for name, parameter in PARAMETERS.items()}, "zoo": None, "tiny": None},
        **{name: {f.name: f.default for f in fields(kind)} for name, kind in
           {"data": Data, "train": Train, "run": Run, "question": Question}.items()},
    }  # fmt: skip
    for section, values in defaults.items():
        kinds = {**SECTIONS, "question": {f.name: f.type for f in fields(Question)}}[section]
        for name, default in values.items():
            yield section, name, kinds[name], "required" if default is MISSING else _written(default)


def _values(section: str, name: str, kind: Any) -> str:
    dotted = f"{section}.{name}"
    own = dotted if dotted in CHOICES or dotted in TEXTS else name
    if own in CHOICES:
        return ", ".join(CHOICES[own])
    if own in TEXTS:
        return TEXTS[own]
    if name not in RANGES:
        words = {int: "whole", float: "a number", bool: "true or false", str: "a name"}
        return ", ".join(words[each] for each in kinds_of(kind) if each in words)
    least, most = RANGES[name]
    ends = {COUNT: "2^31 - 1", 2**32 - 1: "2^32 - 1", FLOAT: "", -FLOAT: "", BELOW_1: "below 1"}
    low, high = (ends.get(end, f"{end:.7g}" if isinstance(end, float) else str(end)) for end in (least, most))
    said = "any number" if not low and not high else f"{low} or more" if not high else f"{low} to {high}"
    return said if float in kinds_of(kind) else f"whole, {said}"


def _written(value: Any) -> str:
    """A default as TOML has it."""
    match value:
        case None:
            return "none"
        case str():
            return f'"{value}"'
        case tuple():
            return f"[{', '.join(map(_written, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def one(name: str) -> str:
    """One setting, whole. Raises ValueError with the nearest name where there is none."""
    known = {f"{each.section}.{each.name}": each for each in settings()}
    asked = {each.name: each for each in known.values() if each.section == "question" and each.name not in NAMES}
    setting = known.get(name) or asked.get(name)
    if setting is None:
        setting = known[".".join(place(name))]
    lines = [
        f"{setting.section}.{setting.name}: {setting.about.what}",
        f"  values   {setting.values}",
        f"  default  {setting.default}",
        f"  unit     {setting.about.unit or 'none'}",
        f"  read by  {setting.reader}",
    ]
    return "\n".join(lines)


def listed() -> str:
    """All settings as a table for the terminal."""
    rows = [(f"{each.section}.{each.name}", each.default, each.about.unit, each.about.what) for each in settings()]
    widths = widths_of(rows)
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


INTRODUCTION = """# Settings

Made by `make pages` from the code; `python -m train settings` prints it, `python -m train settings NAME` one of them. A
setting is written in its section of the TOML file, or given as `--set NAME=VALUE`, by its name or with its section
(`lr`, `train.lr`). A name that is used elsewhere (`learning_rate`, `n_layer`) is answered with the one here. How they
work together: [runs and sweeps](runs.md), [the laboratory](laboratory.md).
"""


def page() -> str:
    """All settings as Markdown."""
    parts = [INTRODUCTION]
    for section in ABOUT:
        head = "| setting | values | default | unit | what | read by |\n| --- | --- | --- | --- | --- | --- |"
        rows = [
            f"| `{each.name}` | {each.values} | `{each.default}` | {each.about.unit} | {each.about.what} | "
            f"[`{each.about.file}`](../{each.about.file}) `{each.about.name}` |"
            for each in settings() if each.section == section
        ]  # fmt: skip
        parts.append("\n".join([f"## [{section}]\n", head, *rows]) + "\n")
    return "\n".join(parts)
