"""Names of version 0.1 that have changed: each answers for one version, with a warning that says the new one."""

from importlib import import_module

import pytest

import fxformer as fx
import train
from fxformer.layers import head
from train.config import load


@pytest.mark.parametrize("old", train.MOVED)
def test_moved_modules_answer(old):
    with pytest.warns(FutureWarning, match=f"train.{old} is called train.{train.MOVED[old]} now"):
        assert import_module(f"train.{old}") is import_module(f"train.{train.MOVED[old]}")


def test_the_free_head_is_untied():
    with pytest.warns(FutureWarning, match="'free' is called 'untied' now"):
        assert fx.zoo.toy(head="free") == fx.zoo.toy(head="untied")
    with pytest.warns(FutureWarning, match="'Free' is called 'Untied' now"):
        assert head.Free is head.Untied


def test_what_looked_ahead_is_multi_token_prediction(tmp_path):
    spec = fx.zoo.tiny("deepseek-v3-mtp")
    with pytest.warns(FutureWarning, match="'ahead' is called 'mtp' now"):
        assert spec.ahead is spec.mtp
    file = tmp_path / "old.toml"
    file.write_text('[model]\ntiny = "deepseek-v3-mtp"\n[train]\nobjective = "multi_token"\nahead = 0.2\n')
    with pytest.warns(FutureWarning, match="'train.ahead' is called 'train.mtp' now"):
        assert load(file).train.mtp == 0.2
