"""Masks: frozen values, `(q: Coords, k: Coords) -> bool [B, T, S]`, True where a query may attend to a key.

Masks compose with `&` and `|`. Each knows its `reach`: how many of the most recent tokens, its own included, a
query can see (None: no limit), from which the capacity of a cache follows. `visible` is the only place where masks
are evaluated: it adds padding, packing and memory tokens, so no mask can forget them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jax import Array

from fxformer.coords import Coords
from fxformer.fields import Distance, check_fields
from fxformer.jit import promoting


class Mask(ABC):
    """A rule for which keys a query may attend to."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, q: Coords, k: Coords) -> Array:
        """bool [B, T, S]: may query t attend to key s?"""

    @property
    def reach(self) -> int | None:
        """Number of most recent tokens a query can see, its own included; None where there is no limit."""
        return None

    @property
    def bidirectional(self) -> bool:
        """Whether a query sees keys after it by their place alone, so that no cache can serve it."""
        return False

    def __and__(self, other: "Mask") -> "Mask":
        return Both(self, other)

    def __or__(self, other: "Mask") -> "Mask":
        return Either(self, other)


@dataclass(frozen=True, slots=True)
class Full(Mask):
    """Every key (BERT, encoders)."""

    def __call__(self, q: Coords, k: Coords) -> Array:
        return (k.index >= 0)[:, None, :] & (q.index >= 0)[:, :, None]

    @property
    def bidirectional(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Causal(Mask):
    """Keys up to the query's own: s <= t."""

    def __call__(self, q: Coords, k: Coords) -> Array:
        return _age(q, k) >= 0


@dataclass(frozen=True, slots=True)
class Window(Mask):
    """The `size` most recent keys, the query's own included: t - size < s <= t (Mistral)."""

    size: Distance

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, q: Coords, k: Coords) -> Array:
        age_BTS = _age(q, k)
        return (age_BTS >= 0) & (age_BTS < self.size)

    @property
    def reach(self) -> int | None:
        return self.size


@dataclass(frozen=True, slots=True)
class Prefix(Mask):
    """Keys marked as prefix in their coordinates, whatever their order (GLM, prefix LM)."""

    def __call__(self, q: Coords, k: Coords) -> Array:
        return k.prefix[:, None, :] & (q.index >= 0)[:, :, None]


@dataclass(frozen=True, slots=True)
class Strided(Mask):
    """Every `stride`-th earlier key, counted back from the query (Child et al. 2019)."""

    stride: Distance

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, q: Coords, k: Coords) -> Array:
        age_BTS = _age(q, k)
        return (age_BTS >= 0) & (age_BTS % self.stride == 0)


@dataclass(frozen=True, slots=True)
class Blocks(Mask):
    """Earlier keys of the query's own block of `size` tokens, counted from the first of its segment."""

    size: Distance

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, q: Coords, k: Coords) -> Array:
        start_BT = 0 if q.start is None else q.start
        age_BTS = _age(q, k)
        return (age_BTS >= 0) & (age_BTS <= ((q.index - start_BT) % self.size)[:, :, None])

    @property
    def reach(self) -> int | None:
        return self.size


@dataclass(frozen=True, slots=True)
class Both(Mask):
    """Keys that both masks allow."""

    first: Mask
    second: Mask

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, q: Coords, k: Coords) -> Array:
        return self.first(q, k) & self.second(q, k)

    @property
    def reach(self) -> int | None:
        return min((r for r in (self.first.reach, self.second.reach) if r is not None), default=None)

    @property
    def bidirectional(self) -> bool:
        return self.first.bidirectional and self.second.bidirectional


@dataclass(frozen=True, slots=True)
class Either(Mask):
    """Keys that one of the masks allows."""

    first: Mask
    second: Mask

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, q: Coords, k: Coords) -> Array:
        return self.first(q, k) | self.second(q, k)

    @property
    def reach(self) -> int | None:
        first, second = self.first.reach, self.second.reach
        return None if first is None or second is None else max(first, second)

    @property
    def bidirectional(self) -> bool:
        return self.first.bidirectional or self.second.bidirectional


@promoting()
def visible(mask: Mask, q: Coords, k: Coords) -> Array:
    """bool [B, T, S]: what `mask` allows, within one segment and never to padding; memory tokens besides.

    Every token sees those of its row, of whatever segment; they see all of it where the mask is bidirectional, else
    each other alone, so that nothing reaches a token through them that the mask keeps from it.
    """
    same_BTS = q.segment[:, :, None] == k.segment[:, None, :]
    seen_BTS = mask(q, k) & same_BTS & (k.index >= 0)[:, None, :] & (q.index >= 0)[:, :, None]
    if k.memory_token is not None:
        seen_BTS = seen_BTS | (k.memory_token[:, None, :] & q.there[:, :, None])
    if q.memory_token is not None and mask.bidirectional:
        seen_BTS = seen_BTS | (q.memory_token[:, :, None] & k.there[:, None, :])
    return seen_BTS


def _age(q: Coords, k: Coords) -> Array:
    """int [B, T, S]: how many tokens before the query the key stands."""
    return q.index[:, :, None] - k.index[:, None, :]
