"""What a field of a spec or an argument of a function may hold: what its annotation says, known, finite and in range.

`int` is a whole number and `float` a finite one, of Python, NumPy or JAX, and never True; `Size`, `Rate` and the
others below say a range as well. A `Number` may be traced, as in `jit`; all others decide what is compiled, and have
to be known.
"""

import difflib
import inspect
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import lru_cache, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


class Bound(NamedTuple):
    """Which values are allowed, and that in words."""

    allows: Callable[[Any], bool]
    words: str


TRACED = object()  # beside a float: it may be a number that is not known yet
LONGEST = 2**24  # of an axis: what the host makes for one stays small, and more than any model has
LAST = 2**31 - 1  # of what is counted in int32

Size = Annotated[int, Bound(lambda n: 1 <= n <= LONGEST, f"1 or more, and at most {LONGEST}")]
Count = Annotated[int, Bound(lambda n: 0 <= n <= LONGEST, f"0 or more, and at most {LONGEST}")]
Distance = Annotated[int, Bound(lambda n: 1 <= n <= LAST, f"1 or more, and at most {LAST}")]
Whole = Annotated[int, Bound(lambda n: 1 <= n <= 10**18, "1 or more, and at most 10^18")]
Positive = Annotated[float, Bound(lambda x: x > 0, "more than 0")]
Least = Annotated[float, Bound(lambda x: x >= 0, "0 or more")]
Share = Annotated[float, Bound(lambda x: 0 <= x <= 1, "0 to 1")]
Number = Annotated[float, TRACED]
Rate = Annotated[float, Bound(lambda x: 0 <= x < 1, "0 or more, and less than 1")]


