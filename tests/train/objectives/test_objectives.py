"""Objectives: the worked examples of their papers, the laws that give the text back, and exact probabilities."""

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import chain, combinations, pairwise, permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from fxformer.coords import Coords
from fxformer.ops.mask import Causal as CausalMask
from fxformer.ops.mask import Prefix, visible
from train.objectives import (
    BASE,
    OBJECTIVES,
    BlankInfilling,
    Document,
    Masked,
    Masking,
    MultiToken,
    NextSentence,
    PrefixLM,
    SentenceOrder,
    Sentences,
    Short,
    SpanCorruption,
    Specials,
    Tokens,
    Words,
)
from train.objectives.blanks import Spans, blank
from train.objectives.pairs import join
from train.objectives.spans import corrupt

IDS = Specials()
TEXT = np.frombuffer(b"To be, or not to be:\nthat is the question. Whether 'tis nobler in the mind to suffer", np.uint8)
ROWS = np.stack([np.roll(TEXT, -17 * row)[:59] for row in range(3)])
ALIKELY = 1e-4  # a fixed key fails by chance in one test of ten thousand


@cache
def compiled(objective):
    return jax.jit(objective)


def drawn(objective, row, count, seed=0):
    """The batch, in NumPy, of `count` equal rows: as many independent draws."""
    tokens = np.tile(np.asarray(row), (count, 1))
    return jax.tree.map(np.asarray, compiled(objective)(tokens, jax.random.key(seed)))


def assert_distributed(outcomes, probabilities):
    """Chi-square: outcomes come with these probabilities, and no others come."""
    counts = Counter(outcomes)
    assert set(counts) <= set(probabilities)
    assert math.isclose(sum(probabilities.values()), 1)
    expected = np.array([float(probability) * len(outcomes) for probability in probabilities.values()])
    assert expected.min() >= 5, "too few draws for the test"
    assert chisquare([counts[outcome] for outcome in probabilities], expected).pvalue > ALIKELY


def alike(first, second):
    """Equal structure, and every leaf equal."""
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), first, second)
    return jax.tree.all(same)


# Every objective


