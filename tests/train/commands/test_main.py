"""The command line tells what a user can put right, in one sentence, from a bug, which keeps its traceback."""

import errno
import math
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import orbax.checkpoint as ocp
import pytest

from fxformer import __main__ as library
from train import cli as command_line
from train.commands import runs, sweeps
from train.config import Config, load
from train.errors import UserError, user_input
from train.run import devices
from train.run.loop import Result


@pytest.fixture(autouse=True)
def same_process(monkeypatch):
    """The number of devices and the cache of programs are those of the tests' own process."""
    monkeypatch.setattr(devices, "use_host_devices", lambda count: None)
    monkeypatch.setattr(devices, "keep_compiled", lambda out: None)


def called(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return ended.value.code


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(
        f'[model]\nwidth = 16\nheads = 2\ndepth = 1\n[data]\ntask = "copy"\nlength = 12\nbatch = 4\nvalidation = 4\n'
        f'[train]\nsteps = 2\n[run]\nout = "{tmp_path / "out"}"\n'
    )
    return path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "FILE", "--set", "norm=rsm"), "did you mean 'rms'?"),
        (("run", "FILE", "--set", "heads=3"), "heads=3 does not divide width=16"),
        (("run", "FILE", "--set", "dtype=float23"), "dtype='float23' is unknown; did you mean"),
        (("run", "FILE", "--set", "mesh=data"), "mesh"),
        (("run", "FILE", "--set", "objective=span_corruption"), "the model has no encoder"),
        (("run", "FILE", "--set", "mask=full"), "predicts tokens that the model's mask shows it"),
        (("run", "FILE", "--set", "position=learned", "--set", "tiny=gpt2"), "tiny names a whole model"),
        (("run", "FILE", "--set", "length=200000"), "a sequence needs 200001"),
        (("run", "FILE", "--set", "task=text", "--set", "path=nowhere"), "there is no corpus at nowhere"),
        (("ablat", "FILE"), "command='ablat' is unknown; did you mean 'ablate'?"),
        (("run", "nowhere.toml"), "there is no configuration nowhere.toml"),
        (("ablate", "FILE", "--set", "steps=0"), "steps=0 is out of range; use 1 to 2147483647"),
        (("ablate", "FILE", "--detect", "0"), "detect=0 is no effect; give nats, more than 0"),
        (("ablate", "FILE", "--set", "mesh=data=2"), "mesh=data=2 does nothing in a sweep"),
        (("ablate", "FILE", "--set", "distributed=auto"), "distributed does nothing in a sweep"),
        (("run", "FILE", "--set", "distributed=2/3"), "distributed='2/3' is not like localhost:9911,1/2"),
        (
            ("run", "configs/norm_by_depth.toml"),
            "has a grid of 720 cells; python -m train ablate configs/norm_by_depth",
        ),
        (("run", "FILE", "--set", "seed=4294967296"), "seed=4294967296 is out of range; use 0 to 4294967295"),
        (("run", "FILE", "--set", "beta1=2"), "beta1=2 is out of range; use 0 to 0.9999999"),
        (("run", "FILE", "--set", "lr=nan"), "lr=nan is not finite; give a number"),
        (("run", "FILE", "--set", "init_scale=inf"), "init_scale=inf is not finite; give a number"),
        (("sample", "nowhere", "--seed", "-1"), "seed=-1 is out of range"),
        (("probe", "nowhere", "--count", "0"), "count=0 asks for nothing"),
        (("coords", "FILE"), "a slope goes through 3 sizes or more; give the grid as many widths or depths"),
        (("coords", "FILE", "--steps", "0"), "steps=0 is no check of a few steps; use 1 to 100"),
        (("transfer", "FILE"), "the grid has one width and one depth; give 2 or more of either"),
        (
            ("run", "configs"),
            "configs is a folder; give a TOML file, like configs/ladder.toml, configs/norm_by_depth.toml",
        ),
        (("run", "docs"), "docs is a folder; give a TOML file; a folder of text is read by --set path=docs"),
        (("settings", "n_layer"), "setting='n_layer' is unknown; did you mean 'depth'?"),
        (("report", "nowhere"), "nowhere does not exist"),
        (("replay", "nowhere"), "nowhere does not exist"),
        (("watch", "nowhere"), "nowhere does not exist"),
        (("sample", "nowhere"), "nowhere does not exist"),
        (("replay", "nowhere", "--set", "lr"), "--set 'lr' has no value"),
        (("sample", "nowhere", "--tokens", "0"), "tokens=0 asks for nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_input_is_one_sentence_and_exit_code_2(file, tmp_path, monkeypatch, capsys, words, sentence):
    assert called(monkeypatch, *(file if word == "FILE" else word for word in words)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert sentence in told
    assert not (tmp_path / "out" / "small").exists()


@pytest.mark.parametrize(("command", "length"), [("run", 13), ("ablate", 14)])
def test_a_bug_inside_the_step_keeps_its_traceback(file, monkeypatch, command, length):
    """The loss is called while the step is traced, that of a length of this test's own: no mistake of the user."""

    def broken(*_):
        raise ValueError("shapes (3,) and (4,) do not fit")

    monkeypatch.setattr("train.objectives.objective.cross_entropy", broken)
    monkeypatch.setattr(sys, "argv", ["train", command, str(file), "--set", f"length={length}"])
    with pytest.raises(ValueError, match="do not fit") as raised:
        command_line.main()
    assert not isinstance(raised.value, UserError)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ablate", "FILE", "--seeds", "five"), "Error parsing --seeds: 'five' is no whole number"),
        (("ablate", "FILE", "--detect", "much"), "Error parsing --detect: 'much' is no number"),
        (("sample", "FILE", "--tokens", "1.5"), "Error parsing --tokens: '1.5' is no whole number"),
        (("watch", "FILE", "--every", "day"), "Error parsing --every: 'day' is no number"),
    ],
)
def test_what_is_no_number_is_said_without_types(file, monkeypatch, capsys, words, sentence):
    assert called(monkeypatch, *(file if word == "FILE" else word for word in words)) == 2
    told = capsys.readouterr().err
    assert sentence in told and not any(jargon in told for jargon in ("None}", "<class", "base 10", "convert"))


