"""Commands about one run: train it, sample from it, ask it, and look at where it broke."""

import codecs
import itertools
import shlex
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fxformer.commands.generate import Pace
from fxformer.decode import check_decodable
from fxformer.model import Transformer
from train.commands.words import ConfigFile, MaybeNumber, MaybeWhole, Number, RunFolder, Settings, Whole, app
from train.config import load
from train.errors import UserError, user_input
from train.files import check_there
from train.run import devices
from train.run.signals import exit_code


@app.command
def run(config: ConfigFile, settings: Settings = ()) -> int:
    """Train one model; started again, it goes on from its last checkpoint."""
    from train.data.corpus import load_corpus, opening
    from train.run.loop import run as train
    from train.run.processes import is_first, joined

    resolved = load(config, settings)
    if any(resolved.cells):
        raise UserError(f"{config} has a grid of {len(resolved.cells)} cells; python -m train ablate {config} runs it")
    devices.keep_compiled(Path(resolved.run.out))
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
def sample(
    folder: RunFolder,
    prompt: Annotated[str, arg(help="the text to go on from")] = "\n",
    tokens: Annotated[Whole, arg(help="tokens to add, which are bytes without a tokenizer")] = 400,
    temperature: Annotated[Number, arg(help="0 takes the most likely byte each time")] = 0.8,
    top_k: Annotated[MaybeWhole, arg(help="draw from the k most likely bytes")] = None,
    top_p: Annotated[MaybeNumber, arg(help="draw from the fewest bytes of this probability")] = None,
    seed: Annotated[Whole, arg(help="of the draws")] = 0,
    cell: Annotated[str, arg(help="of a sweep that keeps the best run of each arm: its key, or how it begins")] = "",
) -> int:
    """Continue a prompt with a trained model, printing as it goes."""
    from train.run.sample import sample as continue_text
    from train.sweep.best import run_of

    devices.keep_compiled(folder.parent)
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
    length: Annotated[Whole, arg(help="bytes in a row")] = 48,
    size: Annotated[Whole, arg(help="bytes in the hole")] = 8,
    count: Annotated[Whole, arg(help="rows of held-out text")] = 256,
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
    check_there(folder)
    devices.keep_compiled(runs_around(folder))
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
