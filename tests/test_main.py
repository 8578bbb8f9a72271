"""The command line: exact numbers, one sentence for a mistyped name, and a broken law that is seen."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fxformer import block, model, mtp, stack, zoo
from fxformer.__main__ import main
from fxformer.commands.describe import describe
from fxformer.layers import bias, embed, head, norm, project, residual
from fxformer.layers.attention import gqa, indexer, mla
from fxformer.layers.ffn import dense, moe
from fxformer.ops import mask, rotary
from fxformer.verify import LAWS, Law
from fxformer.written import python

dispatch, route = (importlib.import_module(f"fxformer.ops.{name}") for name in ("dispatch", "route"))
LAYERS = (bias, embed, head, norm, project, residual, gqa, indexer, mla, dense, moe)
HOMES = (block, model, mtp, stack, *LAYERS, dispatch, mask, rotary, route)
NAMES = {name: value for home in HOMES for name, value in vars(home).items()}
TOYS = (
    zoo.toy(position="alibi", window=5, residual_scale=1.5, qk_norm="rms", kv_heads=2),
    zoo.toy(position="sinusoidal", placement="sandwich", head="untied", softcap=30.0),
    zoo.toy(position="t5", norm="layer", ffn="glu", activation="silu"),
)


def said(capsys, *arguments: str) -> str:
    """What a command that succeeds prints."""
    assert main(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("spec", [*map(zoo.get, zoo.names()), *TOYS])
def test_a_described_spec_can_be_evaluated_back(spec):
    assert eval(python(spec), {}, NAMES) == spec


def test_every_field_stands_on_the_line_of_what_it_belongs_to():
    assert python(zoo.toy(width=8, depth=1, heads=2).stack) == (
        "Stack(\n"
        "    groups=(\n"
        "        Repeat(\n"
        "            n=1,\n"
        "            blocks=(\n"
        "                Block(\n"
        "                    attention=GQA(heads=2, kv_heads=2, key_width=4, rotary=Rotary(width=4)),\n"
        "                    ffn=MLP(inner=32, activation='gelu_tanh'),\n"
        "                    residual=Residual(placement='pre', norm=Norm(kind='rms')),\n"
        "                ),\n"
        "            ),\n"
        "        ),\n"
        "    ),\n"
        "    norm=Norm(kind='rms'),\n"
        ")"
    )


def test_list_has_a_line_for_each_model(capsys):
    title, *lines = said(capsys, "list").splitlines()
    assert title.split() == "name family year kind norm placement position attention ffn parameters".split()  # noqa: SIM905
    assert [line.split()[0] for line in lines] == list(zoo.names())
    table = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert table["gpt2"] == "GPT-2 2019 decoder layer pre learned MHA MLP gelu_tanh 124,439,808"
    assert table["llama2-70b"] == "LLaMA-2 2023 decoder rms pre rotary GQA-8 GLU silu 68,976,648,192"
    assert len({len(line) for line in (title, *lines)}) == 1


def test_count_is_the_integer(capsys):
    assert said(capsys, "count", "gpt2") == "124439808\n"
    assert json.loads(said(capsys, "count", "gpt2", "--json")) == {"name": "gpt2", "parameters": 124439808}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel keeps no peak of the program's own")
def test_counting_seventy_billion_takes_seconds_and_little_memory():
    """In a process of its own, start-up included; 2 GB would not hold one parameter in a hundred.

    The peak is VmHWM: ru_maxrss would count the process that this one was forked from.
    """
    program = """
from pathlib import Path
from fxformer.__main__ import main
main(["count", "llama2-70b"])
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    parameters, kibibytes = map(int, answer.stdout.split())
    assert parameters == 68_976_648_192
    assert kibibytes < 2e9 / 1024


def test_the_command_line_is_a_module():
    answer = subprocess.run([sys.executable, "-m", "fxformer", "count", "gpt3"], capture_output=True, text=True)
    assert answer.returncode == 2
    assert (
        answer.stderr == "error: model='gpt3' is unknown; did you mean 'gpt3-small' or 'gpt3-medium' or 'gpt3-large'?\n"
    )


def test_a_reader_who_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "fxformer", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("name ")
        process.stdout.close()
        assert process.stderr.read() == ""


def test_describe_says_what_a_model_is_and_costs(capsys):
    text = said(capsys, "describe", "llama2-70b")
    facts = dict(line.split(maxsplit=1) for line in text.splitlines() if "  " in line.strip())
    assert python(zoo.get("llama2-70b")) in text
    assert facts["placement"] == "skip * x + branch * f(norm(x)). GPT-2; Xiong et al. 2020."
    assert facts["norm"] == "x / sqrt(mean(x^2) + eps). Zhang & Sennrich 2019, eq. 4."
    assert facts["mask"] == "Keys up to the query's own: s <= t."
    assert facts["parameters"] == "68,976,648,192"
    assert facts["memory"] == "137.95 GB in 16 bits, 1,103.63 GB to train with Adam"
    assert "327,680 bytes in 16 bits" in text
    assert "1.428e+11 forward at 2048 tokens, 1.401e+11 if future keys are skipped" in text
    assert facts["objective"] == "causal language model"
    assert "Touvron et al. 2023" in facts["source"]


