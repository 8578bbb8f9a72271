"""The commands: arguments in words, and what is printed; `python -m train --help` lists them."""

import codecs
import contextlib
import itertools
import json
import logging
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from fxformer.commands.generate import Pace
from fxformer.decode import check_decodable
from fxformer.model import Transformer
from train.config import Edits, defaults, load
from train.errors import UserError, user_input
from train.run.devices import keep_compiled, use_host_devices
from train.run.signals import INTERRUPTED, Interrupted, exit_code

ConfigFile = Annotated[Positional[Path], arg(help="TOML file of the run or sweep")]
RunFolder = Annotated[Positional[Path], arg(help="folder of a run or sweep, like runs/norm_by_depth")]
Settings = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(name="set", metavar="NAME=VALUE", help="change a setting, like lr=1e-3 or data.path=book.txt; may be repeated"),
]
Cells = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(metavar="NAME=VALUES", help="cells of the grid, like depth=2,4 or placement=pre; may be repeated"),
]
Resources = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(name="resource", metavar="NAME=VALUE", help="of each worker that is launched, like gpus=1; may be repeated"),
]
app = tyro.extras.SubcommandApp()


@app.command
def run(config: ConfigFile, settings: Settings = ()) -> int:
    """Train one model; started again, it goes on from its last checkpoint."""
    from train.data.corpus import load_corpus, opening
    from train.run.loop import run as train
    from train.run.processes import is_first, joined

    resolved = load(config, settings)
    if any(resolved.cells):
        raise UserError(f"{config} has a grid of {len(resolved.cells)} cells; python -m train ablate {config} runs it")
    keep_compiled(Path(resolved.run.out))
    folder = Path(resolved.run.out) / resolved.name
    with joined(resolved.run.distributed, resolved.run.mesh):
        result, speaks = train(resolved), is_first()
    if not speaks:
        return exit_code(result.asked) if result.asked else int(result.outcome == "non-finite")
    loss = told(result.val_loss, result.bits_per_byte)
    print(
        f"{result.outcome} at step {result.step} of {resolved.train.steps}: {loss}; "
        f"{result.seconds:.1f} s, {result.tokens_per_second:,.0f} tokens/s"
    )
    match result.outcome:
        case "interrupted":
            print(f"saved in {folder}; the same command goes on from step {result.step}")
            return exit_code(result.asked)
        case "non-finite":
            print(f"the loss is not a number at step {result.step}; lower lr or lengthen warmup")
            print(result.cause)
            if result.case is not None:
                print(f"look again: python -m train replay {result.case}")
            return 1
        case _ if continues(resolved.spec()):
            prompt = opening(load_corpus(resolved.data.path, resolved.data.task))
            words = ["python", "-m", "train", "sample", str(folder), *(["--prompt", prompt] if prompt else [])]
            print(f"sample from it: {shlex.join(words)}")
    return exit_code(result.asked) if result.asked else 0