@pytest.mark.parametrize("name", OBJECTIVES)
def test_compiled_equals_eager_and_the_key_decides(name):
    objective, key = OBJECTIVES[name], jax.random.key(4)
    batch = objective(ROWS, key)
    assert alike(batch, compiled(objective)(ROWS, key))
    others = [compiled(objective)(ROWS, jax.random.key(seed)) for seed in range(5, 9)]
    assert all(alike(batch, other) for other in others) == (name in ("causal", "multi_token"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_ids_lie_in_the_vocabulary_and_lengths_are_as_announced(name):
    objective = OBJECTIVES[name]
    batch = compiled(objective)(ROWS, jax.random.key(1))
    read = batch.inputs if batch.encoder_tokens is None else batch.encoder_tokens
    assert read.shape == (3, objective.input_length(59))
    for ids in (batch.inputs, batch.targets, read):
        assert ids.dtype == jnp.int32 and ids.min() >= 0 and ids.max() < objective.vocab
    assert objective.vocab == (256 if name in ("causal", "prefix", "multi_token") else 365)
    assert batch.coords.index.shape in ((1, batch.inputs.shape[1]), batch.inputs.shape)
    assert batch.weights.dtype == jnp.float32 and set(np.unique(batch.weights)) <= {0.0, 1.0}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_raw_length_is_the_most_text_whose_inputs_fit(name):
    objective = OBJECTIVES[name]
    for length in (11, 60, 128):
        raw = objective.raw_length(length)
        assert objective.input_length(raw) <= length < objective.input_length(raw + 1)


@pytest.mark.parametrize("name", ["causal", "masked", "span_corruption", "blank_infilling"])
def test_a_single_row_is_a_batch_of_one(name):
    """One of each kind: all read their rows by one function, `train.objectives.objective.rows`."""
    objective, key = OBJECTIVES[name], jax.random.key(2)
    assert alike(compiled(objective)(ROWS[0], key), compiled(objective)(ROWS[:1], key))


# Left to right


def test_causal_predicts_the_next_token():
    batch = OBJECTIVES["causal"](np.array([[3, 1, 4, 1, 5]]), jax.random.key(0))
    np.testing.assert_array_equal(batch.inputs, [[3, 1, 4, 1]])
    np.testing.assert_array_equal(batch.targets, [[1, 4, 1, 5]])
    np.testing.assert_array_equal(batch.weights, [[1, 1, 1, 1]])
    np.testing.assert_array_equal(batch.coords.index, [[0, 1, 2, 3]])


def test_multi_token_looks_further_by_one_for_each_depth():
    batch = MultiToken(depth=3)(np.arange(20, 28)[None], jax.random.key(0))
    np.testing.assert_array_equal(batch.inputs, [[20, 21, 22, 23]])
    np.testing.assert_array_equal(batch.targets, [[21, 22, 23, 24]])
    np.testing.assert_array_equal(batch.mtp, [[[22, 23, 24], [23, 24, 25], [24, 25, 26], [25, 26, 27]]])


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_prefix_lm_loses_only_where_the_target_lies_past_the_prefix(cut):
    """M_ij = [j <= i or j < P]; loss where i + 1 >= P."""
    batch = PrefixLM(cut=cut)(np.arange(10, 16), jax.random.key(0))
    np.testing.assert_array_equal(batch.weights, [[float(i + 1 >= cut) for i in range(5)]])
    seen = visible(CausalMask() | Prefix(), batch.coords, batch.coords)[0]
    np.testing.assert_array_equal(seen, [[j <= i or j < cut for j in range(5)] for i in range(5)])


def test_prefixes_are_cut_uniformly():
    batch = drawn(PrefixLM(), np.arange(7), 6000)
    cuts = batch.coords.prefix.sum(axis=1)
    assert_distributed(cuts.tolist(), dict.fromkeys(range(1, 7), 1 / 6))
    np.testing.assert_array_equal(batch.weights.sum(axis=1), 6 - cuts + 1)


# Masked


def test_masking_counts_are_15_percent_rounded_to_even_and_at_least_one():
    masking = Masking()
    assert [masking.count(n) for n in (0, 1, 3, 10, 30, 50, 128, 512)] == [0, 1, 1, 2, 4, 8, 19, 77]
    assert Masking(most=20).count(512) == 20
    batch = drawn(Masked(), TEXT, 50)
    np.testing.assert_array_equal(batch.weights.sum(axis=1), round(Fraction(15, 100) * TEXT.size))


def test_every_set_of_tokens_is_equally_likely():
    batch = drawn(Masked(masking=Masking(rate=0.4)), [9, 8, 7, 6, 5], 5000)
    chosen = [tuple(np.flatnonzero(row)) for row in batch.weights]
    assert_distributed(chosen, dict.fromkeys(combinations(range(5), 2), 1 / 10))


def test_of_the_chosen_80_percent_are_masked_10_kept_and_10_random():
    batch = drawn(Masked(masking=Masking(rate=0.5)), np.full(200, 7), 200)
    read = batch.inputs[batch.weights == 1]
    kinds = np.where(read == IDS.mask, "mask", np.where(read == 7, "same", "random")).tolist()
    assert_distributed(kinds, {"mask": 0.8, "same": 0.1 + 0.1 / 256, "random": 0.1 * 255 / 256})
    others = read[(read != IDS.mask) & (read != 7)]
    assert set(others.tolist()) == set(range(256)) - {7}
    assert_distributed(others.tolist(), {byte: 1 / 255 for byte in range(256) if byte != 7})


@pytest.mark.parametrize("name", ["masked", "whole_word", "ngram"])
def test_masking_touches_only_what_it_predicts_and_never_a_special_token(name):
    row = np.concatenate([[IDS.cls], TEXT[:40], [IDS.sep], TEXT[40:], [IDS.sep]])
    batch = drawn(OBJECTIVES[name], row, 60)
    np.testing.assert_array_equal(np.where(batch.weights == 0, batch.inputs, row), np.tile(row, (60, 1)))
    np.testing.assert_array_equal(batch.targets, np.tile(row, (60, 1)))
    assert not batch.weights[:, row >= 256].any()
    assert batch.weights.sum(axis=1).max() == round(Fraction(15, 100) * TEXT.size)
    assert batch.weights.any(axis=0)[row < 256].mean() > 0.9


def chosen_words(sizes, count, longest):
    """Exact probability of each set of masked words, over every order of trying and every n-gram length.

    Lan et al. 2020 and its released code: n words from the tried one on, fewer where `count` would be exceeded;
    passed over where one is taken already.
    """
    words = len(sizes)
    chance_of = [Fraction(1, n) / sum(Fraction(1, m) for m in range(1, longest + 1)) for n in range(1, longest + 1)]
    result = Counter()
    for order in permutations(range(words)):
        for wanted in product(range(1, longest + 1), repeat=words):
            taken, left = frozenset(), count
            for word, n in zip(order, wanted, strict=True):
                grams = [range(word, min(word + m, words)) for m in range(n, 0, -1)]
                gram = next((gram for gram in grams if sum(sizes[w] for w in gram) <= left), None)
                if gram is not None and not taken & set(gram):
                    taken, left = taken | set(gram), left - sum(sizes[w] for w in gram)
            chance = math.prod((chance_of[n - 1] for n in wanted), start=Fraction(1, math.factorial(words)))
            result[tuple(sorted(taken))] += chance
    return result


@pytest.mark.parametrize(
    ("longest", "text", "rate"),
    [
        (1, b"ab cde f ghi", 0.5),
        (3, b"ab cde f ghi", 0.5),
        (3, b"a b c d e", 0.6),
    ],
)
def test_words_are_masked_whole_in_n_grams_with_the_exact_probabilities(longest, text, rate):
    """A space begins a word: "ab", " cde", " f", " ghi"."""
    objective = Masked(masking=Masking(rate=rate, unit=Words(longest=longest)))
    word = np.cumsum(np.frombuffer(text, np.uint8) == ord(" "))
    sizes = np.bincount(word)
    batch = drawn(objective, np.frombuffer(text, np.uint8), 6000)
    outcomes = []
    for row in batch.weights:
        words = tuple(np.unique(word[row == 1]).tolist())
        np.testing.assert_array_equal(row, np.isin(word, words))
        outcomes.append(words)
    assert_distributed(outcomes, chosen_words(sizes.tolist(), round(Fraction(str(rate)) * len(text)), longest))


def test_n_grams_have_the_published_probabilities():
    probabilities = Words(longest=3).probabilities
    np.testing.assert_allclose(probabilities, [6 / 11, 3 / 11, 2 / 11], rtol=1e-12)
    assert math.isclose(probabilities @ [1, 2, 3], 18 / 11)


# Two segments


def test_join_lays_out_two_segments_between_marks():
    tokens, types = join(jnp.arange(10, 15), jnp.int32(0), jnp.int32(2), jnp.arange(20, 25), jnp.int32(2), IDS)
    np.testing.assert_array_equal(tokens, [IDS.cls, 10, 11, IDS.sep, 22, 23, 24, IDS.sep])
    np.testing.assert_array_equal(types, [0, 0, 0, 0, 1, 1, 1, 1])


def segments(batch):
    """[(A, B)] of each row, from the targets, with their marks and types checked."""
    pairs = []
    for row, types in zip(batch.targets, batch.coords.type, strict=True):
        assert row[0] == IDS.cls and row[-1] == IDS.sep
        middle, last = np.flatnonzero(row == IDS.sep)
        np.testing.assert_array_equal(types, np.arange(row.size) > middle)
        pairs.append((row[1:middle].tolist(), row[middle + 1 : last].tolist()))
    return pairs


def test_next_sentences_are_the_rest_of_the_row_or_of_another_one():
    rows, length = 1500, 6
    tokens = np.arange(rows * length).reshape(rows, length)
    objective = NextSentence(specials=shifted(rows * length), masking=Masking(rate=0.01))
    batch = jax.tree.map(np.asarray, compiled(objective)(tokens, jax.random.key(3)))
    cuts, distance = [], []
    for row, label in enumerate(batch.labels):
        middle = np.flatnonzero(batch.targets[row] == objective.specials.sep)[0]
        a, b = batch.targets[row, 1:middle], batch.targets[row, middle + 1 : -1]
        cuts.append(len(a))
        source = b[0] // length
        np.testing.assert_array_equal(a, tokens[row, : len(a)])
        np.testing.assert_array_equal(b, tokens[source, len(a) :])
        assert (source == row) == (label == 0)
        if label:
            distance.append(int((source - row) % rows * 5 // rows))
    assert_distributed(cuts, dict.fromkeys(range(1, length), 1 / (length - 1)))
    assert_distributed(batch.labels.tolist(), {0: 0.5, 1: 0.5})
    assert_distributed(distance, {0: 299 / 1499, 1: 300 / 1499, 2: 300 / 1499, 3: 300 / 1499, 4: 300 / 1499})


def shifted(text):
    """Special tokens after a text of that many ids."""
    names = ["pad", "eos", "mask", "cls", "sep", "sop", "eop", "smask", "gmask"]
    return Specials(
        text=text, sentinels=9, first_sentinel=text + 17, **{name: text + i for i, name in enumerate(names)}
    )


def test_sentence_order_swaps_two_parts_of_the_same_row():
    batch = drawn(SentenceOrder(), np.arange(65, 71), 3000)
    outcomes = []
    for (a, b), label in zip(segments(batch), batch.labels, strict=True):
        first, second = (b, a) if label else (a, b)
        assert first + second == list(range(65, 71))
        outcomes.append((len(first), int(label)))
    assert_distributed(outcomes, dict.fromkeys(product(range(1, 6), (0, 1)), 1 / 10))


@pytest.mark.parametrize("name", ["next_sentence", "sentence_order"])
def test_pairs_are_masked_like_any_text(name):
    batch = drawn(OBJECTIVES[name], TEXT, 40)
    np.testing.assert_array_equal(np.where(batch.weights == 0, batch.inputs, batch.targets), batch.targets)
    assert not batch.weights[batch.targets >= 256].any()
    assert batch.weights.sum(axis=1).max() == round(Fraction(15, 100) * TEXT.size)
    assert (batch.inputs == IDS.mask).any()


# Span corruption


@pytest.mark.parametrize(
    ("inputs", "raw", "targets"),
    [
        (512, 568, 114),
        (1024, 1137, 229),
        (256, 284, 58),
        (128, 141, 29),
        (114, 126, 26),
    ],
)
def test_span_corruption_has_the_published_lengths(inputs, raw, targets):
    objective = SpanCorruption()
    assert objective.raw_length(inputs) == raw
    assert objective.lengths(raw) == (inputs, targets)


def test_the_figure_of_span_corruption():
    """Thank you [for inviting] me to your party [last] week: Raffel et al. 2020, figure 2, with EOS on both."""
    tokens, noise = jnp.arange(10, 20), jnp.asarray([0, 0, 1, 1, 0, 0, 0, 0, 1, 0], bool)
    inputs, targets = corrupt(tokens, noise, (10, 7), IDS)
    x, y, z = 364, 363, 362
    np.testing.assert_array_equal(inputs, [10, 11, x, 14, 15, 16, 17, y, 19, IDS.eos])
    np.testing.assert_array_equal(targets, [x, 12, 13, y, 18, z, IDS.eos])


def fill(inputs, targets):
    """The text: each sentinel of the inputs replaced by what follows it in the targets."""
    assert inputs[-1] == targets[-1] == IDS.eos
    holes, current = {}, None
    for token in targets[:-1]:
        if token >= 256:
            current = int(token)
            holes[current] = []
        else:
            holes[current].append(int(token))
    text = [holes[int(token)] if token >= 256 else [int(token)] for token in inputs[:-1]]
    assert list(holes) == [364 - i for i in range(len(holes))] == [int(token) for token in inputs[:-1] if token >= 256]
    return list(chain(*text)), [len(hole) for hole in holes.values()]


def test_span_corruption_can_be_undone():
    batch = drawn(OBJECTIVES["span_corruption"], TEXT, 30)
    noise = round(Fraction(15, 100) * TEXT.size)
    for inputs, targets, read in zip(batch.encoder_tokens, batch.targets, batch.inputs, strict=True):
        text, holes = fill(inputs, targets)
        assert text == TEXT.tolist()
        assert (sum(holes), len(holes)) == (noise, round(noise / 3))
        assert read.tolist() == [IDS.pad, *targets[:-1].tolist()]
    assert batch.weights.all()
    assert batch.encoder_coords.length == batch.encoder_tokens.shape[1] and batch.coords.length == targets.size


def test_partitions_are_uniform_over_compositions_and_text_comes_first():
    """7 tokens of text and 5 of noise in 2 spans each: 6 x 4 ways."""
    batch = drawn(SpanCorruption(rate=0.4, mean_span=2.5), np.arange(12), 4800)
    outcomes = []
    for inputs, targets in zip(batch.encoder_tokens, batch.targets, strict=True):
        _, holes = fill(inputs, targets)
        first, last = np.flatnonzero((inputs >= 256) & (inputs != IDS.eos))
        assert last == inputs.size - 2
        outcomes.append((int(first), holes[0]))
    assert_distributed(outcomes, dict.fromkeys(product(range(1, 7), range(1, 5)), 1 / 24))


# Blank infilling


def test_the_figure_of_blank_infilling():
    """x1 .. x6, spans {x3} and {x5, x6}, the second written first: Du et al. 2022, figure 2; positions from 0 here."""
    tokens = jnp.arange(1, 7)
    row = blank(tokens, Spans(jnp.asarray([4, 2]), jnp.asarray([2, 1])), IDS.mask, IDS)
    np.testing.assert_array_equal(row.inputs, [1, 2, IDS.mask, 4, IDS.mask, IDS.sop, 5, 6, IDS.sop, 3])
    np.testing.assert_array_equal(row.targets[5:], [5, 6, IDS.eop, 3, IDS.eop])
    np.testing.assert_array_equal(row.pos[:, 0], [0, 1, 2, 3, 4, 4, 4, 4, 2, 2])
    np.testing.assert_array_equal(row.pos[:, 1], [0, 0, 0, 0, 0, 1, 2, 3, 1, 2])
    np.testing.assert_array_equal(row.source, [True] * 5 + [False] * 5)
    np.testing.assert_array_equal(row.order, range(10))


def test_empty_slots_become_padding_at_the_end():
    tokens, full = jnp.arange(1, 7), Spans(jnp.asarray([4, 2]), jnp.asarray([2, 1]))
    starts, lengths = jnp.asarray([0, 4, 6, 2]), jnp.asarray([0, 2, 0, 1])
    row, expected = blank(tokens, Spans(starts, lengths), IDS.mask, IDS), blank(tokens, full, IDS.mask, IDS)
    for leaf, wanted in zip(row, expected, strict=True):
        np.testing.assert_array_equal(leaf[:10], wanted)
    np.testing.assert_array_equal(row.inputs[10:], [IDS.pad] * 4)
    np.testing.assert_array_equal(row.order[10:], [-1] * 4)
    assert not row.source[10:].any() and not row.pos[10:].any()


def test_part_a_sees_itself_and_part_b_sees_what_came_before():
    """n = 6, |A| = 3: x1 x2 [M] | S x3 x4."""
    row = blank(jnp.arange(1, 5), Spans(jnp.asarray([2]), jnp.asarray([2])), IDS.mask, IDS)
    index, prefix = row.order[None], row.source[None]
    coords = Coords(index=index, segment=jnp.zeros_like(index), prefix=prefix, pos=row.pos[None])
    seen = visible(CausalMask() | Prefix(), coords, coords)[0].astype(int)
    expected = ["111000", "111000", "111000", "111100", "111110", "111111"]
    np.testing.assert_array_equal(seen, [[int(bit) for bit in line] for line in expected])


def blanks(batch, row):
    """(text given back, mask token, spans (start, length) in the order they are written) of one row."""
    inputs, targets, pos = batch.inputs[row], batch.targets[row], batch.coords.pos[row]
    prefix, used = batch.coords.prefix[row], batch.coords.index[row] >= 0
    size, end = int(prefix.sum()), int(used.sum())
    assert prefix[:size].all() and used[:end].all()
    np.testing.assert_array_equal(batch.coords.index[row], np.where(used, np.arange(used.size), -1))
    np.testing.assert_array_equal(batch.weights[row], used & ~prefix)
    np.testing.assert_array_equal(pos[:size], np.stack([np.arange(size), np.zeros(size)], axis=1))
    assert not pos[end:].any() and (inputs[end:] == IDS.pad).all()
    pieces, order, place = {}, [], size
    while place < end:
        assert inputs[place] == IDS.sop
        stop = place + int(np.flatnonzero(targets[place:end] == IDS.eop)[0])
        np.testing.assert_array_equal(inputs[place + 1 : stop + 1], targets[place:stop])
        hole = pos[place, 0]
        assert (pos[place : stop + 1, 0] == hole).all()
        np.testing.assert_array_equal(pos[place : stop + 1, 1], np.arange(1, stop - place + 2))
        pieces[int(hole)] = targets[place:stop].tolist()
        order.append(int(hole))
        place = stop + 1
    marks = {int(inputs[hole]) for hole in pieces}
    assert sorted(pieces) == [i for i in range(size) if inputs[i] >= 256] and len(marks) == 1
    text, starts = [], {}
    for i in range(size):
        starts[i] = len(text)
        text += pieces.get(i, [int(inputs[i])])
    return text, marks.pop(), tuple((starts[hole], len(pieces[hole])) for hole in order)


def test_blank_infilling_can_be_undone_and_its_tasks_come_as_often_as_they_should():
    batch = drawn(OBJECTIVES["blank_infilling"], TEXT[:59], 600)
    marks = []
    for row in range(600):
        text, mark, spans = blanks(batch, row)
        assert text == TEXT[:59].tolist()
        total = sum(length for _, length in spans)
        if mark == IDS.gmask:
            assert len(spans) == 1 and 14 <= total <= 58
        else:
            assert total >= 8 and len(spans) <= 8
        if mark == IDS.mask:
            ordered = sorted(spans)
            assert all(a + length < b for (a, length), (b, _) in pairwise(ordered))
        marks.append(mark)
    assert_distributed(marks, {IDS.mask: 0.5, IDS.smask: 0.3, IDS.gmask: 0.2})


def test_span_lengths_are_poisson_cut_to_1_and_39():
    probabilities = Short().probabilities
    lengths = np.arange(1, 40)
    poisson = np.array([3.0**n / math.factorial(n) for n in range(1, 40)]) * math.exp(-3)
    assert math.isclose(poisson.sum(), 0.950212931632, rel_tol=1e-12)
    np.testing.assert_allclose(probabilities, poisson / poisson.sum(), rtol=1e-12)
    assert math.isclose(probabilities @ lengths, 3.1571870895, rel_tol=1e-10)
    draws = jax.vmap(lambda key: Short()(jnp.zeros(140, jnp.int32), key))(jax.random.split(jax.random.key(1), 40))
    assert (np.asarray(draws.lengths).sum(axis=1) >= 21).all()


def test_short_blanks_have_the_exact_probabilities():
    """7 tokens, 2 of them or more blank, spans of 1 or 2 with p = 3/7.5, 4.5/7.5: every way, and every order."""
    objective = BlankInfilling(tasks=((1.0, Short(rate=0.4, longest=2)),))
    one, two = Fraction(4, 10), Fraction(6, 10)
    expected = Counter()
    for drawn_lengths, chance in (((1, 1), one * one), ((1, 2), one * two), ((2,), two)):
        free = 7 - sum(drawn_lengths) - (len(drawn_lengths) - 1)
        for places in product(range(free + 1), repeat=len(drawn_lengths)):
            for lengths in permutations(drawn_lengths):
                starts, shift = [], 0
                for place, length in zip(sorted(places), lengths, strict=True):
                    starts.append(place + shift)
                    shift += length + 1
                for order in permutations(zip(starts, lengths, strict=True)):
                    ways = (free + 1) ** len(drawn_lengths) * math.factorial(len(drawn_lengths)) ** 2
                    expected[order] += chance / ways
    count = 2400
    batch = drawn(objective, np.arange(7), count)
    outcomes = [blanks(batch, row) for row in range(count)]
    assert all(text == list(range(7)) and mark == IDS.mask for text, mark, _ in outcomes)
    assert_distributed([spans for _, _, spans in outcomes], expected)


def test_sentences_are_blanked_whole_in_random_order():
    """Sentences of 2, 3 and 4 bytes, 3 or more to be blank: alone the second or the third, the first with another."""
    objective = BlankInfilling(tasks=((1.0, Sentences(rate=0.35)),))
    batch = drawn(objective, np.frombuffer(b"a.bb?ccc\n", np.uint8), 600)
    first, second, third = (0, 2), (2, 3), (5, 4)
    outcomes = [blanks(batch, row) for row in range(600)]
    assert all(bytes(text) == b"a.bb?ccc\n" and mark == IDS.smask for text, mark, _ in outcomes)
    pairs = [(first, second), (second, first), (first, third), (third, first)]
    expected = {(second,): 1 / 3, (third,): 1 / 3} | dict.fromkeys(pairs, 1 / 12)
    assert_distributed([spans for _, _, spans in outcomes], expected)


def test_a_text_without_sentence_ends_is_one_sentence():
    batch = drawn(BlankInfilling(tasks=((1.0, Sentences()),)), np.full(13, ord("a")), 2)
    assert blanks(batch, 0) == ([ord("a")] * 13, IDS.smask, ((0, 13),))


def test_documents_are_blanked_from_a_quarter_upwards_at_the_end_or_anywhere():
    batch = drawn(BlankInfilling(tasks=((1.0, Document()),)), np.arange(8), 1200)
    outcomes = [blanks(batch, row) for row in range(1200)]
    assert all(text == list(range(8)) and mark == IDS.gmask for text, mark, _ in outcomes)
    expected = Counter()
    for length in range(2, 8):
        expected[((8 - length, length),)] += Fraction(1, 6) / 2
        for start in range(9 - length):
            expected[((start, length),)] += Fraction(1, 6) / 2 / (9 - length)
    assert_distributed([spans for _, _, spans in outcomes], expected)


def test_the_130b_mixture_writes_the_end_of_the_text():
    batch = drawn(OBJECTIVES["blank_infilling_130b"], np.arange(59), 400)
    outcomes = [blanks(batch, row) for row in range(400)]
    assert_distributed([mark for _, mark, _ in outcomes], {IDS.mask: 0.3, IDS.gmask: 0.7})
    ends = [spans[0] for _, mark, spans in outcomes if mark == IDS.gmask]
    assert all(start + length == 59 for start, length in ends)
    assert_distributed([min((length - 1) * 2 // 58, 1) for _, length in ends], {0: 0.5, 1: 0.5})


# Bad input


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("causal", 2),
        ("prefix", 2),
        ("multi_token", 3),
        ("masked", 1),
        ("next_sentence", 2),
        ("sentence_order", 2),
        ("span_corruption", 2),
    ],
)
def test_rows_that_are_too_short_are_refused(name, least):
    assert OBJECTIVES[name].least == least
    with pytest.raises(ValueError, match=f"^rows have {least - 1} tokens, .* give {least} or more$"):
        OBJECTIVES[name](np.zeros((5, least - 1), int), jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: OBJECTIVES["causal"](np.zeros((2, 3, 4), int), None),
            "int.* with 3 axes; give integers with 1 or 2 axes",
        ),
        (lambda: OBJECTIVES["masked"](np.zeros((2, 3)), None), "float.* with 2 axes; give integers"),
        (lambda: OBJECTIVES["next_sentence"](np.zeros((1, 9), int), jax.random.key(0)), "1 row has no other.*give 2"),
        (lambda: PrefixLM(cut=6)(np.zeros((2, 6), int), None), "rows have 6 tokens.*give 7 or more"),
        (lambda: PrefixLM(cut=0), "cut=0 leaves no prefix; use 1 or more"),
        (lambda: MultiToken(depth=0), "depth=0.*use 1 or more"),
        (lambda: Masking(rate=0), "rate=0.*more than 0 and less than 1"),
        (lambda: Masking(rate=1.5), "rate=1.5"),
        (lambda: Masking(mask=0.8, keep=0.3), "mask=0.8 and keep=0.3.*1 or less"),
        (lambda: Masking(keep=-0.1), "keep=-0.1 is not a probability"),
        (lambda: Masking(most=0), "most=0.*1 or more"),
        (lambda: Words(longest=0), "longest=0.*1 or more"),
        (lambda: NextSentence(random=1.1), "random=1.1 is not a probability"),
        (lambda: SentenceOrder(swap=-1), "swap=-1 is not a probability"),
        (lambda: SpanCorruption(rate=1), "rate=1 .*less than 1"),
        (lambda: SpanCorruption(mean_span=0.5), "mean_span=0.5.*1 or more"),
        (lambda: SpanCorruption()(np.zeros((1, 2100), int), jax.random.key(0)), "105 spans.*sentinels=100"),
        (lambda: SpanCorruption(rate=0.8, mean_span=1)(np.zeros(10, int), jax.random.key(0)), "8 spans.*there are 2"),
        (lambda: SpanCorruption().raw_length(2), "length=2 is too short.*use 3 or more"),
        (lambda: Short(rate=0), "rate=0 is not a share"),
        (lambda: Short(longest=0), "longest=0.*1 or more"),
        (lambda: Sentences(rate=2), "rate=2 is not a share"),
        (lambda: Document(shortest=1), "shortest=1.*less than 1"),
        (lambda: Document(infill=2), "infill=2 is not a probability"),
        (lambda: BlankInfilling(tasks=((0.5, Short()), (0.4, Document()))), "sum to 0.9; let them sum to 1"),
        (lambda: BlankInfilling(tasks=BASE)(np.zeros(48, int), jax.random.key(0)), "51 tokens of 48"),
        (lambda: BlankInfilling(tasks=((1.0, Document()),))(np.zeros(1, int), jax.random.key(0)), "1 token.*give 2"),
        (lambda: Specials(mask=200), "mask=200.*use 256 or more"),
        (lambda: Specials(sep=259), "cls and sep are both 259"),
        (lambda: Specials(first_sentinel=360), "gmask and sentinel_96 are both 264"),
        (lambda: Specials(sentinels=-1), "sentinels=-1"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_special_tokens_follow_the_text_without_gaps():
    assert sorted(IDS.ids.values()) == list(range(256, 365))
    assert IDS.vocab == 365


def test_an_objective_is_a_value():
    assert replace(OBJECTIVES["prefix"], cut=7) == PrefixLM(cut=7) != OBJECTIVES["prefix"]
    assert hash(SpanCorruption()) == hash(OBJECTIVES["span_corruption"])
    assert Masked() == Masked(masking=Masking(unit=Tokens()))
