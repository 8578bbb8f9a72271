"""What `fxformer.verify` checks of decoding holds for one model of each kind, and what breaks it is noticed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

import fxformer as fx
from fxformer import cache
from fxformer.coords import of_index
from fxformer.verify import DECODE_LAWS, decoding, reading, text_of
from tests.laws.specs import PUBLISHED, kinds, toy

NAMES = [name for name in kinds(PUBLISHED) if fx.verify.uncacheable(PUBLISHED[name]) is None]
CONCERNED = [(name, law) for name in NAMES for law in DECODE_LAWS if DECODE_LAWS[law].concerns(PUBLISHED[name])]


@pytest.mark.parametrize(("name", "law"), CONCERNED)
def test_published_models_obey_every_law_of_decoding(name, law):
    deviation, allowed = DECODE_LAWS[law].check(text_of(PUBLISHED[name]))
    assert deviation <= allowed


def test_every_law_of_decoding_concerns_some_model_and_none_a_model_that_cannot_decode():
    assert {law for _, law in CONCERNED} == set(DECODE_LAWS)
    assert not any(law.concerns(PUBLISHED["bert-base"]) for law in DECODE_LAWS.values())


def shifted(index):
    return of_index(index + (index > 4))


def twice_the_last_layer(spec, params, held):
    params, held = unstacked(spec, params, held)
    last, before = list(params["stack"])[-1], "group_0"
    assert "group" in last
    return {**params, "stack": {**params["stack"], before: params["stack"][last]}}, held


def halved(record, dtype):
    return store(record / 2, dtype)


def forgetful(held):
    """A cache that has lost what the encoder's first token said."""

    def forget(table):
        if not isinstance(table, cache.CrossTable):
            return table
        return replace(
            table, coords=replace(table.coords, index=jnp.where(table.coords.index == 0, -1, table.coords.index))
        )

    tables = jax.tree.map(forget, held.tables, is_leaf=lambda node: isinstance(node, cache.Table | cache.CrossTable))
    return replace(held, tables=tables)


unstacked, store, generate, step, empty = (
    decoding._unstacked, cache.store, decoding._generate, decoding._step, decoding.empty
)  # fmt: skip
GLOBAL, LOCAL, READER = toy(), toy(window=3), PUBLISHED["t5-small"]
BREAKS = {  # law -> (a model, what is put in place of what)
    "every split": (GLOBAL, decoding, "of_index", shifted),
    "chunks": (GLOBAL, reading, "of_index", shifted),
    "ragged rows": (LOCAL, reading, "of_index", shifted),
    "padding": (GLOBAL, decoding, "of_index", shifted),
    "around a window": (LOCAL, decoding, "empty", lambda text: empty(text, spare=1)),
    "rollback": (LOCAL, decoding, "empty", lambda text, spare: empty(text)),
    "beam reorder": (GLOBAL, decoding, "_fork", lambda held, rows: held),
    "encoder read once": (
        READER, decoding, "_step", lambda *given: step(*given[:3], forgetful(given[3]), given[4]),
    ),
    "unstacked = stacked": (GLOBAL, decoding, "_unstacked", twice_the_last_layer),
    "generated = likeliest": (GLOBAL, decoding, "_generate", lambda *given: (generate(*given) + 1) % 256),
    "neighbours do not matter": (
        GLOBAL, decoding, "_generate",
        lambda *given: generate(*given[:-1], {**given[-1], "key": jax.random.key(0)}),
    ),
    "int8 cache": (toy(inner=41), cache, "store", halved),
    "bfloat16 cache": (toy(inner=42), cache, "store", halved),
    "overflow is flagged": (GLOBAL, cache.Cache, "overflow_B", property(lambda held: held.length_B < 0)),
}  # fmt: skip


@pytest.mark.parametrize("law", DECODE_LAWS)
def test_decoding_that_breaks_a_law_is_noticed(law, monkeypatch):
    spec, place, name, wrong = BREAKS[law]
    text = text_of(spec)
    monkeypatch.setattr(place, name, wrong)
    deviation, allowed = DECODE_LAWS[law].check(text)
    assert deviation > allowed
