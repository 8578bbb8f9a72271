"""What a run is, as data: TOML sections [model], [data], [train], [run] and, for a sweep, [grid].

Every setting has one name in one flat namespace, so that a grid, `--set` and a results file speak of the same thing:
`lr` and `train.lr` are one setting. [model] holds the arguments of `fxformer.zoo.toy`, or `zoo = "gpt2"` for a
published model, or `tiny = "gpt2"` for its structure at toy widths.
"""

import inspect
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fxformer import zoo
from fxformer.names import nearest
from train.grid import parse
from train.objectives import OBJECTIVES
from train.optimizer import OPTIMIZERS
from train.schedule import SCHEDULES
from train.synthetic import TASKS

GIVEN_BY_DATA = ("vocab", "length")  # arguments of the factory that the data decides


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
    """[train]: how parameters are learned; numbers here never cause a compilation.

    warmup: steps. final: share of the peak rate at the end. clip: bound on the global gradient norm, 0 is off.
    accumulate: parts that a batch is cut into, one after another.
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
    accumulate: int = 1
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """[run]: where a run goes and how it is computed; nothing here changes its result.

    out: folder of runs. mesh: like "data=2,model=4", "" is one device. rules: a sharding preset.
    save_every: steps between checkpoints. keep: last checkpoints kept, the best one besides. eval_every: steps.
    """

    out: str = "runs"
    mesh: str = ""
    rules: str = "dp"
    save_every: int = 200
    keep: int = 2
    eval_every: int = 100
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
        if self.data.task != "text":
            nearest(TASKS, self.data.task, "task")
        for name, value in {**_plain(self.data), **_plain(self.train), **_plain(self.run)}.items():
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{name}={value} is below 0")
        for name in ("length", "batch", "validation", "steps", "accumulate", "save_every", "eval_every", "log_every"):
            if self.flat()[name] < 1:
                raise ValueError(f"{name}={self.flat()[name]} is too small; use 1 or more")
        if self.data.batch % self.train.accumulate:
            raise ValueError(f"accumulate={self.train.accumulate} does not divide batch={self.data.batch}")
        complete = [name for name in ("zoo", "tiny") if name in self.model]
        others = [name for name in self.model if name not in complete]
        if complete and (others or len(complete) > 1):
            raise ValueError(f"{complete[0]} names a whole model; remove {', '.join(complete[1:] + others)}")
        self.spec()

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
        if "tiny" in self.model:
            return zoo.tiny(self.model["tiny"])
        return zoo.toy(**{**self.model, **numbers, "length": self.data.length})

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


def load(path: Path | str, settings: Sequence[str] = ()) -> Config:
    """Read a TOML file and apply `name=value` settings. Raises ValueError with one sentence for anything unknown."""
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise ValueError(f"there is no configuration {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    grid = document.pop("grid", None)
    for name, section in document.items():
        nearest({"model": 0, "data": 0, "train": 0, "run": 0, "grid": 0}, name, "section")
        if not isinstance(section, dict):
            raise ValueError(f"{name} is a section; write [{name}]")
    written = {f"{section}.{key}": value for section, values in document.items() for key, value in values.items()}
    config = Config(name=path.stem).with_settings({**written, **dict(_split(setting) for setting in settings)})
    if grid is None:
        return config
    cells = parse(grid)
    for name in dict.fromkeys(name for cell in cells for name in cell):
        _place(name)
    return replace(config, cells=tuple({_place(name)[1]: value for name, value in cell.items()} for cell in cells))


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
    return nearest(NAMES, name, "setting")


def _typed(kind: Any, name: str, value: Any) -> Any:
    """`value` as the type that a setting has; ValueError where it is of another."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
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
    **{name: p.annotation for name, p in inspect.signature(zoo.toy).parameters.items() if name not in GIVEN_BY_DATA},
    "zoo": str,
    "tiny": str,
}
NAMES = {
    spelling: (section, key)
    for section, keys in {"model": MODEL, **SECTIONS}.items()
    for key in keys
    for spelling in (key, f"{section}.{key}")
}
