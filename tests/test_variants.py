"""The tutorial: both diffs of docs/variants.md make a variant that obeys the laws, and touch no part of the model."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.pages import ROOT

DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "variants.md").read_text(encoding="utf8"), flags=re.DOTALL)
MODELS = (
    "spec = toy(width=24, depth=2, heads=3, norm='mean-absolute')",
    """
from dataclasses import fields, replace
from fxformer.layers.attention.gqa import Average
from fxformer.stack import Repeat
spec = toy(width=24, depth=2, heads=3, kv_heads=1)
(block,) = spec.stack.groups[0].blocks
own = {field.name: getattr(block.attention, field.name) for field in fields(block.attention)}
block = replace(block, attention=Average(**own))
spec = replace(spec, stack=replace(spec.stack, groups=(Repeat(2, (block,)),)))
""",
)
PROGRAM = """
from fxformer.verify import verify
from fxformer.zoo.toy import toy
{model}
findings = list(verify(spec))
assert len(findings) > 7
for law, verdict, deviation in findings:
    assert verdict == "ok", (law, deviation)
"""


@pytest.mark.parametrize(("diff", "model"), list(zip(DIFFS, MODELS, strict=True)), ids=["norm", "attention"])
def test_the_tutorial_works(diff, model, tmp_path):
    written = [line for line in diff.splitlines() if line.startswith("+") and line[1:].strip() and line[1] != "+"]
    assert 0 < len(written) < 20
    touched = re.findall(r"^\+\+\+ b/(.*)$", diff, flags=re.MULTILINE)
    assert not {"fxformer/block.py", "fxformer/stack.py", "fxformer/model.py"} & set(touched)
    shutil.copytree(ROOT / "fxformer", tmp_path / "fxformer", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-c", PROGRAM.format(model=model)], cwd=tmp_path, check=True)
