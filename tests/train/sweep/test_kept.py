"""What a folder answers: the last question, its cells alone, of one text and one code; strangers are named."""

import json

import pytest

from tests.train.sweep.test_results import few
from train.errors import UserError
from train.run.provenance import COMPUTES, ROOMS, source_digest
from train.sweep.kept import answered, keep_question, strangers
from train.sweep.results import Results
from train.verdict.question import Question

QUESTION = Question(compare=("placement",), versus="pre", smallest=0.05)


def of(code, records):
    return [{**record, "provenance": {**record["provenance"], "code": code}} for record in records]


def test_a_folder_answers_its_question_from_the_cells_of_its_grid(tmp_path):
    """Six of eight cells are asked about, in another order; one of them was run by other code and not yet again."""
    records = few()
    Results(tmp_path / "results.jsonl").add([*of("now", records[:7]), *of("then", records[7:])])
    keep_question(tmp_path, QUESTION, {f"key{k}": "" for k in (7, 5, 4, 2, 1, 0)}, "now")
    question, results = answered(tmp_path)
    assert question == QUESTION
    assert [record["key"] for record in results] == ["key5", "key4", "key2", "key1", "key0"]


def test_arms_have_their_present_names(tmp_path):
    """A name decides no result: cells that are called otherwise, or nothing, are the same runs."""
    Results(tmp_path / "results.jsonl").add(of("now", few()[:3]))
    for names in ({"key0": "a", "key1": "b", "key2": ""}, {"key0": "c", "key1": "", "key2": "d"}):
        keep_question(tmp_path, None, names, "now")
        assert {r["key"]: r["args"].get("arm", "") for r in answered(tmp_path)[1]} == names


def test_a_folder_without_a_question_is_asked_what_its_results_vary(tmp_path):
    Results(tmp_path / "results.jsonl").add(few())
    question, results = answered(tmp_path)
    assert question is not None and question.compare == ("placement",) and len(results) == 8


def test_a_cell_that_ran_again_counts_once_with_its_last_result(tmp_path):
    records = few()
    Results(tmp_path / "results.jsonl").add([*of("then", records), *of("now", records[:2])])
    keep_question(tmp_path, None, {f"key{k}": "" for k in range(8)}, "now")
    assert [r["provenance"]["code"] for r in answered(tmp_path)[1]] == ["now", "now"]


def test_results_of_other_text_code_and_grids_are_named(tmp_path):
    records = few()
    other = [{**record, "corpus": {**record["corpus"], "sha256": "feed", "name": "book.txt"}} for record in records[5:]]
    results = Results(tmp_path / "results.jsonl")
    results.add([*of("now", records[:2]), *of("then", records[2:4]), *of("now", records[4:5]), *of("now", other)])
    assert strangers(results, [f"key{k}" for k in range(4)], "c0ffee", "now") == [
        f"{results.path} has results of other code (fxformer 0.1.0, git abc123 (dirty)): they stay there, their cells "
        "run again (2)",
        f"{results.path} has results of cells that are not in this grid: they stay there, and are no part of the "
        "answer; to have them in it give ablate the same --add-rates, --seeds, … again, or write them into the "
        "configuration (1)",
        f"{results.path} has results of another text (book.txt, SHA-256 feed): they stay there, and are no part of "
        "the answer (3)",
    ]
    assert strangers(results, ["key0", "key1"], "c0ffee", "now")[0].endswith("(3)")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"question": 3}, "its question is 3, not a question or null"),
        ({"question": {"compare": ["norm"], "smallest": -1}}, "smallest=-1 is no difference"),
        ({"question": {"compares": ["norm"]}}, "got an unexpected keyword argument 'compares'"),
        ({"question": {}}, "missing 1 required keyword-only argument: 'compare'"),
        ({"arms": {"key0": 3}}, "its arms is {'key0': 3}, not names of arms by the keys of cells"),
        ({"code": None}, "its code is None, not text"),
    ],
)
def test_a_damaged_question_is_one_sentence(tmp_path, change, what):
    keep_question(tmp_path, QUESTION, {"key0": ""}, "now")
    file = tmp_path / "question.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError) as refused:
        answered(tmp_path)
    assert str(refused.value).startswith(f"{file} is damaged: {what}")
    assert str(refused.value).endswith("; remove it, and run the sweep again") and "\n" not in str(refused.value)


def test_the_code_that_decides_a_result_has_a_digest(tmp_path, monkeypatch):
    """It changes with a byte of the model's or the step's source, and not with a page or a figure."""
    for name in ("lib/ops/norm.py", "lib/hf/llama.py", "train/step.py", "train/data/corpus.py", "train/report/svg.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr("train.run.provenance.LIBRARY", tmp_path / "lib")
    monkeypatch.setattr("train.run.provenance.ROOMS", tmp_path / "train")
    assert all((ROOMS / name).exists() for name in COMPUTES), "a room was moved, and is not looked at any more"
    digest = source_digest.__wrapped__
    seen = [digest()]
    for name in ("lib/hf/llama.py", "train/report/svg.py", "lib/ops/norm.py", "train/step.py", "train/data/corpus.py"):
        (tmp_path / name).write_text("changed")
        seen.append(digest())
    assert seen[0] == seen[1] == seen[2] and len(set(seen)) == 4
