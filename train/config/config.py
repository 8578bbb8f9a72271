"""What a run is, as data: [model], [data], [train], [run], and the cells and the question of a sweep.

Every setting has one name in one flat namespace, so that a grid, `--set` and a results file speak of the same thing:
`lr` and `train.lr` are one setting. [model] holds the arguments of `fxformer.zoo.toy`, or `zoo = "gpt2"` for a
published model, or `tiny = "gpt2"` for its structure at toy widths.
"""

import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fxformer import sharding, zoo
from fxformer.given import position_limit
from fxformer.lookup import nearest, renamed
from train.config.elsewhere import hint
from train.config.fit import check_objective
from train.config.values import COUNT, RANGES, check_number, check_text, short, typed
from train.data.corpus import Corpus, check_apart, load_corpus
from train.data.synthetic import TASKS
from train.data.tokenizer import BYTES, vocab_of
from train.objectives import OBJECTIVES, Objective, objective_of
from train.optim.optimizer import OPTIMIZERS
from train.optim.parametrization import PARAMETRIZATIONS, Family, multiplied
from train.optim.schedule import SCHEDULES
from train.trackers import TRACKERS
from train.verdict.question import Question

DTYPES = {"float32": 32, "bfloat16": 16, "float16": 16}  # that are computed in, with their bits
OLD_NAMES = {"ahead": "mtp", "train.ahead": "train.mtp"}
PUBLISHED = {name: name for name in zoo.names()}
GIVEN_BY_DATA = ("vocab", "length")  # arguments of the factory that data and objective decide
MOST_DEVICES = 2**12  # of a mesh
BEST = "best"  # what `keep` may be besides a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """[data]: which bytes, and how they are cut.

    path: "stdlib", a file or a folder. tokenizer: "bytes", the path of a tokenizer.json, or "bpe:4096", which learns so
    many tokens from the text and keeps them beside the runs. task: "text", or a synthetic task in place of `path`.
    length: tokens predicted in a sequence. batch: sequences in a step. validation: windows of the held-out text that a
    trained model is judged on. watch: fewer, that a model is looked at before and while it trains.
    """

    path: str = "stdlib"
    tokenizer: str = BYTES
    task: str = "text"
    length: int = 64
    batch: int = 8
    validation: int = 2048
    watch: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """[train]: how parameters are learned.

    seed, steps, lr, warmup, final, weight_decay and weights of losses are traced: one compiled step serves all their
    values (a sweep compiles for each number of steps, which its dispatches are cut from). The others are structure, and
    each of their values is compiled: beta1, beta2, eps, clip and accumulate too.
    warmup: steps. final: share of the learning rate at the end. clip: bound on the global gradient norm, 0 is off.
    accumulate: parts that a batch is cut into, one after another. z_loss, balance, router_z, mtp: weights of losses
    beside the objective's own: log Z squared, experts' loads, their routers' log Z squared, the token after the next.
    parametrization: a name in PARAMETRIZATIONS; base_width, base_depth, base_heads, base_inner: sizes of the model that
    it is relative to, None where that has those of this one.
    """

    objective: str = "causal"
    steps: int = 200
    seed: int = 0
    optimizer: str = "adamw"
    schedule: str = "cosine"
    lr: float = 3e-3
    warmup: int = 20
    final: float = 0.1
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0
    z_loss: float = 0.0
    balance: float = 0.01
    router_z: float = 0.0
    mtp: float = 0.3
    accumulate: int = 1
    dtype: str = "float32"
    parametrization: str = "standard"
    base_width: int | None = None
    base_depth: int | None = None
    base_heads: int | None = None
    base_inner: int | None = None

    @property
    def family(self) -> Family:
        """The models among which this one is, by its parametrisation."""
        return Family(**{f.name: getattr(self, f.name) for f in fields(Family)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """[run]: where a run goes, how it is computed, and what it is called; nothing here changes its result.

    remat: are the activations of a block computed again in the backward pass, which saves memory and takes a third more
    time? None: of stacks deeper than 8 blocks.
    out: folder of runs. arm: in a grid, what a cell is an example of, which is compared by that name.
    mesh: like "data=2,model=4", "" is one device. rules: a sharding preset.
    save_every: steps between checkpoints. keep: last checkpoints kept, the best one besides; "best" keeps one, and in a
    sweep the parameters of the best run of each arm.
    log_every: steps between lines of the log. tracker: who is told what the log says besides, of TRACKERS.
    distributed: which of several processes this is, like "localhost:9911,1/2"; "auto" asks Slurm, GKE or the TPU pod.
    """

    out: str = "runs"
    arm: str = ""
    mesh: str = ""
    rules: str = "dp"
    remat: bool | None = None
    save_every: int = 200
    keep: int | str = 2
    log_every: int = 10
    tracker: str = "jsonl"
    distributed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A resolved configuration: settings of one run, the cells of its grid (one empty cell where there is none), and
    the question that [question] asks of them."""

    name: str
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Data = Data()
    train: Train = Train()
    run: Run = Run()
    cells: Sequence[dict[str, Any]] = ({},)
    question: Question | None = None

    def __post_init__(self) -> None:
        """ValueError for what cannot be. Settings beside a grid need be no run by themselves: each cell has to."""
        self._check_values()
        if not any(self.cells):
            self._check_run()

    def _check_run(self) -> None:
        """ValueError for settings that do not fit each other."""
        batch, parts = self.data.batch, self.train.accumulate
        if batch % parts:
            whole = next(each for each in range(min(parts, 2**16), 0, -1) if batch % each == 0)
            raise ValueError(f"accumulate={parts} does not divide batch={batch}; use {whole}, or another divisor")
        complete = [name for name in ("zoo", "tiny") if name in self.model]
        others = [name for name in self.model if name not in complete]
        if complete and (others or len(complete) > 1):
            raise ValueError(f"{complete[0]} names a whole model; remove {', '.join(complete[1:] + others)}")
        self._check_parametrization()
        spec = self.spec()
        limit = position_limit(spec)
        if limit is not None and self.data.length > limit:
            raise ValueError(
                f"length={self.data.length} is beyond the {limit} positions of the model; use {limit} or less"
            )
        rows = jax.ShapeDtypeStruct((2, self._checked_row()), np.int32)
        check_objective(self.train.objective, spec, rows, self.vocab)

    def _checked_row(self) -> int:
        """`row`. Raises ValueError, in the names of settings, where the objective cannot make inputs of this length."""
        try:
            return self.row
        except ValueError as error:
            raise ValueError(
                f"length={self.data.length} is no length for objective={self.train.objective!r}: {error}"
            ) from None

    def _check_parametrization(self) -> None:
        """ValueError where the model is of no family that the parametrisation scales, or the family has no base."""
        family = self.train.family
        if family.rule.bases and self.published:
            raise ValueError(
                f"parametrization={family.parametrization!r} scales toys between widths, and the model is published as "
                "it is; leave it out"
            )
        if not self.published:
            family.check(self.train.optimizer, self._settings)

    def _check_values(self) -> None:
        """ValueError for a value that its setting cannot have, whatever the others are."""
        tables: dict[str, Mapping[str, Any]] = {
            "objective": OBJECTIVES,
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "dtype": DTYPES,
            "parametrization": PARAMETRIZATIONS,
            "task": {"text": 0, **TASKS},
            "tracker": TRACKERS,
            "zoo": PUBLISHED,
            "tiny": PUBLISHED,
        }
        check_text("name", self.name)
        if isinstance(self.run.keep, str):
            nearest({BEST: 0}, self.run.keep, "keep")
        for name, value in {**self.model, **_plain(self.data), **_plain(self.train), **_plain(self.run)}.items():
            if name in tables:
                nearest(tables[name], value, name)
            elif isinstance(value, str):
                check_text(name, value)
            elif name in RANGES and value is not None:
                check_number(name, value)
        sharding.preset(self.run.rules)
        if sharding.mesh_size(self.run.mesh) > MOST_DEVICES:
            raise ValueError(f"mesh={self.run.mesh!r} takes more devices than there are; use {MOST_DEVICES} or fewer")
        for name, rows in (("batch", self.data.batch), ("watch", self.data.watch)):
            if rows * self.data.length > COUNT:
                raise ValueError(
                    f"{name}={rows} of length={self.data.length} are {rows * self.data.length} tokens; "
                    f"use {COUNT} or fewer"
                )

    @property
    def row(self) -> int:
        """Tokens of text in one row, of which the objective makes inputs of `length`."""
        return self.objective.raw_length(self.data.length)

    @property
    def vocab(self) -> int:
        """Tokens that text is made of; the objective's special ones come after them."""
        return vocab_of(self.data.tokenizer)

    @property
    def objective(self) -> Objective:
        """What is predicted of text in this tokenizer's tokens."""
        return objective_of(self.train.objective, self.vocab)

    def corpus(self, kept: Path | None = None) -> Corpus:
        """The text in tokens; kept: where tokenizers are that were learned for it, None: in `out`. Raises UserError
        where text or tokenizer cannot be had, and where what the run writes would be text too."""
        data, out = self.data, Path(self.run.out)
        if data.task == "text":
            check_apart(data.path, out)
        return load_corpus(data.path, data.task, data.tokenizer, out / ".tokenizers" if kept is None else kept)

    @property
    def text_length(self) -> int:
        """What `train.data` calls length: tokens of a row after its first one."""
        return self.row - 1

    def flat(self) -> dict[str, Any]:
        """Every setting by its flat name, defaults of the model included."""
        return {**self._settings, **_plain(self.data), **_plain(self.train), **_plain(self.run)}

    @property
    def _settings(self) -> dict[str, Any]:
        """Every setting of the model by its name, defaults included."""
        defaults = {} if self.published else {name: parameter.default for name, parameter in PARAMETERS.items()}
        return {**defaults, **{name: value for name, value in self.model.items() if name not in GIVEN_BY_DATA}}

    @property
    def tokens_a_step(self) -> int:
        """Tokens predicted in one update."""
        return self.data.batch * self.data.length

    def settings(self) -> dict[str, Any]:
        """`args` of a record: every setting that decides a result, and the arm where the grid names one."""
        own = {name: value for name, value in self.flat().items() if name not in SECTIONS["run"]}
        return {**own, "arm": self.run.arm} if self.run.arm else own

    @property
    def published(self) -> bool:
        """Is the model one of the zoo, rather than a toy put together from settings?"""
        return "zoo" in self.model or "tiny" in self.model

    def spec(self, **numbers: Any) -> zoo.Transformer:
        """The model; `numbers` are arguments of the toy factory that may be traced."""
        if "zoo" in self.model:
            return zoo.get(self.model["zoo"])
        vocab = self.objective.vocab
        if "tiny" in self.model:
            tiny = zoo.tiny(self.model["tiny"])
            return replace(tiny, embed=replace(tiny.embed, vocab=max(vocab, tiny.embed.vocab)))
        toy, rule = self._toy(self._settings, numbers), self.train.family.rule
        return multiplied(rule, toy, self.base(**numbers)) if rule.bases else toy

    def base(self, **numbers: Any) -> zoo.Transformer:
        """The model that the parametrisation is relative to: in the standard one itself."""
        family = self.train.family
        if not family.rule.bases:
            return self.spec(**numbers)
        try:
            return self._toy(family.base_of(self._settings), numbers)
        except ValueError as error:
            raise ValueError(f"the base model cannot be: {error}") from None

    def _toy(self, settings: Mapping[str, Any], numbers: Mapping[str, Any]) -> zoo.Transformer:
        vocab = self.objective.vocab
        make = zoo.toy if numbers else _toy  # numbers may be traced, which no cache could tell apart
        return make(**{**settings, **numbers, "length": self.data.length, "vocab": vocab})

    def cell(self, settings: Mapping[str, Any]) -> "Config":
        """One run of the grid: the configuration with these settings, and no grid. Raises ValueError that names it."""
        try:
            return replace(self, cells=({},), **self._sections(settings))
        except ValueError as error:
            if not settings:
                raise
            named = ", ".join(f"{name}={short(value)}" for name, value in settings.items())
            raise ValueError(f"the cell {named} of the grid cannot be: {error}") from None

    def with_settings(self, settings: Mapping[str, Any]) -> "Config":
        """This configuration with flat (`lr`) or dotted (`train.lr`) settings changed; unknown names are refused."""
        return replace(self, **self._sections(settings))

    def _sections(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        for name, value in settings.items():
            section, key = place(name)
            sections[section][key] = typed(SECTIONS[section][key], key, value)
        model = {**self.model, **sections.pop("model")}
        return {"model": model} | {name: replace(getattr(self, name), **values) for name, values in sections.items()}


def defaults() -> dict[str, Any]:
    """Every setting that decides a result, by its name, as it is where nothing is given."""
    return Config(name="defaults").settings()


def place(name: str) -> tuple[str, str]:
    """(section, key) of a flat or dotted setting. Raises ValueError with the name that is meant where it is none."""
    now = renamed(OLD_NAMES, name, "setting")
    if not isinstance(now, str):
        raise ValueError(f"setting={short(now)} is no name")
    if now not in NAMES:
        raise ValueError(f"setting={short(now)} is unknown; {hint(now, NAMES)}")
    return NAMES[now]


_toy = lru_cache(maxsize=1024, typed=True)(zoo.toy)  # the cells of a grid have few models


def _plain(section: Any) -> dict[str, Any]:
    return {f.name: getattr(section, f.name) for f in fields(section)}


def _types(section: type) -> dict[str, Any]:
    return {f.name: f.type for f in fields(section)}


PARAMETERS = {
    name: parameter for name, parameter in inspect.signature(zoo.toy).parameters.items() if name not in GIVEN_BY_DATA
}
SECTIONS: dict[str, dict[str, Any]] = {  # the type of each setting
    "model": {
        **{name: kind for name, kind in typing.get_type_hints(zoo.toy).items() if name in PARAMETERS},
        "zoo": str,
        "tiny": str,
    },
    "data": _types(Data),
    "train": _types(Train),
    "run": _types(Run),
}
NAMES = {
    spelling: (section, key)
    for section, keys in SECTIONS.items()
    for key in keys
    for spelling in (key, f"{section}.{key}")
}