def check_fields(spec: Any) -> None:
    """Raise ValueError for a field that does not hold what it is annotated with; numbers become Python's own."""
    for name, hint in _hints(spec.__class__):
        value = getattr(spec, name)
        fitting = conform(name, value, hint)
        if fitting is not value:
            object.__setattr__(spec, name, fitting)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose arguments are checked as fields are before it sees them."""
    hints, signature = get_type_hints(function, include_extras=True), inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(_misfit(function.__name__, str(error), list(signature.parameters), kwargs)) from None
        for name, value in given.arguments.items():
            given.arguments[name] = conform(name, value, hints[name])
        return function(*given.args, **given.kwargs)

    return call


def _misfit(name: str, why: str, known: list[str], given: Iterable[str]) -> str:
    """Why a function cannot be called so, in one sentence, with the nearest name of what it takes."""
    unknown = next((word for word in given if word not in known), None)
    if unknown is None:
        return f"{name}: {why}; it takes {', '.join(known)}"
    close = difflib.get_close_matches(unknown, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}"
    return f"{name} takes no {unknown!r}; {hint}"


def conform(name: str, value: Any, hint: Any) -> Any:
    """The value as its annotation has it. Raises ValueError with its name for one that does not fit."""
    options = _options(hint)
    if any(option.read is None for option in options):
        return value
    for option in options:
        assert option.read is not None
        fitting = option.read(value)
        if fitting is None and option.kind is not NoneType:
            continue
        wrong = [bound for bound in option.bounds if not traced_number(fitting) and not bound.allows(fitting)]
        if wrong:
            raise ValueError(f"{name}={shown(value)} is out of range; use {wrong[0].words}{_or_none(options)}")
        if option.kind is tuple:
            return tuple(conform(f"{name}[{i}]", item, option.item) for i, item in enumerate(fitting))
        if fitting is not None or value is None:
            return fitting
    if isinstance(value, jax.core.Tracer) and value.ndim == 0:
        raise ValueError(f"{name} is traced and decides what is compiled; give a number that is known")
    words = [option.words for option in options]
    raise ValueError(f"{name}={shown(value)} does not fit; give {_listed(words)}")


def shown(value: Any) -> str:
    """A value in one short line: arrays by dtype and shape."""
    if isinstance(value, np.ndarray | jax.Array) and not _is_scalar(value):
        return f"{value.dtype} {list(value.shape)}"
    try:
        text = " ".join(repr(value.item() if _is_scalar(value) else value).split())
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number too long to write"
    return text if len(text) <= SHORT else f"{text[: SHORT // 2]}…{text[-SHORT // 2 :]}"


SHORT = 80


class _Option(NamedTuple):
    """One of the types of an annotation. read: the value as of this type, or None; None where nothing is checked."""

    kind: Any
    read: Callable[[Any], Any] | None
    words: str
    bounds: tuple[Bound, ...] = ()
    item: Any = None


@lru_cache(maxsize=256)
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple((field.name, hints[field.name]) for field in fields(kind))


@lru_cache(maxsize=1024)
def _options(hint: Any) -> tuple[_Option, ...]:
    if get_origin(hint) in (Union, UnionType):
        return tuple(option for part in get_args(hint) for option in _options(part))
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else [hint]
    if kind is float and TRACED in extras:
        read: Callable[[Any], Any] | None = _number_or_traced
    elif get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        return (_Option(tuple, _several, "a tuple", item=get_args(kind)[0]),)
    elif kind in READERS:
        read = READERS[kind]
    else:
        read = _instance_of(kind) if _is_spec(kind) else None
    words = WORDS[kind] if kind in WORDS else "" if read is None else _name_of(kind)
    return (_Option(kind, read, words, tuple(extra for extra in extras if isinstance(extra, Bound))),)


def _is_spec(kind: Any) -> bool:
    """Whether it is a type of ours, whose values are told by it."""
    return isinstance(kind, type) and kind.__module__.split(".")[0] == __name__.split(".")[0]


# How to come by what users do not write down themselves, by the name of its type.
MADE = {
    "Transformer": "zoo.get(name) is one",
    "Coords": "fx.padded(mask) makes them of a boolean mask [batch, length]",
    "Cache": "empty_cache makes one, and apply returns the next",
    "Memory": "Output.memory of a model with an encoder",
}


def _name_of(kind: type) -> str:
    kinds: list[type] = kind.__subclasses__()
    several = MADE.get(kind.__name__) or ", ".join(dict.fromkeys(each.__name__ for each in kinds))
    return f"{kind.__name__} ({several})" if several else kind.__name__


def _instance_of(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, kind) else None


def _truth(value: Any) -> bool | None:
    known = isinstance(value, bool | np.bool_) or (_is_scalar(value) and value.dtype == bool)
    return bool(value) if known else None


def _whole(value: Any) -> int | None:
    if _truth(value) is not None:
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _number(value: Any) -> float | None:
    """A finite number; what JAX calls a number, such as bfloat16, is none of Python's."""
    if _truth(value) is not None or not (isinstance(value, int | float) or _is_scalar(value)):
        return None
    if _is_scalar(value) and not any(jnp.issubdtype(value.dtype, kind) for kind in REAL):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _number_or_traced(value: Any) -> Any:
    return value if traced_number(value) else _number(value)


def _several(value: Any) -> tuple[Any, ...] | None:
    return tuple(value) if isinstance(value, tuple | list) else None


REAL = (jnp.integer, jnp.floating)
READERS: dict[Any, Callable[[Any], Any]] = {
    NoneType: lambda value: None,
    bool: _truth,
    int: _whole,
    float: _number,
    str: lambda value: str(value) if isinstance(value, str) else None,
}
WORDS: dict[Any, str] = {
    NoneType: "None",
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "a name",
}


def _is_scalar(value: Any) -> bool:
    """Whether it is one known number of NumPy or JAX."""
    array = isinstance(value, np.generic | np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer)
    return array and value.ndim == 0 and not jnp.issubdtype(value.dtype, jax.dtypes.extended)


def traced_number(value: Any) -> bool:
    """Whether it stands for one number that is not known yet."""
    real = isinstance(value, jax.core.Tracer) and value.ndim == 0
    return real and any(jnp.issubdtype(value.dtype, kind) for kind in REAL)


def _or_none(options: tuple[_Option, ...]) -> str:
    return ", or None" if any(option.kind is NoneType for option in options) else ""


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