@app.command
def ablate(
    config: ConfigFile,
    settings: Settings = (),
    dry_run: Annotated[bool, arg(help="print cells, compilations, memory and estimated time; train nothing")] = False,
    seeds: Annotated[int | None, arg(help="how many a cell gets, beginning with its own")] = None,
    add_rates: Annotated[str, arg(metavar="RATES", help="like 1e-4,3e-4, beside the grid's")] = "",
    only: Cells = (),
    exclude: Cells = (),
    detect: Annotated[float | None, arg(metavar="NATS", help="plan seeds and windows that find this effect")] = None,
    worker: Annotated[str, arg(metavar="K/N", help="be one of N processes over one folder: 3/8 is the third")] = "",
    launcher: Annotated[str, arg(help="ray or submitit: starts workers, and waits for them")] = "",
    workers: Annotated[int, arg(help="how many a launcher starts")] = 2,
    resources: Resources = (),
) -> int:
    """Run a sweep and report on it; started again, it runs only what is missing."""
    from train.sweep import detect as planning
    from train.sweep.ablate import ablate, home_of, preview
    from train.sweep.launch import launch_workers, words_of
    from train.sweep.workers import turn_of

    turn = turn_of(worker) if worker else None
    if detect is not None and (worker or launcher):
        raise UserError("detect plans in one process; leave it out, and give workers the planned seeds by --seeds")
    if worker and launcher:
        raise UserError(f"{launcher} starts all workers; leave out --worker")
    use_host_devices(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    resolved = load(config, settings, Edits(seeds=seeds, add_rates=add_rates, only=only, exclude=exclude))
    folder = home_of(resolved)
    keep_compiled(Path(resolved.run.out))
    if dry_run:
        print(preview(resolved) if detect is None else planning.preview_detection(resolved, detect))
        return 0
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
    from train.sweep.ablate import home_of
    from train.sweep.ladder import as_data, question_of_ladder, read_ladder, table

    use_host_devices(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    resolved = load(config, settings)
    question, file = question_of_ladder(resolved), home_of(resolved) / "ladder.json"
    keep_compiled(Path(resolved.run.out))
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
def report(folder: RunFolder) -> int:
    """Write report.html and report.md of a sweep again, from its results.jsonl."""
    if not (folder / "results.jsonl").exists():
        raise UserError(f"{folder} is not a sweep: it has no results.jsonl")
    return say_report(folder)


def say_report(folder: Path) -> int:
    """Say what a sweep's folder has, and what of it is the answer; write its report."""
    from train.report.report import say_verdicts, write_report
    from train.sweep.kept import answered, standing

    question, results = answered(folder)
    print(*standing(folder), sep="\n")
    say_verdicts(write_report(results, folder, question, defaults()))
    print(f"report: {folder / 'report.html'}")
    return 0


@app.command
def watch(
    folder: RunFolder,
    every: Annotated[float, arg(help="seconds from one look to the next")] = 2.0,
    once: Annotated[bool, arg(help="look once, as where there is no terminal")] = False,
    html: Annotated[bool, arg(help="write report.html again whenever there are new results")] = False,
) -> int:
    """Show how a run or a sweep gets on, from beside: what is done, running and left, losses and failures."""
    from rich.console import Console

    from train.sweep.watch import live, look

    if not every > 0:
        raise UserError(f"every={every} is no time to wait; use seconds, more than 0")
    console = Console()
    if once or not console.is_terminal:
        look(folder, console, html=html)
    else:
        live(folder, console, every=every, html=html)
    return 0


@app.command
def judge(
    first: Annotated[Positional[str], arg(help="a sweep's folder, or one arm of it: FOLDER:ARM, like runs/norms:rms")],
    second: Annotated[Positional[str], arg(help="another one, of the same text and budget")],
    smallest: Annotated[float, arg(help="the smallest difference of losses that matters, nats")] = 0.02,
    in_json: Annotated[bool, arg(name="json", help="print one JSON object")] = False,
) -> int:
    """Is the first arm better than the second? Exit code 0: better, 1: worse, 2: it cannot be told, 3: the same."""
    from train.report.looks import looked_at
    from train.sweep.kept import arm_at
    from train.verdict.judge import ANSWERS, asked
    from train.verdict.judge import judge as decide
    from train.verdict.words import sentence

    with user_input():
        runs, question = asked(arm_at(first), arm_at(second), smallest)
    answer, said = decide(runs, question, looks=looked_at(Path(first.partition(":")[0]), question, runs))
    if in_json:
        claims = [{**asdict(claim), "sentence": sentence(claim)} for claim in said]
        print(json.dumps({"answer": answer, "first": first, "second": second, "claims": claims}))
    else:
        print(f"{answer}: A is {first}, B is {second}")
        print(*(f"  {sentence(claim)}" for claim in said), sep="\n")
    return ANSWERS[answer]


@app.command
def sample(
    folder: RunFolder,
    prompt: Annotated[str, arg(help="the text to go on from")] = "\n",
    tokens: Annotated[int, arg(help="tokens to add, which are bytes without a tokenizer")] = 400,
    temperature: Annotated[float, arg(help="0 takes the most likely byte each time")] = 0.8,
    top_k: Annotated[int | None, arg(help="draw from the k most likely bytes")] = None,
    top_p: Annotated[float | None, arg(help="draw from the fewest bytes of this probability")] = None,
    seed: Annotated[int, arg(help="of the draws")] = 0,
    cell: Annotated[str, arg(help="of a sweep that keeps the best run of each arm: its key, or how it begins")] = "",
) -> int:
    """Continue a prompt with a trained model, printing as it goes."""
    from train.run.sample import sample as continue_text
    from train.sweep.best import run_of

    keep_compiled(folder.parent)
    folder = run_of(folder, cell)
    pace = Pace()
    decoder = codecs.getincrementaldecoder("utf8")(errors="replace")
    chunks = continue_text(
        folder, prompt.encode(), tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    chunks = pace.of(chunks)
    first = next(chunks)  # what cannot be asked for is said before anything else
    print(prompt, end="", flush=True)
    for chunk in itertools.chain([first], chunks):
        print(decoder.decode(chunk), end="", flush=True)
    print(f"\n{pace}", file=sys.stderr)
    return 0


@app.command
def probe(
    folders: Annotated[Positional[tuple[Path, ...]], arg(help="folders of runs on one text, of any objectives")],
    length: Annotated[int, arg(help="bytes in a row")] = 48,
    size: Annotated[int, arg(help="bytes in the hole")] = 8,
    count: Annotated[int, arg(help="rows of held-out text")] = 256,
) -> int:
    """Ask trained models what fills a hole in a row: in its middle (cloze) and at its end; bits per byte."""
    from train.run.probe import probe as ask
    from train.run.probe import table

    print(table(ask(folders, length=length, size=size, count=count)))
    return 0


@app.command
def replay(
    folder: Annotated[Positional[Path], arg(help="a case, like runs/NAME/forensics/step_37, or a sweep's folder")],
    cell: Annotated[str, arg(help="the key of a run of the sweep, or how it begins")] = "",
    settings: Settings = (),
) -> int:
    """Look again at the step that broke a run, array by array; or make a run of a sweep again and look at its end.

    Of a sweep, --cell or --set single out the run. Exit code 1 where something else is found than before.
    """
    from train.config.read import split
    from train.run.forensics import examine_again, examine_cell, runs_around
    from train.sweep.results import Results

    with user_input():
        wanted = split(settings)
    keep_compiled(runs_around(folder))
    if (folder / "results.jsonl").exists():
        record = Results(folder / "results.jsonl").one(cell, wanted)
        case, place = examine_cell(folder, record)
        print(f"{case.table()}\n\n{case.finding.sentence}")
        print(f"the sweep says {record['outcome']} at step {record['outcome_step']}; this is in {place}")
        return 0
    if not (folder / "found.json").exists():
        raise UserError(f"{folder} is no case and no sweep: it has neither found.json nor results.jsonl")
    if cell or settings:
        raise UserError(f"{folder} is one case; --cell and --set single out a run of a sweep, leave them out")
    case, found = examine_again(folder)
    print(f"{case.table()}\n\n{case.finding.sentence}")
    if case.finding.name == found.name:
        return 0
    print(f"before, something else was found: {found.sentence}")
    return 1


@app.command
def coords(
    config: ConfigFile,
    settings: Settings = (),
    steps: Annotated[int, arg(help="to train before looking again")] = 4,
    as_json: Annotated[bool, arg(name="json", help="print JSON")] = False,
) -> int:
    """Check coordinates: how the size of every activation, and its change in a few steps, go with width and depth."""
    from train.sweep.coords import as_data, coordinates, table

    if not 1 <= steps <= 100:
        raise UserError(f"steps={steps} is no check of a few steps; use 1 to 100")
    resolved = load(config, settings)
    keep_compiled(Path(resolved.run.out))
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
    from train.sweep.ablate import home_of
    from train.sweep.transfer import transfer as transferred

    use_host_devices(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    resolved = load(config, settings, Edits(only=only, exclude=exclude))
    keep_compiled(Path(resolved.run.out))
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
def plan(
    what: Annotated[Positional[str], arg(help="TOML file of a run, or the name of a published model, like llama2-7b")],
    topology: Annotated[str, arg(help="devices that need not be here, like v5e:4x4, v5p:2x2x2 or h100:8")],
    mesh: Annotated[str, arg(help="like data=8,model=2; the best by formulas where nothing is said")] = "",
    rules: Annotated[str, arg(help="a sharding preset; the best by formulas where nothing is said")] = "",
    decode: Annotated[str, arg(metavar="SIZES", help="a step of decoding instead: batch=64,length=4096")] = "",
    search: Annotated[bool, arg(help="try every mesh and preset, and print them ranked")] = False,
    formulas: Annotated[bool, arg(help="do not ask the compiler, which takes minutes")] = False,
    settings: Settings = (),
    in_json: Annotated[bool, arg(name="json", help="print one JSON object")] = False,
) -> int:
    """Does it fit devices that are not here, and how fast can it be? Exit code 0: it fits, 1: it does not."""
    from train.plan.plan import candidate_of, planned, searched
    from train.plan.topology import stay_on_cpu

    stay_on_cpu()
    candidate = candidate_of(what, settings, topology, mesh, rules, decode)
    lines, fits = searched(candidate, in_json) if search else planned(candidate, in_json, formulas)
    print(lines)
    return 0 if fits else 1


@app.command
def settings(name: Annotated[Positional[str], arg(help="one setting, like lr; all where none is named")] = "") -> int:
    """Say every setting, or one of them: what it is, its values, default and unit, and what reads it."""
    from train.config.reference import listed, one

    with user_input():
        print(one(name) if name else listed())
    return 0


@app.command
def combine() -> int:
    """Try every two choices of the toy factory and of the objectives together; exit code 1 where one fails."""
    from train.combine.combinations import verify_combinations

    return int(not verify_combinations())


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
    use_host_devices(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    keep_compiled(out)
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


def told(val_loss: float | None, bits_per_byte: float | None) -> str:
    """A validation loss in words: nats per token, and bits per byte, which all tokenizers share."""
    if val_loss is None or bits_per_byte is None:
        return "no validation loss yet"
    return f"validation loss {val_loss:.4f} nats, {bits_per_byte:.4f} bits per byte"


def continues(spec: Transformer) -> bool:
    """Can the model go on from a prompt?"""
    try:
        check_decodable(spec)
    except ValueError:
        return False
    return True


def main() -> None:
    """The command line: what a user can put right is one sentence and exit code 2, a bug keeps its traceback."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax tells of a failed write by itself, at great length
    try:
        code = app.cli(prog="python -m train", description="Train, compare and sample small transformers.")
    except BrokenPipeError:  # who reads has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:  # where whoever calls this has not said what a signal does, as __main__ has
        print("\ninterrupted; nothing that was saved is lost", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
