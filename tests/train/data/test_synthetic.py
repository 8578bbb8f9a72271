"""Synthetic streams: each has the structure that it is named after, and the entropy that mathematics gives it."""

import math
from itertools import pairwise

import numpy as np
import pytest

from train.data.corpus import entropies, load_corpus
from train.data.synthetic import HELD_OUT, TASKS, TRAIN, copy, induction, markov, markov_source, modular_addition


def stream_of(task, size):
    return task(np.random.default_rng(1), size)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_a_corpus_like_any_other(name):
    corpus, again = load_corpus("stdlib", name), load_corpus("elsewhere", name)
    assert corpus.name == name
    assert (corpus.train.size, corpus.validation.size) == (TRAIN, HELD_OUT)
    assert corpus.sha256 == again.sha256
    assert corpus.train[:HELD_OUT].tobytes() != corpus.validation.tobytes()  # held out, not repeated
    corpus.check(63)


def test_copy_repeats_its_letters():
    first, edge, second, last = np.split(stream_of(copy, 18 * 50).reshape(50, 18), [8, 9, 17], axis=1)
    np.testing.assert_array_equal(first, second)
    assert not edge.any() and not last.any()
    assert set(first.ravel()) == set(range(1, 27))


def test_modular_addition_adds_modulo_97():
    a, b, total, edge = stream_of(modular_addition, 4 * 3000).reshape(3000, 4).T
    assert all((x - 1 + y - 1) % 97 == z - 1 for x, y, z in zip(a, b, total, strict=True))
    assert set(a) == set(b) == set(range(1, 98))
    assert not edge.any()


def test_induction_can_be_answered_from_context_only():
    """Two steps from one letter agree when both follow the map, or both jump to the same letter."""
    lines = stream_of(induction, 25 * 8000).reshape(8000, 25)
    assert not lines[:, -1].any()
    same = []
    for line in lines[:, :-1]:
        followed = {}
        for now, then in pairwise(line):
            if now in followed:
                same.append(followed[now] == then)
            followed.setdefault(now, then)
    mapped = 0.75 + 0.25 / 16
    assert np.mean(same) == pytest.approx(mapped**2 + 15 * (0.25 / 16) ** 2, abs=0.01)
    inside = lines[:, :-1]
    counts = np.zeros((17, 17))
    np.add.at(counts, (inside[:, :-1].ravel(), inside[:, 1:].ravel()), 1)
    shares = counts[1:, 1:] / counts[1:, 1:].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, 1 / 16, atol=0.015)  # over all lines a letter says nothing of the next


def test_markov_s_entropy_rate_is_that_of_its_powers():
    """The stationary distribution as a row of a high power of the matrix, in place of an eigenvector."""
    transition, rate = markov_source()
    np.testing.assert_allclose(transition.sum(axis=1), 1)
    stationary = np.linalg.matrix_power(transition, 4096)[5]
    rows = [-sum(p * math.log(p) for p in row if p > 0) for row in transition]
    assert rate == pytest.approx(float(stationary @ rows), rel=1e-9)


def test_markov_s_entropy_rate_of_two_states_is_the_closed_form():
    transition, rate = markov_source(states=2, seed=7)
    leave, back = transition[0, 1], transition[1, 0]

    def binary(p):
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert rate == pytest.approx((back * binary(leave) + leave * binary(back)) / (leave + back))


def test_markov_s_stream_follows_its_matrix():
    transition, _ = markov_source()
    stream = stream_of(markov, 200_000)
    counts = np.zeros_like(transition)
    np.add.at(counts, (stream[:-1], stream[1:]), 1)
    visits = counts.sum(axis=1, keepdims=True)
    deviation = np.sqrt(transition * (1 - transition) / visits)
    assert (np.abs(counts / visits - transition) <= 5 * deviation + 1e-5).all()


def test_a_bigram_model_reaches_markov_s_entropy_rate():
    known = entropies(load_corpus("stdlib", "markov"))
    _, rate = markov_source()
    assert known.bigram_entropy == pytest.approx(rate, abs=3e-3)
    assert known.unigram_entropy > rate + 0.3
