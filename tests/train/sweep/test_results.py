"""results.jsonl: a reader beside a writer, changed values, 200 damaged files, each told in a sentence or reported."""

import copy
import json
import random
import subprocess
import sys
import time

import pytest

from tests.train.report.test_report import sweep
from train.errors import UserError
from train.report.report import write_report
from train.sweep.kept import answered
from train.sweep.results import Results, checksum

GROUPS, GROUP = 20, 15
WRITER = f"""
import json, pathlib, sys
from train.report.report import write_report
from train.sweep.results import Results, checksum
record = json.loads(pathlib.Path(sys.argv[1]).read_text())
results = Results(pathlib.Path(sys.argv[2]))
for group in range({GROUPS}):
    results.add([{{**record, "key": f"{{sys.argv[3]}}-{{group}}-{{k}}"}} for k in range({GROUP})])
"""
HOSTILE = [
    None,
    True,
    "",
    "NaN",
    "a\nb",
    -1,
    0,
    0.5,
    3,
    1e308,
    10**30,
    [],
    [None],
    [[]],
    ["x"],
    {},
    {"a": 1},
    [1] * 999,
]


def few() -> list[dict]:
    """Eight short records: two placements, rates and seeds."""
    records = sweep(norm=("rms",), depth=(2,), lr=(1e-3, 1e-2), seed=(0, 1))
    short = {"loss": [5.6, None, 4.5], "grad_norm_curve": [], "outcome_step": 3}
    return [json.loads(json.dumps({**r, **short, "key": f"key{k}", "place": k})) for k, r in enumerate(records)]


def test_two_writers_wait_for_each_other_and_a_reader_takes_nothing_from_them(tmp_path):
    """Groups of fifteen are added by two processes while another reads; one that mends what looks torn loses some."""
    (tmp_path / "record").write_text(json.dumps(few()[0]))
    file = tmp_path / "results.jsonl"
    words = [sys.executable, "-c", WRITER, str(tmp_path / "record"), str(file)]
    writers, seen = [subprocess.Popen([*words, name]) for name in "ab"], [0]
    while any(writer.poll() is None for writer in writers):
        seen.append(len(Results(file)))
        time.sleep(0.01)
    assert [writer.returncode for writer in writers] == [0, 0] and seen == sorted(seen)
    every = {f"{name}-{group}-{k}" for name in "ab" for group in range(GROUPS) for k in range(GROUP)}
    assert set(Results(file)) == every and len(file.read_bytes().splitlines()) == len(every)
    assert not file.with_suffix(".torn").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_line_that_is_being_written_is_left_to_its_writer(tmp_path, share):
    """A reader comes while half of a group is on the disk; the writer goes on where it was, and all of it is read."""
    file = tmp_path / "results.jsonl"
    content = b"".join(written(file, few()))
    with file.open("wb", buffering=0) as writer:
        writer.write(content[: int(share * len(content))])
        known = list(Results(file))
        writer.write(content[int(share * len(content)) :])
    assert list(Results(file)) == [f"key{k}" for k in range(8)] and known == list(Results(file))[: len(known)]
    assert file.read_bytes() == content and list(tmp_path.iterdir()) == [file]


def written(file, records):
    """The lines of a file of these records, of any kind, with checksums that are right."""
    lines = [json.dumps({**record, "checksum": checksum(record)}).encode() + b"\n" for record in records]
    file.write_bytes(b"".join(lines))
    return lines


def test_a_changed_value_is_noticed_and_says_where(tmp_path):
    file = tmp_path / "results.jsonl"
    lines = written(file, few())
    assert b'"val_loss": 2.' in lines[2]
    file.write_bytes(b"".join([*lines[:2], lines[2].replace(b'"val_loss": 2.', b'"val_loss": 1.'), *lines[3:]]))
    with pytest.raises(UserError) as refused:
        Results(file)
    sentence = (
        "is damaged: it is not what was written, its checksum says; remove this line, and the cell of it runs again"
    )
    assert str(refused.value) == f"line 3 of {file} {sentence}"


