"""Masks and blanks that a model fills in, against loops without a cache and the batches of its training."""

from collections import namedtuple
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import Coords, padded
from fxformer.decode import Sampling, fill_blanks, fill_masks
from fxformer.layers.head import Untied
from fxformer.verify import disturbed
from tests.decode.plainly import log_softmax
from tests.laws.specs import PUBLISHED, toy
from train.objectives.blanks import blank
from train.objectives.tasks import Spans

MASK = 5
ENCODER = replace(PUBLISHED["bert-base-mlm"], head=Untied())


def masked_rows():
    """Two rows of 11 with 5 and 2 masks, the second of them padded on the left."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(6, 256, (2, 11)).astype(np.int32)
    tokens[0, [1, 2, 5, 8, 10]] = MASK
    tokens[1, [4, 9]] = MASK
    return tokens, padded(np.arange(11) >= np.array([[0], [3]]))


def filled(spec, params, tokens, coords, rounds):
    """Round after round a share of what is masked still, the surest places first."""
    tokens = tokens.copy()
    for i in range(rounds):
        logits = np.array(fx.apply(spec, params, tokens, coords=coords).logits, np.float64)
        logits[..., MASK] = -np.inf
        logp = log_softmax(logits)
        for row in range(len(tokens)):
            places = np.flatnonzero(tokens[row] == MASK)
            surest = places[np.argsort(-logp[row, places].max(axis=-1))]
            for place in surest[: -(-len(places) // (rounds - i))]:
                tokens[row, place] = int(logp[row, place].argmax())
    return tokens


@pytest.mark.parametrize("rounds", [None, 1, 2, 7])
def test_masks_are_filled_from_the_surest_on(rounds):
    params, (tokens, coords) = disturbed(ENCODER), masked_rows()
    ours = np.asarray(fill_masks(ENCODER, params, tokens, MASK, rounds=rounds, coords=coords))
    np.testing.assert_array_equal(ours, filled(ENCODER, params, tokens, coords, rounds or 5))
    assert not (ours == MASK).any() and (ours == tokens)[tokens != MASK].all()


def test_texts_of_a_bucket_share_what_is_compiled(programs):
    params, (tokens, _) = disturbed(ENCODER), masked_rows()
    fill_masks(ENCODER, params, tokens, MASK)
    before = programs()
    for length in (9, 15):
        text = np.resize(tokens, (2, length))
        found = np.asarray(fill_masks(ENCODER, params, text, MASK, rounds=2))
        assert found.shape == (2, length) and (found == text)[text != MASK].all() and not (found == MASK).any()
    assert programs() == before


def test_the_number_of_rounds_matters():
    params, (tokens, coords) = disturbed(ENCODER, seed=4), masked_rows()
    once, each = (np.asarray(fill_masks(ENCODER, params, tokens, MASK, rounds=n, coords=coords)) for n in (1, None))
    assert (once != each).any()


def test_drawn_masks_follow_the_keys_of_their_rows():
    params, (tokens, coords) = disturbed(ENCODER), masked_rows()
    keys = jax.random.split(jax.random.key(0), 2)
    options = {"coords": coords, "sampling": Sampling(temperature=3.0)}
    ours = np.asarray(fill_masks(ENCODER, params, tokens, MASK, key=keys, **options))
    other = np.stack([tokens[0], np.where(tokens[1] == MASK, MASK, (tokens[1] + 1) % 250 + 6)])
    beside = np.asarray(fill_masks(ENCODER, params, other, MASK, key=keys, **options))
    np.testing.assert_array_equal(beside[0], ours[0])
    assert (fill_masks(ENCODER, params, tokens, MASK, key=keys[::-1], **options) != ours).any()
    cold = fill_masks(ENCODER, params, tokens, MASK, key=keys, coords=coords, sampling=Sampling(temperature=0.0))
    np.testing.assert_array_equal(cold, fill_masks(ENCODER, params, tokens, MASK, coords=coords))


BLANK, START, PADS = 7, 8, 0
Marks = namedtuple("Marks", ("sop", "eop", "pad"))  # special ids as an objective has them, of any numbers


@pytest.mark.parametrize("name", ["glm-10b", "chatglm-6b"])
def test_blanks_are_written_as_the_model_reads_them_when_it_is_trained(name):
    """The text with its pieces, made a training row by the objective: each target is the likeliest token there."""
    spec = replace(fx.zoo.tiny(name), head=Untied())
    params = disturbed(spec, seed=3)
    tokens = np.random.default_rng(2).integers(10, 250, (2, 9))
    tokens[0, [1, 6]] = tokens[1, [3, 4]] = BLANK
    fill = partial(fill_blanks, spec, params, tokens, (BLANK,), 5, start=START)
    free = np.asarray(fill(stop=int(np.setdiff1d(np.arange(10, 250), tokens)[0])))
    tried = ((stop, pieces_of(fill(stop=stop), stop)) for stop in np.unique(free[:, :, 1:]).tolist())
    stop, written = next(found for found in tried if several_lengths(found[1]))
    for row in range(2):
        check_row(spec, params, tokens[row], written[row], stop)
    whole = np.asarray(fill(stop=stop))
    behind = np.cumsum(whole == stop, axis=-1) - (whole == stop) > 0
    np.testing.assert_array_equal(fill(stop=stop, pad=PADS), np.where(behind, PADS, whole))


def test_a_blank_is_written_where_the_text_and_the_piece_have_positions_each():
    """A row may have more tokens than either table has positions: both count from the text's own beginning."""
    spec = toy(position="learned-pair", mask="prefix", length=12, vocab=11, head="untied")
    params = disturbed(spec)
    tokens = np.random.default_rng(0).integers(0, 6, (1, 12))
    tokens[0, 7] = BLANK
    piece = np.asarray(fill_blanks(spec, params, tokens, BLANK, 8, start=START, stop=10))[0, 0]
    wide = replace(spec, embed=replace(spec.embed, position=replace(spec.embed.position, limit=40)))
    tables = params["embed"]["position"]
    more = jax.tree.map(lambda table: jnp.pad(table, ((0, 28), (0, 0))), tables)
    wide_params = {**params, "embed": {**params["embed"], "position": more}}
    expected = fill_blanks(wide, wide_params, tokens, BLANK, 8, start=START, stop=10)
    np.testing.assert_array_equal(piece, np.asarray(expected)[0, 0])
    with pytest.raises(ValueError, match="new ones are more than the 12 learned positions"):
        fill_blanks(spec, params, tokens, BLANK, 12, start=START, stop=10)


