"""One answer for scripts: which of two arms is better, and what is no comparison."""

import json

import pytest

from tests.train.report.test_report import sweep as records
from tests.train.verdict.simulated import sweep
from train.commands.reports import judge as command
from train.errors import UserError
from train.sweep.results import Results
from train.verdict.judge import asked, judge


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
    (claim,) = judge(*asked(side("pre"), [{**r, "tokens": 102_400} for r in side("post")], 0.02)).claims
    assert claim.reason == "the budgets differ: 51200 and 102400 tokens"


def test_the_command_exits_with_its_answer_and_says_it_as_json(tmp_path, capsys):
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
    with pytest.raises(UserError, match=f"has 2 arms; name one, like {tmp_path}:pre"):
        command(str(tmp_path), arms[0])
    with pytest.raises(UserError, match="arm='pots' is unknown; did you mean 'post'"):
        command(f"{tmp_path}:pots", arms[0])
    with pytest.raises(UserError, match="nowhere does not exist"):
        command(str(tmp_path / "nowhere"), arms[0])
