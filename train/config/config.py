"""What a run is, as data: TOML sections [model], [data], [train], [run] and, for a sweep, [grid].

Every setting has one name in one flat namespace, so that a grid, `--set` and a results file speak of the same thing:
`lr` and `train.lr` are one setting. [model] holds the arguments of `fxformer.zoo.toy`, or `zoo = "gpt2"` for a
published model, or `tiny = "gpt2"` for its structure at toy widths.
"""

import inspect
import math
import tomllib
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fxformer import zoo
from fxformer.layers.embed import Learned, Sinusoidal
from fxformer.layers.ffn import MoE
from fxformer.lookup import nearest, renamed
from fxformer.model import position_limit
from fxformer.ops.rotary import Rotary
from fxformer.walk import parts
from train.config.grid import parse
from train.data.synthetic import TASKS
from train.errors import user_input
from train.objectives import OBJECTIVES, Batch
from train.optim.optimizer import OPTIMIZERS
from train.optim.schedule import SCHEDULES
from train.optim.signature import reads

DTYPES = {"float32": 32, "bfloat16": 16, "float16": 16}  # that are computed in, with their bits
OLD_NAMES = {"ahead": "mtp", "train.ahead": "train.mtp"}
GIVEN_BY_DATA = ("vocab", "length")  # arguments of the factory that data and objective decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """[data]: which bytes, and how they are cut.

    path: "stdlib", a file or a folder. task: "text", or a synthetic task in place of `path`.
    length: tokens predicted in a sequence. batch: sequences in a step. validation: windows of the held-out text.
    """

    path: str = "stdlib"
    task: str = "text"
    length: int = 64
    batch: int = 8
    validation: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """[train]: how parameters are learned.

    seed, steps, lr, warmup, final, weight_decay and weights of losses are traced: one compiled step serves all their
    values (a sweep compiles for each number of steps, which its dispatches are cut from). The others are structure, and
    each of their values is compiled: beta1, beta2, eps, clip and accumulate too.
    warmup: steps. final: share of the learning rate at the end. clip: bound on the global gradient norm, 0 is off.
    accumulate: parts that a batch is cut into, one after another. z_loss, balance, router_z, mtp: weights of losses
    beside the objective's own: log Z squared, experts' loads, their routers' log Z squared, the token after the next.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """[run]: where a run goes and how it is computed; nothing here changes its result.

    out: folder of runs. mesh: like "data=2,model=4", "" is one device. rules: a sharding preset.
    save_every: steps between checkpoints. keep: last checkpoints kept, the best one besides.
    log_every: steps between lines of the log.
    """

    out: str = "runs"
    mesh: str = ""
    rules: str = "dp"
    save_every: int = 200
    keep: int = 2
    log_every: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A resolved configuration: settings of one run, and the cells of its grid (one empty cell where there is none)."""

    name: str
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Data = Data()
    train: Train = Train()
    run: Run = Run()
    cells: Sequence[dict[str, Any]] = ({},)

    def __post_init__(self) -> None:
        nearest(OBJECTIVES, self.train.objective, "objective")
        nearest(OPTIMIZERS, self.train.optimizer, "optimizer")
        nearest(SCHEDULES, self.train.schedule, "schedule")
        nearest(DTYPES, self.train.dtype, "dtype")
        if self.data.task != "text":
            nearest(TASKS, self.data.task, "task")
        for name, value in {**_plain(self.data), **_plain(self.train), **_plain(self.run)}.items():
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{name}={value} is below 0")
        check_seed(self.train.seed)
        for name, beta in (("beta1", self.train.beta1), ("beta2", self.train.beta2)):
            if beta >= 1:
                raise ValueError(f"{name}={beta} keeps all that was and takes nothing new; use less than 1")
        for name in ("length", "batch", "validation", "steps", "accumulate", "save_every", "log_every"):
            if self.flat()[name] < 1:
                raise ValueError(f"{name}={self.flat()[name]} is too small; use 1 or more")
        if self.data.batch % self.train.accumulate:
            raise ValueError(f"accumulate={self.train.accumulate} does not divide batch={self.data.batch}")
        complete = [name for name in ("zoo", "tiny") if name in self.model]
        others = [name for name in self.model if name not in complete]
        if complete and (others or len(complete) > 1):
            raise ValueError(f"{complete[0]} names a whole model; remove {', '.join(complete[1:] + others)}")
        spec, limit = self.spec(), position_limit(self.spec())
        check_objective(self.train.objective, spec, rows=jax.ShapeDtypeStruct((2, self.row), np.int32))
        if limit is not None and self.data.length > limit:
            raise ValueError(
                f"length={self.data.length} is beyond the {limit} positions of the model; use {limit} or less"
            )

    @property
    def row(self) -> int:
        """Tokens of text in one row, of which the objective makes inputs of `length`."""
        return OBJECTIVES[self.train.objective].raw_length(self.data.length)

    @property
    def text_length(self) -> int:
        """What `train.data` calls length: tokens of a row after its first one."""
        return self.row - 1

    def flat(self) -> dict[str, Any]:
        """Every setting by its flat name, defaults of the model included."""
        model = dict(self.model) if self.published else {**_defaults(zoo.toy), **self.model}
        for name in GIVEN_BY_DATA:
            model.pop(name, None)
        return {**model, **_plain(self.data), **_plain(self.train), **_plain(self.run)}

    @property
    def tokens_a_step(self) -> int:
        """Tokens predicted in one update."""
        return self.data.batch * self.data.length

    @property
    def published(self) -> bool:
        """Is the model one of the zoo, rather than a toy put together from settings?"""
        return "zoo" in self.model or "tiny" in self.model

    def spec(self, **numbers: Any) -> zoo.Transformer:
        """The model; `numbers` are arguments of the toy factory that may be traced."""
        if "zoo" in self.model:
            return zoo.get(self.model["zoo"])
        vocab = OBJECTIVES[self.train.objective].vocab
        if "tiny" in self.model:
            tiny = zoo.tiny(self.model["tiny"])
            return replace(tiny, embed=replace(tiny.embed, vocab=max(vocab, tiny.embed.vocab)))
        return zoo.toy(**{**self.model, **numbers, "length": self.data.length, "vocab": vocab})

    def with_settings(self, settings: Mapping[str, Any]) -> "Config":
        """This configuration with flat (`lr`) or dotted (`train.lr`) settings changed; unknown names are refused."""
        model: dict[str, Any] = dict(self.model)
        sections: dict[str, dict[str, Any]] = {"data": {}, "train": {}, "run": {}}
        for name, value in settings.items():
            section, key = _place(name)
            if section == "model":
                model[key] = _typed(MODEL[key], key, value)
            else:
                sections[section][key] = _typed(SECTIONS[section][key], key, value)
        changed = {name: replace(getattr(self, name), **values) for name, values in sections.items()}
        return replace(self, model=model, **changed)