@pytest.mark.parametrize(
    ("spec", "part", "formula"),
    [
        (TOYS[0], "position", "A fixed linear penalty on distance, one slope a head. Press et al. 2022."),
        (TOYS[0], "mask", "The `size` most recent keys, the query's own included: t - size < s <= t (Mistral)."),
        (TOYS[1], "position", "Fixed sines and cosines added to the embedding. Vaswani et al. 2017, section 3.5."),
        (
            TOYS[1],
            "placement",
            "skip * x + branch * norm(f(norm(x))). CogView, Ding et al. 2021; Peri-LN, Kim et al. 2025.",
        ),
        (TOYS[1], "head", "Logits are (scale * x) W with a matrix of their own"),
        (TOYS[2], "position", "T5's learned bias by bucketed distance: one table for all layers of a stack."),
        (TOYS[2], "norm", "(x - mean(x)) / sqrt(var(x) + eps), population variance. Ba, Kiros & Hinton 2016, eq. 3."),
    ],
)
def test_each_part_is_described_by_its_own_formula(spec, part, formula):
    lines = describe("toy", zoo.FAMILIES[0], spec, 64).splitlines()
    assert [line for line in lines if line.startswith(f"{part}  ") and formula in line]


TERMS = (
    "causal language model",
    "prefix language model",
    "masked language model",
    "next sentence",
    "sentence order",
    "span corruption",
    "blank infilling",
    "multi-token prediction",
)


@pytest.mark.parametrize("family", zoo.FAMILIES, ids=lambda family: family.title)
def test_every_page_names_its_objective(family):
    """In the terms of the objectives that can be trained here, and `describe` prints it."""
    assert any(term in family.objective for term in TERMS)
    name = next(iter(family.published))
    if family.kind == "encoder":
        assert "causal" not in family.objective
    assert f"objective         {family.objective}" in describe(name, family, zoo.tiny(name), 64).splitlines()


def test_verify_passes_and_says_so(capsys):
    title, *lines = said(capsys, "verify", "gpt2").splitlines()
    assert title.split() == ["model", "law", "verdict", "largest", "deviation"]
    laws = [name for name, law in LAWS.items() if law.concerns(zoo.tiny("gpt2"))]
    for law, line in zip(laws, lines, strict=True):
        assert line.startswith(f"gpt2   {law} ")
        assert line.split()[-2] == "ok"


def test_verify_sees_a_model_that_looks_ahead(capsys, monkeypatch):
    group = zoo.tiny("gpt2").stack.groups[0]
    block = replace(group.blocks[0], attention=replace(group.blocks[0].attention, mask=mask.Full()))
    stack = replace(zoo.tiny("gpt2").stack, groups=(replace(group, blocks=(block,)),))
    wrong = replace(zoo.tiny("gpt2"), stack=stack)
    monkeypatch.setattr(zoo, "tiny", lambda name: wrong)
    laws = {name: LAWS[name]._replace(concerns=bool) for name in ("the future is unseen", "the past is seen")}
    monkeypatch.setattr("fxformer.verify.LAWS", laws)
    assert main(["verify", "gpt2"]) == 1
    verdicts = [line.split()[-2] for line in capsys.readouterr().out.splitlines()[1:]]
    assert verdicts == ["FAILED", "ok"]


def test_every_name_has_its_rows_and_a_spec_is_tried_once(capsys, monkeypatch):
    tried = []

    def check(text):
        tried.append(text.spec)
        return 0.0, 0.0

    monkeypatch.setattr(zoo, "names", lambda: ["gpt2", "gpt2-large", "llama-7b"])
    monkeypatch.setattr("fxformer.verify.LAWS", {"a law": Law(check, bool)})
    assert zoo.tiny("gpt2") == zoo.tiny("gpt2-large")
    rows = [line.split() for line in said(capsys, "verify").splitlines()]
    assert [row[0] for row in rows] == ["model", *zoo.names()]
    assert tried == [zoo.tiny("gpt2"), zoo.tiny("llama-7b")]


def test_the_old_words_for_combinations_answer_with_the_new_ones(capsys):
    assert main(["verify", "--combinations"]) == 2
    assert capsys.readouterr().err == "error: verify --combinations is called python -m train combine now\n"


@pytest.mark.parametrize("command", ["describe", "count", "verify"])
def test_a_mistyped_model_is_one_sentence_with_the_nearest_name(command, capsys):
    assert main([command, "lama2-7b"]) == 2
    assert capsys.readouterr().err == "error: model='lama2-7b' is unknown; did you mean 'llama2-7b'?\n"


def test_a_mistyped_command_is_refused_with_the_valid_ones(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["descibe", "gpt2"])
    assert exit.value.code == 2
    assert "descibe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["list", "describe", "count", "verify"]),
        (["describe"], ["a published name"]),
        (["count"], ["a published name", "--json", "print an object"]),
        (["verify"], ["every one where it is left out", "exit code 1", "--combinations", "python -m train combine"]),
    ],
)
def test_help_explains_every_option(command, words, capsys):
    with pytest.raises(SystemExit) as exit:
        main([*command, "--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(word in text for word in words)
