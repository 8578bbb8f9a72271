"""Runs: what they leave, and that an interrupted one goes on bit for bit."""

import errno
import math
import os
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from train.config import Config
from train.errors import UserError
from train.run.checkpoint import CheckpointError, Checkpoints, restore_best
from train.run.log import Log, read
from train.run.loop import run
from train.run.sample import load_run

MODEL = {"width": 16, "heads": 2, "depth": 2}
SETTINGS = {
    "length": 12,
    "batch": 4,
    "steps": 30,
    "save_every": 6,
    "log_every": 1,
    "validation": 8,
    "watch": 4,
    "task": "copy",
}


def config(tmp_path, **settings):
    return Config(name="run", model=MODEL).with_settings({**SETTINGS, "out": str(tmp_path), **settings})


def kept(folder):
    """Losses by step, and the last checkpoint's leaves as bytes."""
    losses = {line["step"]: line["loss"] for line in read(folder / "log.jsonl") if "loss" in line}
    return losses, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load_run(folder)[2])]


def test_a_run_learns_and_leaves_what_it_says(tmp_path):
    result = run(config(tmp_path, lr=1e-2))
    lines = read(tmp_path / "run" / "log.jsonl")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert (result.outcome, result.step, len(losses)) == ("finished", 30, 30)
    assert losses[-1] < losses[0] - 1
    assert len(lines[0]["layers"]["grad_norm"]) == 2
    assert [len(lines[0]["layers"][name]) for name in ("log_z", "logit_mean")] == [1, 1]
    assert [line["windows"] for line in lines if "val_loss" in line] == [4, 4, 4, 4, 8]  # all of them at the end only
    assert result.val_loss == [line["val_loss"] for line in lines if "val_loss" in line][-1]


def command(file):
    file.write_text("[model]\n" + "".join(f"{name} = {value}\n" for name, value in MODEL.items()))
    words = [sys.executable, "-m", "train", "run", str(file), "--set", f"out={file.parent}"]
    return words + [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    whole, killed = (command(tmp_path / f"{name}.toml") for name in ("whole", "killed"))
    subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(killed, stdout=subprocess.DEVNULL)
    log, deadline = tmp_path / "killed" / "log.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not (log.exists() and len(read(log)) > 14):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(read(log)) < 35, "it was killed too late to show anything"
    subprocess.run(killed, check=True, stdout=subprocess.DEVNULL)
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")


def test_a_folder_of_another_run_is_refused(tmp_path):
    run(config(tmp_path, steps=2))
    with pytest.raises(ValueError, match=r"lr is 0.003 there and 0.5 here"):
        run(config(tmp_path, steps=2, lr=0.5))


def test_a_finished_run_that_lost_its_log_is_judged_again(tmp_path):
    log = tmp_path / "run" / "log.jsonl"
    before = run(config(tmp_path, steps=2))
    for lost in ("", '{"step": 1, "val_loss": 9.0}\n'):
        log.write_text(lost)
        assert run(config(tmp_path, steps=2)).val_loss == pytest.approx(before.val_loss, abs=1e-6)
        assert read(log)[-1]["step"] == 2 and read(log)[-1]["val_loss"] == pytest.approx(before.val_loss, abs=1e-6)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"nonsense", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b"3", "it is no JSON object"),
        (b'{"loss": 2.0}', "it has no step"),
        (b'{"step": "2"}', "its step is '2', not a whole number, 0 or more"),
        (b'{"step": 2, "val_loss": NaN}', "its val_loss is nan, not a finite number"),
        (b'{"step": 2, "val_loss": "2.5"}', "its val_loss is '2.5', not a finite number"),
    ],
)
def test_a_damaged_log_is_one_sentence_and_stays_as_it_is(tmp_path, line, what):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"step": 1, "loss": NaN}\n' + line + b'\n{"step": 3}\n{"step"')
    with pytest.raises(UserError) as refused:
        Log(log, keep_until=2)
    remedy = "remove this line, or the file: a run goes on without"
    assert str(refused.value) == f"line 2 of {log} is damaged: {what}; {remedy}"
    assert log.read_bytes().count(b"\n") == 3


def test_a_loss_that_is_no_number_is_recorded_with_its_step(tmp_path):
    result = run(config(tmp_path, lr=1e30, warmup=0))
    assert result.outcome == "non-finite"
    event = read(tmp_path / "run" / "log.jsonl")[-1]
    assert event == {"step": result.step, "event": "non-finite loss"}
    assert 1 < result.step < 10


def test_parameters_that_an_update_spoilt_are_not_saved(tmp_path):
    """The loss of a step is that of the parameters before it, so it may still be a number."""
    spoilt = {"optimizer": "sgd", "lr": 1e38, "clip": 0.0, "save_every": 1, "keep": 1, "warmup": 2, "steps": 3}
    result = run(config(tmp_path, **spoilt))
    log = read(tmp_path / "run" / "log.jsonl")
    assert result.outcome == "non-finite" and math.isfinite(result.val_loss)
    assert log[-1] == {"step": result.step, "event": "non-finite validation loss"}
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as checkpoints:
        assert checkpoints.best() == checkpoints.latest() == result.step - 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load_run(tmp_path / "run")[2]))


