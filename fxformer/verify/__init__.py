"""The laws that every model obeys, checked on one: `verify(spec)` says for each how far it is from being kept.

`verify_decoding(spec)` does so for the laws of decoding. A law that a model cannot have is left out.
"""

from collections.abc import Iterator, Mapping

from fxformer.model import Transformer
from fxformer.verify.decoding import DECODE_LAWS
from fxformer.verify.laws import GRADIENT_ROUNDING, LAWS, Finding, Law, gap, lawful, uncacheable
from fxformer.verify.reading import Text, disturbed, quick, text_of

__all__ = [
    "verify", "verify_decoding", "LAWS", "DECODE_LAWS", "Law", "Finding", "Verdict",
    "Text", "text_of", "lawful", "uncacheable", "gap", "quick", "disturbed", "GRADIENT_ROUNDING",
]  # fmt: skip

Verdict = tuple[str, str, str]


def verify(spec: Transformer) -> Iterator[Verdict]:
    """(law, "ok" or "FAILED", largest deviation) for every law that concerns the model, experts without capacity."""
    return _tried(lawful(spec), LAWS)


def verify_decoding(spec: Transformer) -> Iterator[Verdict]:
    """The same for the laws of decoding, none of which concerns a model that is `uncacheable`."""
    return _tried(lawful(spec), DECODE_LAWS)


def _tried(spec: Transformer, laws: Mapping[str, Law]) -> Iterator[Verdict]:
    text = text_of(spec)
    for name, law in laws.items():
        if law.concerns(spec):
            deviation, allowed = law.check(text)
            yield name, "ok" if deviation <= allowed else "FAILED", f"{deviation:.1e}"