def test_lines_of_earlier_versions_have_no_checksum_and_are_read(tmp_path):
    file = tmp_path / "results.jsonl"
    records = [{name: value for name, value in record.items() if name != "place"} for record in few()]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert list(Results(file).values()) == records


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("val_loss",), "NaN", "its val_loss is 'NaN', not a finite number or null"),
        (("val_loss",), float("nan"), "its val_loss is nan, not a finite number or null"),
        (("loss", 1), "2.5", "its loss is [5.6, '2.5', 4.5], not a list of finite numbers and nulls"),
        (("args", "lr"), None, "its args.lr is None, not a finite number"),
        (("args", "depth"), "deep", "its args.depth is 'deep', not a whole number, 1 or more"),
        (("args", "norm"), ["rms"], "its args is {"),
        (("outcome",), "won", "its outcome is 'won', not one of diverged, stuck, spiked, slow, worked"),
        (("outcome_step",), 0, "its outcome_step is 0, not a whole number, 1 or more"),
        (("corpus", "bigram_entropy"), None, "its corpus.bigram_entropy is None, not a finite number"),
        (("stats_final", "residual_rms"), 3, "its stats_final is {"),
        (("key",), 7, "its key is 7, not text"),
        (("windows",), [2.5], "its windows is [2.5], not losses of windows as train.verdict.runs packs them"),
        (("windows",), "2.5", "its windows is '2.5', not losses of windows"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_one_sentence(tmp_path, path, value, what):
    records = copy.deepcopy(few())
    place(records[1], path)[path[-1]] = value
    written(tmp_path / "results.jsonl", records)
    with pytest.raises(UserError) as refused:
        Results(tmp_path / "results.jsonl")
    said = str(refused.value)
    assert said.startswith(f"line 2 of {tmp_path / 'results.jsonl'} is damaged: {what}")
    assert said.endswith("; remove this line, and the cell of it runs again") and "\n" not in said


def place(value, path):
    for name in path[:-1]:
        value = value[name]
    return value


def paths(value, path=()):
    """Every place in a record."""
    if isinstance(value, dict | list) and path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in items:
        yield from paths(each, (*path, name))
    if not isinstance(value, dict | list):
        yield path


def of_bytes(chance: random.Random, lines: list[bytes]) -> bytes:
    """A file of which bytes are changed, lost, doubled or put in."""
    content = bytearray(b"".join(lines))
    for _ in range(chance.choice((1, 1, 5))):
        at, size = chance.randrange(len(content)), chance.choice((1, 1, 30, 3000))
        match chance.randrange(4):
            case 0:
                content[at] ^= 1 << chance.randrange(8)
            case 1:
                del content[at : at + size]
            case 2:
                content[at:at] = content[at : at + size]
            case 3:
                content[at:at] = chance.randbytes(size)
    return bytes(content)


def of_values(chance: random.Random, records: list[dict]) -> list[dict]:
    """Records of which some say something else, or lack it."""
    records = copy.deepcopy(records)
    for record in chance.sample(records, chance.choice((1, 2, len(records)))):
        whole = [path for path in paths(record) if len(path) < 3]
        path = chance.choice(whole)
        if chance.random() < 0.25:
            del place(record, path)[path[-1]]
        else:
            place(record, path)[path[-1]] = chance.choice(HOSTILE)
    return records


def told(folder) -> str:
    """What a user is told in place of a report, empty where there is one."""
    try:
        question, results = answered(folder)
        write_report(results, folder, question)
    except UserError as error:
        return str(error)
    return ""


def test_200_damaged_files_are_reported_on_or_refused_in_one_sentence(tmp_path, monkeypatch):
    """Half of them are damaged after they were written, half were written so: no checksum helps there."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", str)
    file, chance, records, refused = tmp_path / "results.jsonl", random.Random(16), few(), []
    lines = written(file, records)
    for case in range(200):
        if case % 2:
            file.write_bytes(of_bytes(chance, lines))
        else:
            written(file, of_values(chance, records))
        before = file.read_bytes()
        refused.append(told(tmp_path))
        assert "\n" not in refused[-1]
        assert file.read_bytes() == before
    assert 100 < sum(map(bool, refused)) < 190


def test_runs_of_the_same_settings_on_another_text_are_no_seeds(tmp_path):
    records = few()
    written(tmp_path / "results.jsonl", [*records, {**records[3], "key": "other"}])
    said = "has 2 results of the same settings, as a changed text leaves them, with the keys 'key3', 'other'; remove"
    assert said in told(tmp_path)


def test_numbers_that_are_none_are_drawn_as_none(tmp_path, monkeypatch):
    """A gradient, or the loss before training too, may be no number; versions differ in what they say of themselves."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", str)
    lost = [{**r, "last_ffn_grad_norm": None, "val_loss": None, "initial_loss": None, "outcome": "diverged",
             "args": {**r["args"], "depth": depth}, "key": f"{r['key']}-{depth}"}
            for depth in (2, 4, 8) for r in few()]  # fmt: skip
    lost[1]["grad_norm"], lost[0]["provenance"]["orbax"] = [None], "1.0"
    written(tmp_path / "results.jsonl", lost)
    assert told(tmp_path) == ""
    assert "An exponent needs gradients above 0, those of pre are not all such numbers." in (
        (tmp_path / "report.html").read_text()
    )