@pytest.mark.parametrize(("mesh", "rules"), [("data=2,model=4", "fsdp_tp"), ("data=2,stage=2", "fsdp_pp")])
def test_a_mesh_gives_the_losses_of_one_device(tmp_path, mesh, rules):
    """To 1e-4 over 8 steps in float32: sums over devices round in another order."""
    settings = {"steps": 8, "heads": 4, "batch": 4}
    run(config(tmp_path / "one", **settings))
    run(config(tmp_path / "mesh", **settings, mesh=mesh, rules=rules))
    one, many = (kept(tmp_path / name / "run")[0] for name in ("one", "mesh"))
    np.testing.assert_allclose(list(many.values()), list(one.values()), rtol=1e-4)
    params = load_run(tmp_path / "mesh" / "run")[2]
    assert {device for leaf in jax.tree.leaves(params) for device in leaf.devices()} == {jax.devices()[0]}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mesh": "data=3", "batch": 4}, "batch=4 is not divisible by the 3 devices"),
        ({"mesh": "data=16"}, "takes 16 devices, there are 8"),
        ({"mesh": "model=4", "rules": "tp"}, "axis kv_head of size 2 is not divisible by the 4 devices"),
        ({"mesh": "model=4,pipe=2"}, "is not like data=2,model=4"),
        ({"mesh": "data=2", "rules": "ddp"}, "did you mean 'dp'"),
        ({"mesh": "stage=2", "rules": "pp", "dropout": 0.1}, "dropout is drawn for a batch, and stages see it part by"),
        ({"length": 200_000}, "a sequence needs 200001"),
        ({"task": "text", "path": "nowhere"}, "there is no corpus at nowhere"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(tmp_path, settings, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        run(config(tmp_path, **settings))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_structure_is_refused(tmp_path):
    state = {"a": np.zeros((2, 3))}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, val_loss=1.0)
        checkpoints.wait()
        for other, sentence in (
            ({"a": np.zeros((2, 4))}, r"a is \[2, 3\] there and \[2, 4\] in the model"),
            ({"a": np.zeros((2, 3)), "b": np.zeros(1)}, "the model has b, it has not"),
        ):
            with pytest.raises(CheckpointError, match=sentence):
                checkpoints.restore(other)


def test_a_write_that_the_system_refuses_leaves_the_last_good_checkpoint(tmp_path):
    """For a while no file may grow beyond 50 kB, as on a full disk; the arrays are larger and do not compress."""
    good, large = ({"a": np.random.default_rng(k).random(50_000)} for k in range(2))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, good, val_loss=2.0)
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(CheckpointError) as refused:
                checkpoints.save(2, large, val_loss=1.0)
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (
        str(refused.value)
        == f"a checkpoint in {tmp_path} could not be written: File too large; the one of step 1 is complete"
    )
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (1, 1)
        np.testing.assert_array_equal(checkpoints.restore({"a": np.zeros(50_000)})["a"], good["a"])


def test_a_run_that_found_no_room_goes_on_from_the_last_good_checkpoint(tmp_path, monkeypatch):
    """Bit for bit: the state that could not be saved is computed again."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    save = ocp.CheckpointManager.save

    def refuse(manager, step, **kept):
        if step == 18:
            raise full
        return save(manager, step, **kept)

    with monkeypatch.context() as patched:
        patched.setattr(ocp.CheckpointManager, "save", refuse)
        sentence = "could not be written: No space left on device; the one of step 12 is complete"
        with pytest.raises(CheckpointError, match=sentence):
            run(config(tmp_path / "full"))
    assert run(config(tmp_path / "full")).outcome == "finished"
    run(config(tmp_path / "whole"))
    assert kept(tmp_path / "full" / "run") == kept(tmp_path / "whole" / "run")


def test_an_error_of_orbax_that_is_not_the_system_s_stays_one(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints, pytest.raises(ValueError) as raised:
        checkpoints.save(1, {"a": object()}, val_loss=1.0)
    assert not isinstance(raised.value, CheckpointError)


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, val_loss in enumerate((3.0, 1.0, 2.0, 4.0), 1):
            checkpoints.save(step, {"a": np.full(3, step)}, val_loss=val_loss)
        checkpoints.wait()
        assert (checkpoints.latest(), checkpoints.best()) == (4, 2)
    np.testing.assert_array_equal(restore_best(tmp_path, {"a": np.zeros(3, int)})["a"], np.full(3, 2))