def test_only_input_is_the_user_s(monkeypatch, capsys):
    with pytest.raises(UserError, match="heads=3"), user_input():
        Config(name="x", model={"width": 16, "heads": 3})
    with pytest.raises(KeyError), user_input():
        {}["a bug"]


@pytest.mark.parametrize("main", [command_line.main, lambda: sys.exit(library.main(["count", "gpt2"]))])
def test_a_warning_is_one_sentence(monkeypatch, main):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # as it was, afterwards
    monkeypatch.setattr(sys, "argv", ["train", "settings", "lr"])
    with pytest.raises(SystemExit):
        main()
    assert warnings.formatwarning(UserWarning("no text"), UserWarning, "ours.py", 7) == "warning: no text\n"


@pytest.mark.parametrize("command", [("run",), ("ablate", "--dry-run"), ("ablate",)])
def test_a_run_within_its_text_is_refused(file, monkeypatch, capsys, command):
    assert called(monkeypatch, *command, file, "--set", "task=text", "--set", f"path={file.parent}") == 2
    assert f"lies in path={file.parent}, a folder whose files are all text" in capsys.readouterr().err
    assert not (file.parent / "out").exists()


def test_all_settings_are_printed(monkeypatch, capsys):
    assert called(monkeypatch, "settings") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][:2] == ["model.width", "model.depth"]
    assert "train.lr" in {line.split()[0] for line in lines} and all(line == line.rstrip() for line in lines)


def test_the_folder_of_a_run_or_sweep_is_no_configuration(tmp_path, monkeypatch, capsys):
    for file, sentence in {
        "config.json": "it holds a run: give the TOML",
        "results.jsonl": "it holds a sweep: ",
    }.items():
        (tmp_path / file).touch()
        assert called(monkeypatch, "run", tmp_path) == 2
        assert f"{tmp_path} is a folder; {sentence}" in capsys.readouterr().err


def test_a_folder_is_a_run_or_a_sweep(file, tmp_path, monkeypatch, capsys):
    assert called(monkeypatch, "run", file) == 0
    assert called(monkeypatch, "ablate", file) == 2
    assert "holds a run, not a sweep; choose another name or run.out" in capsys.readouterr().err
    home = tmp_path / "out" / "small"
    for content, what in (
        ("{", "it is not JSON"),
        ("[]", "it is no JSON object"),
        ('{"corpus": ""}', "it has no settings"),
        ('{"corpus": "", "settings": {"width": [16]}}', "its settings is {'width': [16]}, not settings"),
        ('{"corpus": 3, "settings": {}}', "its corpus is 3, not text"),
    ):
        (home / "config.json").write_text(content)
        for command in (("run", file), ("sample", home)):
            assert called(monkeypatch, *command) == 2
            told = capsys.readouterr().err
            assert f"config.json is damaged: {what}; repair it" in told and told.count("\n") == 1
    for setting in ('"width": "wide"', '"width": 7', '"a\\nb": 1'):
        (home / "config.json").write_text(f'{{"corpus": "", "settings": {{{setting}}}}}')
        assert called(monkeypatch, "sample", home) == 2
        told = capsys.readouterr().err
        assert "config.json is damaged: " in told and told.endswith("; repair it\n") and told.count("\n") == 1
    (home / "results.jsonl").touch()
    assert called(monkeypatch, "run", file) == 2
    assert "holds a sweep; choose another name or run.out" in capsys.readouterr().err


