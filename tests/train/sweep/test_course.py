"""Groups at work: what is kept of them, when, and what is not gone on with."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from train.config import Config
from train.data.corpus import load_corpus
from train.step import Judgement, Metrics, State
from train.sweep import course, group
from train.sweep.cells import cells_of, groups_of
from train.sweep.course import Course, End, Pace, Shelf, Told
from train.verdict.question import Question
from train.verdict.race import Stop


def a_course(step=6):
    """Of 3 runs, of which one has stopped; numbers that JSON would not give back are among them."""
    rng = np.random.default_rng(0)

    def numbers(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    state = State(np.full(3, step, np.int32), {"w": numbers(3, 5), "b": numbers(3)}, {"m": numbers(3, 5)})
    metrics = [Metrics(numbers(3, 3), numbers(3, 3), numbers(3, 3), {}) for _ in range(step // 3)]
    metrics[0].loss[2] = np.nan
    told = Told(
        metrics,
        [rng.random((3, 3)) for _ in metrics],
        [0.1, 0.2],
        {0: {"rms": numbers(3, 2)}, 3: {"rms": numbers(3, 2)}},
    )
    end = End(3, Stop("", 0.1 + 0.2), Judgement(np.float32(1.5), numbers(4), np.ones(4)), {"own": float("nan")})
    first = Judgement(numbers(3), numbers(3, 4), np.ones((3, 4)))
    return Course(step, np.array([True, True, False]), state, first, told, {2: end}, 12.5)


def bits(value):
    """All that a course says, to the bit."""
    match value:
        case dict():
            return {name: bits(each) for name, each in value.items()}
        case tuple() | list():
            return [bits(each) for each in value]
        case None | str() | int() | float():
            return repr(value)
    array = np.asarray(value)
    return array.dtype.str, array.shape, array.tobytes()


def parts(kept):
    told = kept.told
    return [bits(each) for each in (
        kept.step, kept.alive, kept.state, kept.first, kept.ends, kept.seconds, told.losses, told.unigram_losses,
        np.concatenate([each.grad_norm for each in told.metrics], axis=1), told.durations, told.layers,
    )]  # fmt: skip


def test_what_is_kept_comes_back_to_the_bit(tmp_path):
    said = []
    shelf, kept = Shelf(tmp_path / "at_work", said.append), a_course()
    assert shelf.take("a", kept.state) is None and shelf.others([]) == 0
    shelf.put("a", kept)
    assert parts(shelf.take("a", kept.state)) == parts(a_course())
    assert (shelf.others(["b"]), shelf.others(["a"]), said) == (1, 0, [])
    shelf.drop(["a", "b"])
    assert shelf.take("a", kept.state) is None
    shelf.clear()
    assert not (tmp_path / "at_work").exists()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda content: content[:-40], "not a zip file"),
        (lambda content: content.replace(np.float32(1.5).tobytes(), np.float32(2.5).tobytes(), 1), "CRC"),
        (lambda content: b"", ""),
    ],
    ids=["torn", "changed", "empty"],
)
def test_what_is_damaged_is_said_and_not_gone_on_with(tmp_path, damage, what):
    said = []
    shelf, kept = Shelf(tmp_path, said.append), a_course()
    shelf.put("a", kept)
    place = tmp_path / "a.npz"
    changed = damage(place.read_bytes())
    assert changed != place.read_bytes()
    place.write_bytes(changed)
    assert shelf.take("a", kept.state) is None and not place.exists()
    assert len(said) == 1 and said[0].startswith(f"{place} is damaged (") and what in said[0]
    shelf.put("a", kept)
    assert shelf.take("a", kept.state._replace(optimizer={"m": np.zeros((3, 6), np.float32)})) is None


def test_a_disk_that_is_full_is_said_and_the_group_goes_on(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, os.strerror(28))

    said = []
    monkeypatch.setattr(course, "write_whole", full)
    Shelf(tmp_path, said.append).put("a", a_course())
    why = "No space left on device; the group goes on, and begins again if killed"
    assert said == [f"{tmp_path / 'a.npz'} cannot be written: {why}"]


def test_writing_takes_no_more_than_its_share_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(course, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = Pace(20.0)
    now[0] = 19.0
    assert not pace.is_due
    now[0] = 20.0
    assert pace.is_due
    with pace:
        now[0] = 22.0
    now[0] = 22.0 + 2 * course.SHARE - 1
    assert not pace.is_due
    now[0] += 1
    assert pace.is_due


def test_what_decides_the_bits_of_a_group_is_in_its_name(monkeypatch):
    """Code, text, settings, the arm, the plan, the question, and what is measured beside."""
    plan = SimpleNamespace(name="loop", devices=1)
    corpus = load_corpus("", "copy")
    sweep = SimpleNamespace(plan=plan, question=None, beside={})

    def name(sweep=sweep, corpus=corpus, arm="", **settings):
        model = {"width": 8, "heads": 1, "depth": 1}
        config = Config(name="x", model=model).with_settings(
            {"length": 8, "batch": 2, "task": "copy", "steps": 4, **settings}
        )
        cells = [{"seed": seed, "arm": arm} for seed in (0, 1)]
        (only,) = groups_of(cells_of(replace(config, cells=cells), corpus))
        return group.name_of(only, sweep)

    def changed(**fields):
        return name(SimpleNamespace(**{**vars(sweep), **fields}))

    question = Question(compare=("placement",))
    others = [
        name(lr=0.1), name(weight_decay=0.5), name(arm="b"), name(corpus=replace(corpus, sha256="another")),
        changed(plan=SimpleNamespace(name="vmap", devices=1)), changed(plan=SimpleNamespace(name="loop", devices=2)),
        changed(question=question), changed(question=replace(question, run="racing")), changed(beside={"look": None}),
    ]  # fmt: skip
    mine = name()
    for what in ("code", "jax"):
        with monkeypatch.context() as patched:
            patched.setattr(
                group, "provenance", lambda what=what: {"code": "c", "jax": "j", "git": "g", what: "another"}
            )
            others.append(name())
    with monkeypatch.context() as patched:
        patched.setattr(group, "provenance", lambda: {"code": "c", "jax": "j", "git": "g"})
        others.append(name())
    assert name() == mine and len({mine, *others}) == 1 + len(others)
