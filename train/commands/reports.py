"""Commands that say how a sweep stands and what it answers."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from train.commands.words import Number, RunFolder, SweepFolder, app
from train.config import defaults
from train.errors import NoComparisonError, UserError, refusal, user_input


@app.command
def report(folder: SweepFolder) -> int:
    """Write report.html and report.md of a sweep again, from its results.jsonl."""
    from train.sweep.kept import check_sweep

    check_sweep(folder)
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
    every: Annotated[Number, arg(help="seconds from one look to the next")] = 2.0,
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
    """Is the first arm better than the second? Exit code 0: better, 1: worse, 2: it cannot be told, 3: the same, 4: no
    comparison."""
    from train.report.looks import looked_at
    from train.sweep.kept import arm_at
    from train.verdict.judge import ANSWERS, asked, differ
    from train.verdict.judge import judge as decide
    from train.verdict.words import sentence

    try:
        with user_input():
            arms = arm_at(first), arm_at(second)
            runs, question = asked(*arms, smallest)
        compared = replace(question, compare=differ(*arms))
        looks = max(looked_at(Path(place.partition(":")[0]), compared, runs) for place in (first, second))
    except (UserError, OSError) as error:
        raise NoComparisonError(refusal(error) if isinstance(error, OSError) else str(error)) from error
    answer, said = decide(runs, question, looks=looks)
    if in_json:
        claims = [_plain({**asdict(claim), "sentence": sentence(claim)}) for claim in said]
        print(json.dumps({"answer": answer, "first": first, "second": second, "claims": claims}))
    else:
        print(f"{answer}: A is {first}, B is {second}")
        print(*(f"  {sentence(claim)}" for claim in said), sep="\n")
    return ANSWERS[answer]


def _plain(said: dict[str, Any]) -> dict[str, Any]:
    """What JSON can say: null for an infinite end, and for what is no number."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in said.items()
    }