def check_seed(seed: int) -> None:
    """Raise ValueError for what is no 32-bit number."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is out of range; use 0 to {2**32 - 1}")


def check_objective(name: str, spec: zoo.Transformer, rows: jax.ShapeDtypeStruct) -> None:
    """Raise ValueError where the model cannot be trained with the objective, on rows of text of this shape."""
    objective, said = OBJECTIVES[name], f"objective={name!r}"
    known, needed = spec.embed.vocab, objective.vocab
    if known < needed:
        raise ValueError(f"{said} has {needed} tokens, the model knows {known}")
    batch = shapes(name, rows)
    if (batch.encoder_tokens is not None) != (spec.encoder is not None):
        tokens, encoder = ("tokens", "no encoder") if spec.encoder is None else ("no tokens", "an encoder")
        raise ValueError(f"{said} has {tokens} for an encoder, the model has {encoder}")
    labels = 0 if spec.pooler is None else spec.pooler.labels
    if batch.labels is not None and labels < 2:
        raise ValueError(f"{said} has 2 classes of rows, the model has a pooler of labels={labels}; give it 2")
    if batch.mtp is not None and spec.mtp is None:
        raise ValueError(f"{said} predicts {1 + batch.mtp.shape[-1]} tokens, the model 1")
    singles = [1 for _ in parts(spec, (Learned, Sinusoidal))]
    given, seen = streams_of(batch), min([*singles, *(rotary.streams for rotary in parts(spec, Rotary))], default=2)
    if given > seen:
        raise ValueError(f"{said} has {given} streams of positions, the model sees {seen}")
    if not objective.hides and any(block.attention.mask.bidirectional for block in spec.stack.blocks):
        raise ValueError(f"{said} predicts tokens that the model's mask shows it; use a causal mask")


@lru_cache(maxsize=64)
def shapes(name: str, rows: jax.ShapeDtypeStruct) -> Batch:
    """The shapes of what an objective makes of rows of text; starts no device."""
    return jax.eval_shape(lambda rows: OBJECTIVES[name](rows, jax.random.key(0)), rows)


def streams_of(batch: Batch) -> int:
    """How many positions a token has."""
    assert batch.coords.pos is not None
    return 1 if batch.coords.pos.ndim == 2 else batch.coords.pos.shape[-1]


def load(path: Path | str, settings: Sequence[str] = ()) -> Config:
    """Read a TOML file and apply `name=value` settings. Raises UserError with one sentence for anything unknown, and
    for a setting that nothing would read."""
    with user_input():
        document = _document(Path(path))
        grid = document.pop("grid", None)
        written = {f"{section}.{key}": value for section, values in document.items() for key, value in values.items()}
        written |= dict(_split(setting) for setting in settings)
        config = Config(name=Path(path).stem).with_settings(written)
        cells = [{}] if grid is None else parse(grid)
        placed = [{_place(name)[1]: value for name, value in cell.items()} for cell in cells]
        _refuse_inert(config, {_place(name)[1] for name in written}, placed)
        return replace(config, cells=tuple(placed))


def _document(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise ValueError(f"there is no configuration {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    for name, section in document.items():
        nearest({"model": 0, "data": 0, "train": 0, "run": 0, "grid": 0}, name, "section")
        if not isinstance(section, dict):
            raise ValueError(f"{name} is a section; write [{name}]")
    return document


READ_ONCE = ("path", "task", "validation")
WEIGHTED: dict[str, Callable[[zoo.Transformer], bool]] = {  # weights of losses, and which models have the loss
    "balance": lambda spec: any(True for _ in parts(spec, MoE)),
    "router_z": lambda spec: any(True for _ in parts(spec, MoE)),
    "mtp": lambda spec: spec.mtp is not None,
}


def _refuse_inert(config: Config, written: Collection[str], cells: Sequence[Mapping[str, Any]]) -> None:
    """ValueError for a written setting that no cell reads, or a swept one that its cell does not read."""
    flat = config.flat()
    for name in READ_ONCE:
        if any(name in cell for cell in cells):
            raise ValueError(f"{name} is read once for a whole sweep; take it out of the grid and run a sweep for each")
    for name in SECTIONS["run"]:
        if any(name in cell for cell in cells):
            raise ValueError(f"{name} changes no result; take it out of the grid")
    for name, concerned in WEIGHTED.items():
        if name in written and not any(concerned(config.with_settings(cell).spec()) for cell in cells):
            raise ValueError(f"{name}={flat[name]!r} does nothing: no model here has such a loss")
    for name in sorted(written):
        unread = [_inert(name, {**flat, **cell}) for cell in cells if name not in cell]
        if unread and all(unread):
            raise ValueError(f"{name}={flat[name]!r} does nothing {unread[0]}")
    for cell in cells:
        for name, value in cell.items():
            if because := _inert(name, {**flat, **cell}):
                raise ValueError(f"{name}={value!r} does nothing {because}")


def _inert(name: str, flat: Mapping[str, Any]) -> str:
    """Why a setting changes nothing beside the others, and who would read it; empty where it is read."""
    for choice, table in {"schedule": SCHEDULES, "optimizer": OPTIMIZERS}.items():
        readers = [entry for entry, function in table.items() if name in reads(function)]
        if readers and flat[choice] not in readers:
            return f"with {choice}={flat[choice]!r}; it is read by {', '.join(readers)}"
    if name == "path" and flat["task"] != "text":
        return f"with task={flat['task']!r}; it is read by text"
    if name == "rules" and not flat["mesh"]:
        return "without a mesh; set mesh too"
    return ""


def _split(setting: str) -> tuple[str, Any]:
    name, equals, text = setting.partition("=")
    if not equals:
        raise ValueError(f"--set {setting} has no value; write --set name=value")
    try:
        return name, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return name, text


def _place(name: str) -> tuple[str, str]:
    """(section, key) of a flat or dotted setting."""
    return nearest(NAMES, renamed(OLD_NAMES, name, "setting"), "setting")


def _typed(kind: Any, name: str, value: Any) -> Any:
    """`value` as the type that a setting has; ValueError where it is of another."""
    kinds = typing.get_args(kind) or (kind,)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value!r} is not finite; give a number")
    if float in kinds and isinstance(value, int) and not isinstance(value, bool) and int not in kinds:
        return float(value)
    if any(isinstance(value, k) and not (k in (int, float) and isinstance(value, bool)) for k in kinds):
        return value
    wanted = " or ".join(
        {int: "a whole number", float: "a number", str: "a name", bool: "true or false"}[k]
        for k in kinds
        if k is not types.NoneType
    )
    raise ValueError(f"{name}={value!r} is not {wanted}")


def _defaults(factory: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(factory).parameters.items()}


def _plain(section: Any) -> dict[str, Any]:
    return {f.name: getattr(section, f.name) for f in fields(section)}


def _types(section: type) -> dict[str, Any]:
    return {f.name: f.type for f in fields(section)}


SECTIONS = {"data": _types(Data), "train": _types(Train), "run": _types(Run)}
MODEL = {
    **{name: kind for name, kind in typing.get_type_hints(zoo.toy).items() if name not in GIVEN_BY_DATA},
    "zoo": str,
    "tiny": str,
}
NAMES = {
    spelling: (section, key)
    for section, keys in {"model": MODEL, **SECTIONS}.items()
    for key in keys
    for spelling in (key, f"{section}.{key}")
}
