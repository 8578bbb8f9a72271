"""How a TOML file and `--set` become a configuration; what is unknown, and what nothing would read, is refused."""

import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fxformer import zoo
from fxformer.layers.ffn import MoE
from fxformer.lookup import nearest
from fxformer.walk import parts
from train.config.ask import rows_of, stated
from train.config.config import SECTIONS, Config, place
from train.config.edit import UNCHANGED, Edits, asked_of, extended, narrowed
from train.config.grid import parse
from train.config.match import solved
from train.config.values import check_text, kinds_of, short
from train.errors import user_input
from train.optim.optimizer import OPTIMIZERS
from train.optim.parametrization import PARAMETRIZATIONS
from train.optim.schedule import SCHEDULES
from train.optim.signature import reads

LARGEST_FILE = 2**20  # bytes of a configuration


def load(path: Path | str, settings: Sequence[str] = (), edits: Edits = UNCHANGED) -> Config:
    """Read a TOML file and apply `name=value` settings, and edits to its grid. Raises UserError with one sentence for
    anything unknown, for a setting that nothing would read, and for a question that the grid cannot answer."""
    with user_input():
        check_text("configuration", str(path))
        document = _document(Path(path))
        grid, asked = document.pop("grid", None), document.pop("question", None)
        written = _placed(
            {f"{section}.{key}": value for section, values in document.items() for key, value in values.items()}
        )
        written |= split(settings)
        cells = extended([{}] if grid is None else [_placed(cell) for cell in parse(grid)], edits)
        config = Config(name=Path(path).stem, cells=tuple(cells)).with_settings(written)
        _refuse_inert(config, written, cells)
        if asked is not None and grid is None:
            raise ValueError(f"{path} asks a question of no grid; add [grid.product] with what is to be compared")
        question = None if asked is None else stated(asked, rows_of(config, cells))
        if question is not None and question.match is not None:
            cells = solved(config, cells, question)
        if edits.only or edits.exclude:
            cells = narrowed(config, cells, edits)
            part = None if question is None else asked_of(question, rows_of(config, cells))
            if question is not None and part is None:
                raise ValueError(
                    "--only and --exclude leave nothing of what is asked: "
                    f"{' and '.join(question.compare)} is compared; leave two values of it"
                )
            question = part
        for cell in cells:
            config.cell(cell)
        return replace(config, cells=tuple(cells), question=question)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(_text(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} has lists within lists that nobody could read; write fewer brackets") from None
    for name, section in document.items():
        nearest({"model": 0, "data": 0, "train": 0, "run": 0, "grid": 0, "question": 0}, name, "section")
        if not isinstance(section, dict):
            raise ValueError(f"{name} is a section; write [{name}]")
    return document


def _text(path: Path) -> str:
    """What a file says, as long as it is one: a pipe would be waited for, and a device may have no end."""
    try:
        if not path.exists():
            raise ValueError(f"there is no configuration {path}")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; {_instead(path)}")
        if not path.is_file():
            raise ValueError(f"{path} is not a file; give a TOML file")
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(text) > LARGEST_FILE:
        raise ValueError(f"{path} has more than {LARGEST_FILE} bytes, which is no configuration")
    return text.decode("utf8")


def _instead(folder: Path) -> str:
    """What to do with a folder where a configuration is wanted."""
    if (folder / "results.jsonl").exists():
        return (
            f"it holds a sweep: give the TOML file that it ran from, or look at it by python -m train report {folder}"
        )
    if (folder / "config.json").exists():
        return (
            f"it holds a run: give the TOML file that it ran from, or sample from it by python -m train sample {folder}"
        )
    found = sorted(file.name for file in folder.glob("*.toml"))
    named = f", like {', '.join(str(folder / name) for name in found[:2])}" if found else ""
    return f"give a TOML file{named}; a folder of text is read by --set path={folder}"


def _placed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their flat names. ValueError where two names are of one."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        _, key = place(name)
        if key in flat:
            raise ValueError(f"{key} stands twice, once as {name}; write it once")
        flat[key] = value
    return flat


READ_ONCE = ("path", "tokenizer", "task", "validation", "watch")
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
    if "arm" in written:
        raise ValueError(f"arm={short(flat['arm'])} names the cells of a grid; write arm = [...] there")
    for name in SECTIONS["run"]:
        if name != "arm" and any(name in cell for cell in cells):
            raise ValueError(f"{name} changes no result; take it out of the grid")
    swept = {name for cell in cells for name in cell}
    _refuse_baseless(flat, cells)
    if any(name in written or name in swept for name in WEIGHTED):
        _refuse_weights(config, written, cells)
    for name in sorted(written):
        unread = [_inert(name, {**flat, **cell}) for cell in cells if name not in cell]
        if unread and all(unread):
            raise ValueError(f"{name}={short(flat[name])} does nothing {unread[0]}")
    for cell in cells:
        for name, value in cell.items():
            if because := _inert(name, {**flat, **cell}):
                raise ValueError(f"{name}={short(value)} does nothing {because}")


def _refuse_baseless(flat: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> None:
    """ValueError for a size that a sweep varies while each cell takes it to be that of its base model."""
    for cell in ({**flat, **cell} for cell in cells):
        for base in nearest(PARAMETRIZATIONS, cell["parametrization"], "parametrization").bases:
            size = base.removeprefix("base_")
            if cell[base] is None and any(size in other and other[size] != cell[size] for other in cells):
                raise ValueError(
                    f"{size} varies, and parametrization={cell['parametrization']!r} takes each of its values for that "
                    f"of the base model; set {base}"
                )


def _refuse_weights(config: Config, written: Collection[str], cells: Sequence[Mapping[str, Any]]) -> None:
    """ValueError for the weight of a loss that no model has, or in a cell whose model has none."""
    structures = [
        {name: value for name, value in cell.items() if name == "objective" or name not in SECTIONS["train"]}
        for cell in cells
    ]
    distinct = {repr(structure): structure for structure in structures}
    models = {text: config.cell(structure).spec() for text, structure in distinct.items()}
    for name, concerned in WEIGHTED.items():
        has = {text: concerned(spec) for text, spec in models.items()}
        if name in written and not any(has.values()):
            raise ValueError(f"{name}={config.flat()[name]!r} does nothing: no model here has such a loss")
        for cell, structure in zip(cells, structures, strict=True):
            if name in cell and not has[repr(structure)]:
                raise ValueError(f"{name}={short(cell[name])} does nothing: the model of its cell has no such loss")


def _inert(name: str, flat: Mapping[str, Any]) -> str:
    """Why a setting changes nothing beside the others, and who would read it; empty where it is read."""
    for choice, table in {"schedule": SCHEDULES, "optimizer": OPTIMIZERS}.items():
        readers = [entry for entry, function in table.items() if name in reads(function)]
        if readers and flat[choice] not in readers:
            return f"with {choice}={flat[choice]!r}; it is read by {', '.join(readers)}"
    rule = PARAMETRIZATIONS[flat["parametrization"]]
    readers = [each for each, other in PARAMETRIZATIONS.items() if name in other.bases]
    if readers and name not in rule.bases:
        return f"with parametrization={flat['parametrization']!r}; it is read by {', '.join(readers)}"
    if name in ("path", "tokenizer") and flat["task"] != "text":
        return f"with task={flat['task']!r}; it is read by text"
    if name == "rules" and not flat["mesh"]:
        return "without a mesh; set mesh too"
    return ""


def split(settings: Sequence[str]) -> dict[str, Any]:
    """Flat names and values of settings like "lr=1e-3". ValueError where one has no value or an unknown name."""
    return dict(map(_split, settings))


def _split(setting: str) -> tuple[str, Any]:
    """(flat name, value) of `name=value`; the value is TOML where it can be, else the text as it stands."""
    name, equals, text = setting.partition("=")
    if not equals:
        raise ValueError(f"--set {short(setting)} has no value; write --set name=value")
    section, key = place(name)
    value = _value(text)
    return key, text if kinds_of(SECTIONS[section][key]) == (str,) and not isinstance(value, str) else value


def _value(text: str) -> Any:
    """The one value that the whole text is in TOML, with no comment or line after it; else the text."""
    try:
        document = tomllib.loads(f"value = [{text}]")
    except (ValueError, RecursionError):
        return text
    return document["value"][0] if document.keys() == {"value"} and len(document["value"]) == 1 else text