def test_a_loss_that_is_not_known_is_no_number():
    assert runs.told(None, None) == "no validation loss yet"
    assert runs.told(math.log(2), 1.0) == "validation loss 0.6931 nats, 1.0000 bits per byte"


def test_a_full_disk_is_one_sentence(file, monkeypatch, capsys):
    def refuse(manager, step, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ocp.CheckpointManager, "save", refuse)
    assert called(monkeypatch, "run", file) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: a checkpoint in ") and told.count("\n") == 1
    assert told.endswith("could not be written: No space left on device; none was complete before\n")


def test_what_the_system_refuses_is_one_sentence_with_the_file(file, tmp_path, monkeypatch, capsys):
    """Root may read and write everything, so the refusal is planted where it is not of the kind of file."""
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "out"
    for command in ("run", "ablate"):
        assert called(monkeypatch, command, file, "--set", f"out={place}") == 2
        assert capsys.readouterr().err == (
            f"error: cannot write {place / 'small'}: not a directory; choose another run.out\n"
        )
    text = tmp_path / "text.txt"
    text.write_text("letters " * 500)
    monkeypatch.setattr(Path, "read_bytes", lambda path: denied(path))
    monkeypatch.setattr(os, "access", lambda path, rights: False)
    assert called(monkeypatch, "run", file, "--set", "task=text", "--set", f"path={text}") == 2
    assert capsys.readouterr().err == f"error: cannot read {text}: permission denied\n"


def denied(path):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_a_dry_run_writes_nothing(file, tmp_path, monkeypatch, capsys):
    kept = []
    monkeypatch.setattr(devices, "keep_compiled", kept.append)
    (tmp_path / "text.txt").write_text("letters and words " * 500)
    settings = ("task=text", f"path={tmp_path / 'text.txt'}", "tokenizer=bpe:258", "length=8")
    words = [word for setting in settings for word in ("--set", setting)]
    assert called(monkeypatch, "ablate", file, "--dry-run", *words) == 0
    told = capsys.readouterr()
    assert "1 cell over nothing" in told.out and told.err == ""
    assert kept == [] and sorted(each.name for each in tmp_path.iterdir()) == ["small.toml", "text.txt"]


LEAVES = "from train.run.signals import leave_at_once, stop_signals\nimport os, signal, time\nleave_at_once()\n"
INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)\n"


@pytest.mark.parametrize(
    ("program", "code", "said", "done"),
    [
        (f"{INTERRUPT}print('lost')", 130, ["interrupted; nothing that was saved is lost"], ""),
        (f"try:\n    {INTERRUPT}except BaseException: pass\nprint('lost')", 130, ["interrupted"], ""),
        (f"with stop_signals() as stopped:\n    {INTERRUPT}    print(stopped())", 0, ["stopping in good order"],
         "2\n"),
        (f"with stop_signals() as stopped:\n    {INTERRUPT}    {INTERRUPT}    print('lost')", 130,
         ["stopping in good order", "interrupted"], ""),
    ],
    ids=["outside", "swallowed", "once", "twice"],
)  # fmt: skip
def test_an_interrupt_is_heard_and_says_how_to_go_on(program, code, said, done):
    ended = subprocess.run([sys.executable, "-c", LEAVES + program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (code, done)
    lines = [line for line in ended.stderr.splitlines() if line]
    assert len(lines) == len(said) and all(line.startswith(words) for line, words in zip(lines, said, strict=True))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("schedule=constant", "final=0.2"), "final=0.2 does nothing with schedule='constant'; it is read by cosine, "
         "linear, wsd"),
        (("optimizer=sgd", "beta2=0.9"), "beta2=0.9 does nothing with optimizer='sgd'; it is read by adamw, "
         "adamw-uncorrected, lion, muon"),
        (("optimizer=lion", "train.eps=1e-6"), "eps=1e-06 does nothing with optimizer='lion'"),
        (("optimizer=adafactor", "beta1=0.8"), "beta1=0.8 does nothing with optimizer='adafactor'"),
        (("path=book.txt",), "path='book.txt' does nothing with task='copy'; it is read by text"),
        (("rules=tp",), "rules='tp' does nothing without a mesh"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)  # fmt: skip
def test_a_setting_that_nothing_reads_is_refused(file, settings, sentence):
    with pytest.raises(UserError) as refused:
        load(file, settings)
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)


