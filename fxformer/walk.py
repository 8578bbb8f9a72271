"""Walking through specs."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

Part = TypeVar("Part")


def parts(spec: Any, kind: type[Part] | tuple[type[Part], ...]) -> Iterator[Part]:
    """Every value of type `kind` (or of one of several) inside a spec, itself included, in the order of its fields."""
    if isinstance(spec, kind):
        yield spec
    if is_dataclass(spec):
        for field in fields(spec):
            yield from parts(getattr(spec, field.name), kind)
    elif isinstance(spec, tuple):
        for item in spec:
            yield from parts(item, kind)


def replaced(spec: Any, kind: type, new: Any) -> Any:
    """The spec with `new` in the place of every value of type `kind`."""
    if isinstance(spec, kind):
        return new
    if is_dataclass(spec) and not isinstance(spec, type):
        changed = {field.name: replaced(getattr(spec, field.name), kind, new) for field in fields(spec) if field.init}
        return replace(spec, **changed)
    return tuple(replaced(item, kind, new) for item in spec) if isinstance(spec, tuple) else spec
