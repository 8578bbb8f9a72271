"""[question] of a TOML file: read, completed from the grid, or refused in a sentence before anything is trained."""

import pytest

from train.config import load
from train.errors import UserError

TEXT = "[model]\nwidth = 16\nheads = 2\ndepth = 1\n[data]\ntask = 'copy'\n"
GRID = "[grid.product]\nplacement = ['pre', 'post']\ndepth = [1, 2]\nlr = [1e-3, 1e-2, 1e-1]\nseed = [0, 1]\n"


def asked(tmp_path, question, grid=GRID, *settings):
    file = tmp_path / "asks.toml"
    file.write_text(TEXT + grid + f"[question]\n{question}\n")
    return load(file, settings).question


def test_what_is_left_out_is_derived_from_the_grid(tmp_path):
    question = asked(tmp_path, "measure = ['loss', 'failure']\nsmallest = 1\nversus = 'pre'")
    assert (question.compare, question.across, question.tune) == (("placement",), ("depth",), ("lr",))
    assert (question.at, question.measure, question.versus) == ("best rate", ("loss", "failure"), "pre")


def test_settings_have_their_names_dotted_or_not(tmp_path):
    question = asked(tmp_path, "compare = ['model.placement']\nacross = ['model.depth']\ntune = ['train.lr']")
    assert (question.compare, question.across, question.tune) == (("placement",), ("depth",), ("lr",))


def test_without_the_section_nothing_is_stated(tmp_path):
    (tmp_path / "plain.toml").write_text(TEXT + GRID)
    assert load(tmp_path / "plain.toml").question is None


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("compare = 'placement'", "compare='placement' is no list of names; write compare = ["),
        ("compare = ['placment']", "setting='placment' is unknown; did you mean 'placement'"),
        ("compares = ['placement']", "question='compares' is unknown; did you mean 'compare'"),
        ("compare = ['norm']", "compare names norm, which does not vary: it is 'rms' in every cell; sweep it"),
        ("versus = 'deepnorm'", "versus='deepnorm' is unknown; use one of pre, post"),
        ("versus = ['pre']", "versus=['pre'] is no arm's name"),
        ("at = 'worst rate'", "at='worst rate' is unknown"),
        ("smallest = -1", "smallest=-1 is no difference"),
        ("across = []", "depth varies and is neither compared, across nor tuned"),
        ("by = 3", "setting=3 is no name"),
        ("tune = []\nacross = ['depth']", "lr varies and is neither compared, across nor tuned"),
    ],
)
def test_a_question_that_is_none(tmp_path, question, sentence):
    with pytest.raises(UserError) as refused:
        asked(tmp_path, question)
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)


def test_a_question_needs_a_grid_and_an_arm_too(tmp_path):
    with pytest.raises(UserError, match="asks a question of no grid"):
        asked(tmp_path, "compare = ['norm']", "")
    with pytest.raises(UserError, match="arm='pre' names the cells of a grid; write arm"):
        asked(tmp_path, "", GRID, "arm=pre")


def test_values_of_another_type_are_refused_with_their_name(tmp_path):
    with pytest.raises(UserError, match=r"lr=\[1\] is not a number"):
        asked(tmp_path, "", GRID.replace("lr = [1e-3,", "lr = [[1],"))