def pieces_of(text, stop):
    """Each piece up to its stop, without it; behind it there is nothing but stops."""
    assert text.shape == (2, 2, 5)
    pieces = [[piece[: (*piece, stop).index(stop)] for piece in row] for row in np.asarray(text).tolist()]
    assert all(set(text[i, j, len(pieces[i][j]) :].tolist()) <= {stop} for i in range(2) for j in range(2))
    return pieces


def several_lengths(pieces):
    lengths = {len(piece) for row in pieces for piece in row}
    return 0 not in lengths and len(lengths) > 1


def check_row(spec, params, text, pieces, stop):
    whole, starts, left = [], [], iter(pieces)
    for token in text.tolist():
        if token == BLANK:
            starts.append(len(whole))
        whole += next(left) if token == BLANK else [token]
    spans = Spans(jnp.array(starts), jnp.array([len(piece) for piece in pieces]))
    specials = Marks(sop=START, eop=stop, pad=PADS)
    row = blank(jnp.array(whole), spans, BLANK, specials)
    coords = Coords(
        index=row.order[None], segment=jnp.zeros_like(row.order)[None], prefix=row.source[None], pos=row.pos[None]
    )
    logits = np.asarray(fx.apply(spec, params, row.inputs[None], coords=coords).logits)[0]
    compared = 0
    for place in np.flatnonzero(np.asarray(~row.source & (row.order >= 0))):
        ends_by_length = int(row.targets[place]) == stop and any(
            len(piece) == 5 and step == 5 for piece, step in piece_at(place, len(text), pieces)
        )
        if not ends_by_length:
            assert int(np.argmax(logits[place])) == int(row.targets[place])
            compared += 1
    assert compared >= sum(map(len, pieces))


def piece_at(place, size, pieces):
    """The piece that a place of Part B belongs to, and how far into it: [start] is 0."""
    first = size
    for piece in pieces:
        if first <= place <= first + len(piece):
            yield piece, place - first
        first += len(piece) + 1
