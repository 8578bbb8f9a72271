"""One answer for scripts: which of two arms is better, and what is no comparison."""

import errno
import json
from dataclasses import replace
from unittest.mock import Mock

import pytest

from tests.train.report.test_report import sweep as records
from tests.train.verdict.simulated import sweep
from train.commands.reports import judge as command
from train.errors import NoComparisonError
from train.report.looks import looked_at, too_few
from train.sweep.results import Results
from train.verdict.judge import asked, judge
from train.verdict.question import question_of


def side(placement, *args, **more):
    runs = sweep(*args, placement=(placement,), **more)
    return [{**r, "corpus": {"sha256": "c0ffee"}} for r in runs]


def answer(first, second):
    return judge(*asked(first, second, 0.02)).answer


def test_the_lower_loss_is_better_whichever_side_it_is_on():
    low, high = side("pre"), side("post", lambda cell: 0.2)
    assert (answer(low, high), answer(high, low)) == ("better", "worse")


def test_what_does_not_matter_is_the_same_and_what_is_not_known_is_neither():
    assert answer(side("pre", seeds=6), side("post", seeds=6, key=0)) == "same"
    assert answer(side("pre", seeds=3, noise=0.05), side("post", seeds=3, noise=0.05, key=1)) == "neither"


def test_who_fails_is_worse_though_no_loss_can_be_compared():
    assert answer(side("pre", seeds=8), side("post", seeds=8, fails=lambda cell: True)) == "better"


def test_a_lower_loss_with_more_failures_is_neither():
    odd = side("post", lambda cell: -0.2, seeds=16, fails=lambda cell: cell["seed"] % 2 == 1)
    assert answer(side("pre", seeds=16), odd) == "neither"


def test_depths_of_both_arms_are_cells_and_a_depth_of_one_is_what_differs():
    assert answer(side("pre", depth=(2, 4)), side("post", lambda c: 0.1, depth=(2, 4))) == "better"
    assert answer(side("pre", depth=(2,)), side("pre", lambda c: -0.1, depth=(4,))) == "worse"


def test_arms_that_differ_in_seeds_only_or_read_other_text_are_refused():
    with pytest.raises(ValueError, match="the arms differ in nothing but seeds"):
        asked(side("pre", seeds=3), side("pre", seeds=5), 0.02)
    other = [{**r, "corpus": {"sha256": "facade"}} for r in side("post")]
    with pytest.raises(ValueError, match="the arms read other text"):
        asked(side("pre"), other, 0.02)


def test_other_budgets_are_no_comparison():
    with pytest.raises(ValueError, match="the budgets differ: 51200 and 102400 tokens; give arms of equal ones"):
        asked(side("pre"), [{**r, "tokens": 102_400} for r in side("post")], 0.02)


def test_the_command_exits_with_its_answer_and_says_it_as_json(tmp_path, capsys, monkeypatch):
    runs = [{**r, "outcome": "worked"} for r in records(norm=("rms",), depth=(2, 4), seed=(0, 1, 2, 3, 4))]
    for r in runs:
        r["val_loss"] = 2.5 + 0.1 * (r["args"]["lr"] != 3e-3) + 0.3 * (r["args"]["placement"] == "post")
        r["val_loss"] += 0.001 * r["args"]["seed"] * (r["args"]["placement"] == "pre")
    Results(tmp_path / "results.jsonl").add(runs)
    arms = [f"{tmp_path}:{name}" for name in ("pre", "post")]
    assert command(*arms) == 0
    assert "better: A is" in capsys.readouterr().out
    assert command(*reversed(arms), in_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["answer"] == "worse"
    assert told["claims"][0]["sentence"].startswith("A is worse than B: 0.")
    with pytest.raises(NoComparisonError, match=f"has 2 arms; name one, like {tmp_path}:pre"):
        command(str(tmp_path), arms[0])
    with pytest.raises(NoComparisonError, match="arm='pots' is unknown; did you mean 'post'"):
        command(f"{tmp_path}:pots", arms[0])
    with pytest.raises(NoComparisonError, match="nowhere does not exist"):
        command(str(tmp_path / "nowhere"), arms[0])
    full = OSError(errno.ENOSPC, "No space left on device", "looks.jsonl")
    (tmp_path / "looks.jsonl").unlink()
    with monkeypatch.context() as patch, pytest.raises(NoComparisonError, match=r"looks\.jsonl: no space left"):
        patch.setattr("train.report.looks.append_lines", Mock(side_effect=full))  # what the system refuses is no answer
        command(*arms)
    (tmp_path / "looks.jsonl").mkdir()
    with pytest.raises(NoComparisonError, match=r"looks\.jsonl is not a file"):
        command(*arms)


def test_who_asks_in_other_words_has_still_looked(tmp_path, capsys):
    """A report with three seeds, then one more: that is a second look, whatever matters and is measured."""
    runs = [{**r, "outcome": "worked"} for r in records(norm=("rms",), depth=(2,), seed=range(6))]
    for r in runs:
        r["val_loss"] = 2.5 + 0.1 * (r["args"]["lr"] != 3e-3) + 0.02 * (r["args"]["placement"] == "post")
        r["val_loss"] += 0.001 * r["args"]["seed"] * (r["args"]["placement"] == "pre")
    first = [r for r in runs if r["args"]["seed"] < 3]
    question = question_of([r["args"] for r in runs])
    assert question is not None
    assert looked_at(tmp_path, question, first) == 0
    for worded in (question, replace(question, smallest=0.5), replace(question, measure=("loss", "largest rate"))):
        assert looked_at(tmp_path, worded, runs) == 1
    assert looked_at(tmp_path, replace(question, compare=("norm",)), runs) == 0
    Results(tmp_path / "results.jsonl").add(runs)
    command(f"{tmp_path}:pre", f"{tmp_path}:post", in_json=True)
    plain, again = capsys.readouterr().out, judge(*asked(*([r for r in runs if r["args"]["placement"] == p]
                                                       for p in ("pre", "post")), 0.02), looks=1)  # fmt: skip
    (told,) = json.loads(plain)["claims"]
    assert (told["low"], told["high"]) == pytest.approx((again.claims[0].low, again.claims[0].high))


def test_what_is_infinite_is_said_in_words_and_is_null_in_json(tmp_path, capsys):
    runs = [{**r, "outcome": "worked"} for r in records(norm=("rms",), depth=(2,), seed=range(4))]
    for r in runs:
        r["val_loss"] = (
            2.5 + 0.1 * (r["args"]["lr"] != 3e-3) + 0.01 * r["args"]["seed"] * (r["args"]["placement"] == "pre")
        )
    Results(tmp_path / "results.jsonl").add(runs)
    question = question_of([r["args"] for r in runs])
    looked_at(tmp_path, question, [r for r in runs if r["args"]["seed"] < 3])
    (said,) = too_few(tmp_path, question, 4)
    assert said.startswith("this was looked at with 3 seeds before") and said.endswith("give at least 5: --seeds 5")
    assert too_few(tmp_path, question, 5) == too_few(tmp_path, question, 3) == []
    assert command(f"{tmp_path}:pre", f"{tmp_path}:post", in_json=True) == 2
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["claims"][0]
    assert told["low"] is told["high"] is None
    assert "too few seeds for an interval that holds for looking again" in told["sentence"]