def test_settings_that_are_read_are_not_refused(file):
    assert load(file, ("schedule=wsd", "final=0.2", "optimizer=sgd", "beta1=0.8")).train.final == 0.2
    assert load(file, ("schedule=constant", "optimizer=adafactor")).train.final == 0.1


def test_in_a_sweep_some_cell_must_read_it(file):
    """A number written for all may be read by some; one that is swept, by each cell that has it."""
    text = file.read_text()
    file.write_text(text + "[grid.product]\noptimizer = ['adamw', 'sgd']\n")
    assert len(load(file, ("beta2=0.9",)).cells) == 2
    with pytest.raises(UserError, match="eps=1e-06 does nothing with optimizer='sgd'"):
        file.write_text(text + "[grid.product]\noptimizer = ['adamw', 'sgd']\neps = [1e-6, 1e-4]\n")
        load(file)
    file.write_text(text + "[grid.product]\noptimizer = ['lion', 'sgd']\n")
    with pytest.raises(UserError, match="eps=1e-06 does nothing with optimizer='lion'"):
        load(file, ("eps=1e-6",))


def test_an_interrupted_run_exits_as_shells_expect(file, monkeypatch, capsys):
    stopped = Result(outcome="interrupted", step=1, val_loss=2.0, bits_per_byte=2.9, seconds=1.0, tokens_per_second=1.0)
    for asked, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)):
        monkeypatch.setattr("train.run.loop.run", lambda config, asked=asked: replace(stopped, asked=asked))
        assert called(monkeypatch, "run", file) == code
    assert "the same command goes on from step 1" in capsys.readouterr().out


def test_a_run_that_was_interrupted_in_its_last_step_says_so_too(file, monkeypatch, capsys):
    done = Result(
        outcome="finished",
        step=1,
        val_loss=2.0,
        bits_per_byte=2.9,
        seconds=1.0,
        tokens_per_second=1.0,
        asked=signal.SIGINT,
    )
    monkeypatch.setattr("train.run.loop.run", lambda config: done)
    assert called(monkeypatch, "run", file) == 130
    assert "finished at step 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [("report", "."), ("judge", "a:b", "a:c"), ("watch", "."), ("combine",)], ids="-".join
)
def test_an_interrupt_that_nothing_else_hears_is_one_sentence(monkeypatch, capsys, tmp_path, words):
    def interrupted(*_):
        raise KeyboardInterrupt

    for place in ("kept.answered", "kept.arm_at", "watch.view_of"):
        monkeypatch.setattr(f"train.sweep.{place}", interrupted)
    monkeypatch.setattr("train.combine.combinations.verify_combinations", interrupted)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results.jsonl").write_text("\n")
    assert called(monkeypatch, *words) == 130
    told = capsys.readouterr()
    assert told.err == "\ninterrupted; nothing that was saved is lost\n" and told.out == ""


def test_a_folder_of_nothing_cannot_be_watched(monkeypatch, capsys, tmp_path):
    assert called(monkeypatch, "watch", tmp_path) == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path} holds no run and no sweep: it has neither config.json nor results.jsonl\n"
    )
    assert called(monkeypatch, "watch", tmp_path, "--every", "0") == 2
    assert capsys.readouterr().err.startswith("error: every=0.0 is no time to wait")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ((), "is not a sweep: it has no results.jsonl"),
        (
            ("config.json", "log.jsonl"),
            "is a run and no sweep; its losses are in {}/log.jsonl, and shown by python -m",
        ),
        (
            ("status.json", "question.json"),
            "is a sweep without results yet; the command that it ran by goes on",
        ),
        (("results.jsonl",), "is a sweep without results yet; "),
    ],
    ids=str,
)
def test_where_there_is_nothing_to_report_on_it_is_said_what_there_is(monkeypatch, capsys, tmp_path, files, sentence):
    for file in files:
        (tmp_path / file).touch()
    for words, code in ((("report", tmp_path), 2), (("judge", tmp_path, tmp_path), 4)):
        assert called(monkeypatch, *words) == code
        assert capsys.readouterr().err.startswith(f"error: {tmp_path} {sentence.format(tmp_path)}")


def test_devices_are_decided_before_a_configuration_is_read(file, monkeypatch, capsys):
    """A question that matches sizes counts parameters when it is read, which starts the devices there are."""
    order = []
    monkeypatch.setattr(devices, "use_host_devices", lambda count: order.append("devices"))
    monkeypatch.setattr(sweeps, "load", lambda *_: order.append("read") or load("nowhere.toml"))
    assert called(monkeypatch, "ablate", file) == 2
    assert order == ["devices", "read"]
