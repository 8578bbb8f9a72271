"""Commands that run many models."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from train.commands.reports import say_report
from train.commands.words import Cells, ConfigFile, MaybeNumber, MaybeWhole, Resources, Settings, Whole, app
from train.config import Edits, load
from train.errors import UserError
from train.run import devices
from train.run.signals import Interrupted


@app.command
def ablate(
    config: ConfigFile,
    settings: Settings = (),
    dry_run: Annotated[bool, arg(help="print cells, compilations, memory and estimated time; train nothing")] = False,
    seeds: Annotated[MaybeWhole, arg(help="how many a cell gets, beginning with its own")] = None,
    add_rates: Annotated[str, arg(metavar="RATES", help="like 1e-4,3e-4, beside the grid's")] = "",
    only: Cells = (),
    exclude: Cells = (),
    detect: Annotated[MaybeNumber, arg(metavar="NATS", help="plan seeds and windows that find this effect")] = None,
    worker: Annotated[str, arg(metavar="K/N", help="be one of N processes over one folder: 3/8 is the third")] = "",
    launcher: Annotated[str, arg(help="ray or submitit: starts workers, and waits for them")] = "",
    workers: Annotated[Whole, arg(help="how many a launcher starts")] = 2,
    resources: Resources = (),
) -> int:
    """Run a sweep and report on it; started again, it runs only what is missing."""
    from train.sweep import detect as planning
    from train.sweep.ablate import ablate
    from train.sweep.kept import home_of
    from train.sweep.launch import launch_workers, words_of
    from train.sweep.preview import preview
    from train.sweep.workers import turn_of

    turn = turn_of(worker) if worker else None
    if detect is not None and (worker or launcher):
        raise UserError("detect plans in one process; leave it out, and give workers the planned seeds by --seeds")
    if worker and launcher:
        raise UserError(f"{launcher} starts all workers; leave out --worker")
    devices.use_host_devices(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    resolved = load(config, settings, Edits(seeds=seeds, add_rates=add_rates, only=only, exclude=exclude))
    folder = home_of(resolved)
    if dry_run:
        print(preview(resolved) if detect is None else planning.preview_detection(resolved, detect))
        return 0
    devices.keep_compiled(Path(resolved.run.out))
    try:
        if launcher:
            given = {"--set": settings, "--only": only, "--exclude": exclude}
            given |= {"--seeds": () if seeds is None else (str(seeds),), "--add-rates": (add_rates,) * bool(add_rates)}
            launch_workers(launcher, workers, resources, words_of(config, given), folder)
            return say_report(folder)
        if detect is not None:
            resolved, said = planning.detect(resolved, detect)
            print(*said, sep="\n")
        results = ablate(resolved, turn=turn)
    except Interrupted as stopped:
        print(f"interrupted; what was done is kept in {folder}, the same command goes on from there")
        return stopped.code
    if turn is not None:  # several would look at the question at once
        print(f"all {len(results)} runs of {folder} are done; report: python -m train report {folder}")
        return 0
    return say_report(folder)


@app.command
def ladder(config: ConfigFile, settings: Settings = ()) -> int:
    """Run a sweep over four sizes or more, fit the law of each arm, and say how much compute one arm is worth."""
    from train.files import write_whole
    from train.sweep.ablate import ablate as sweep
    from train.sweep.kept import home_of
    from train.sweep.ladder import as_data, question_of_ladder, read_ladder, table

    devices.use_host_devices(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    resolved = load(config, settings)
    question, file = question_of_ladder(resolved), home_of(resolved) / "ladder.json"
    devices.keep_compiled(Path(resolved.run.out))
    try:
        results = sweep(resolved)
    except Interrupted as stopped:
        print("interrupted; the same command goes on from there")
        return stopped.code
    found = read_ladder(results, question)
    for line in table(found):
        print(line)
    write_whole(file, json.dumps(as_data(found), indent=1).encode())
    print(f"written: {file}")
    return 0


@app.command
def coords(
    config: ConfigFile,
    settings: Settings = (),
    steps: Annotated[Whole, arg(help="to train before looking again")] = 4,
    as_json: Annotated[bool, arg(name="json", help="print JSON")] = False,
) -> int:
    """Check coordinates: how the size of every activation, and its change in a few steps, go with width and depth."""
    from train.sweep.coords import as_data, coordinates, table

    if not 1 <= steps <= 100:
        raise UserError(f"steps={steps} is no check of a few steps; use 1 to 100")
    resolved = load(config, settings)
    devices.keep_compiled(Path(resolved.run.out))
    told = coordinates(resolved, steps=steps, say=lambda line: print(line, file=sys.stderr))
    print(json.dumps(as_data(told)) if as_json else table(told))
    return 0


@app.command
def transfer(
    config: ConfigFile,
    settings: Settings = (),
    as_json: Annotated[bool, arg(name="json", help="print JSON")] = False,
    only: Cells = (),
    exclude: Cells = (),
) -> int:
    """Run a sweep over rates and widths or depths, and say where the best rate goes; started again, it goes on."""
    from train.report.transfer import as_data, table, write_transfer
    from train.sweep.kept import home_of
    from train.sweep.transfer import transfer as transferred

    devices.use_host_devices(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    resolved = load(config, settings, Edits(only=only, exclude=exclude))
    devices.keep_compiled(Path(resolved.run.out))
    try:
        results, told = transferred(resolved)
    except Interrupted as stopped:
        print("interrupted; the same command goes on", file=sys.stderr)
        return stopped.code
    written = [write_transfer(each, results, home_of(resolved)) for each in told]
    print(json.dumps([as_data(each) for each in told]) if as_json else "\n\n".join(table(each) for each in told))
    for path in written:
        print(f"plot: {path}", file=sys.stderr)
    return 0


@app.command
def reproduce(
    experiments: Annotated[Positional[tuple[str, ...]], arg(help="which, like E1 E7; all where none is named")] = (),
    quick: Annotated[bool, arg(help="fewer seeds and depths: ten minutes on two cores")] = False,
    as_json: Annotated[bool, arg(name="json", help="print claims as JSON and nothing else")] = False,
    out: Annotated[Path, arg(help="folder of the sweeps and of report.html")] = Path("runs/reproduce"),
) -> int:
    """Run published experiments at toy size and say of each claim: reproduced, not at this size, or contradicted."""
    from train.reproduce.reproduce import as_data, chosen, run_experiment, said, write_report

    sections, told_to = [], sys.stderr if as_json else sys.stdout
    devices.use_host_devices(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    devices.keep_compiled(out)
    with contextlib.redirect_stdout(told_to):
        try:
            for name in chosen(experiments):
                sections.append(run_experiment(name, out, quick=quick))
                print(said(sections[-1]))
        except Interrupted as stopped:
            print(f"interrupted in {stopped}; the same command goes on from there")
            return stopped.code
        print(f"report: {write_report(sections, out / 'quick' if quick else out)}")
    if as_json:
        print(json.dumps(as_data(sections), indent=1))
    return 0
