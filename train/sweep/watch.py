"""What `watch` shows of the folder of a run or a sweep, at work, done, interrupted or killed: it reads, and no more."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.console import Group as Lines
from rich.live import Live
from rich.table import Table
from rich.text import Text

from train.config import Config
from train.config.config import defaults
from train.errors import UserError
from train.files import check_there, read_object, worker_in
from train.report.report import write_report
from train.run import log
from train.run.braille import picture
from train.run.progress import clock
from train.sweep import status
from train.sweep.kept import OF_SWEEPS, answered
from train.sweep.workers import at_work, results_of_workers, told_of
from train.verdict.number import number_of
from train.verdict.outcome import FAILED, WORKED
from train.verdict.question import Question, arms_of, varying

REMEDY = "remove it; a sweep at work writes it again"
WIDTH, HEIGHT = 60, 4  # of a curve, in letters
NAMED = 8  # failures that are shown, the last ones


@dataclass(frozen=True, slots=True)
class Curve:
    """Losses by time, and what is said beside them."""

    title: str
    said: str
    losses: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class View:
    """What is shown: how it stands, how far it is, what it came to, curves, and what failed. left: seconds."""

    title: str
    state: str
    far: str
    share: float
    left: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    failures: Sequence[str] = ()

    @property
    def is_running(self) -> bool:
        """Will there be more to see?"""
        return self.state == status.RUNNING


def view_of(folder: Path) -> View:
    """What there is to see of a folder. Raises UserError where it holds neither a run nor a sweep, or is damaged."""
    check_there(folder)
    if (folder / "config.json").exists():
        return _of_run(folder)
    if any((folder / name).exists() for name in OF_SWEEPS):
        return _of_sweep(folder)
    raise UserError(f"{folder} holds no run and no sweep: it has neither config.json nor results.jsonl")


def _of_sweep(folder: Path) -> View:
    if homes := at_work(folder, time.time()):
        return _of_workers(folder, homes)
    files = [folder / "status.json", *(folder / "workers").glob("*/status.json")]
    file = max(files, key=lambda file: file.stat().st_mtime if file.exists() else 0.0)
    if file.exists():
        said = read_object(file, status.STATUS, REMEDY)
        state = said["state"]
        if state == status.RUNNING:
            working = worker_in(folder)
            state = state if working else "killed; the same command goes on"
            busy = [group for group in said["groups"] if group["phase"] in (status.COMPILING, status.TRAINING)]
            running = sum(group["alive"] for group in busy)
            left = said["left"] if working else None
            return View(
                title=folder.name,
                state=state,
                far=_far(said["known"], running, said["cells"]),
                share=said["known"] / max(1, said["cells"]),
                left=None if left is None else max(0.0, left - time.time() + said["updated"]),
                counts=said["outcomes"],
                curves=[_of_group(group) for group in busy],
                failures=said["failures"],
            )
        return _of_results(folder, state, said["cells"])
    return _of_results(folder, "running" if worker_in(folder) else "not at work", None)


def _of_workers(folder: Path, homes: Sequence[Path]) -> View:
    """A sweep at which several workers are: what is done in all, and what each of them is at."""
    results = answered(folder)[1] if (folder / "question.json").exists() else []
    files = {home: home / "status.json" for home in homes}
    told = {home: read_object(file, status.STATUS, REMEDY) for home, file in files.items() if file.exists()}
    curves, running = [], 0
    for home in homes:
        who = told_of(home)
        name = f"worker {who['worker']} on {who['host']}"
        groups = told[home]["groups"] if home in told else []
        busy = [group for group in groups if group["phase"] in (status.COMPILING, status.TRAINING)]
        running += sum(group["alive"] for group in busy)
        drawn = [_of_group(group) for group in busy]
        curves += [replace(curve, title=f"{name}: {curve.title}") for curve in drawn] or [Curve(name, "waits", ())]
    cells = max((said["cells"] for said in told.values()), default=0)
    return View(
        title=folder.name,
        state=status.RUNNING,
        far=f"{_far(len(results), running, cells)}; workers: {len(homes)}",
        share=len(results) / max(1, cells),
        counts=Counter(record["outcome"] for record in results),
        curves=curves,
        failures=[failure for said in told.values() for failure in said["failures"]],
    )


def _far(done: int, running: int, cells: int) -> str:
    """How far a sweep is; of the runs that have not begun, a race may yet leave some out."""
    return f"{done} done, {running} running, {max(0, cells - done - running)} left of {number_of(cells, 'run')}"


def _of_group(group: Mapping[str, Any]) -> Curve:
    if group["phase"] == status.COMPILING:
        return Curve(group["title"], f"{number_of(group['alive'], 'run')}, compiling", group["best"])
    known = {name: [loss for loss in group[name] if loss is not None] for name in ("best", "median")}
    losses = ", ".join(f"{name} {curve[-1]:.3f}" for name, curve in known.items() if curve)
    step = f"{number_of(group['alive'], 'run')} at step {group['step']} of {group['steps']}"
    return Curve(group["title"], f"{step}: loss {losses}" if losses else step, group["median"])


def _of_results(folder: Path, state: str, cells: int | None) -> View:
    """A sweep that is not at work: its results, with the best run of each arm."""
    if not (folder / "results.jsonl").exists():
        return View(folder.name, state, f"0 done of {number_of(cells, 'run')}" if cells else "no run is done", 0.0)
    question, results = answered(folder)
    of = "" if cells is None else f" of {number_of(cells, 'run')}"
    names = varying([record["args"] for record in results])
    return View(
        title=folder.name,
        state=state,
        far=f"{len(results)} done{of}",
        share=len(results) / max(1, cells or len(results)),
        counts=Counter(record["outcome"] for record in results),
        curves=[_best(title, runs) for title, runs in _by_arm(question, results) if runs],
        failures=[
            f"{status.in_words(record['args'], names)}: {record['outcome']} at step {record['outcome_step']}"
            for record in results
            if record["outcome"] in FAILED
        ],
    )


def _by_arm(question: Question | None, results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    if question is None:
        yield "all runs", [*results]
        return
    for arm in arms_of([record["args"] for record in results], question):
        yield arm.name, [record for record in results if arm.has(record["args"])]


def _best(title: str, runs: Sequence[Mapping[str, Any]]) -> Curve:
    judged = [run for run in runs if run["val_loss"] is not None]
    worked = [run for run in judged if run["outcome"] in WORKED]
    share = f"{len(worked)} of {len(runs)} worked"
    if not judged:
        return Curve(title, share, ())
    best = min(worked or judged, key=lambda run: run["val_loss"])
    return Curve(title, f"{share}, best validation loss {best['val_loss']:.3f}", best["loss"])


def _of_run(folder: Path) -> View:
    config = Config(name=folder.name).with_settings(log.read_settings(folder))
    lines = log.read(folder / "log.jsonl")
    losses = [line for line in lines if "loss" in line]
    judged = [line["val_loss"] for line in lines if "val_loss" in line]
    events = [f"{line['event']} at step {line['step']}" for line in lines if "event" in line]
    step, steps = max((line["step"] for line in lines), default=0), config.train.steps
    running, broken = worker_in(folder) is not None, any("non-finite" in event for event in events)
    ended = "broken" if broken else status.DONE if step == steps else "stopped; the same command goes on"
    said = [f"loss {losses[-1]['loss']:.3f}"] if losses else []
    said += [f"validation {judged[-1]:.3f}, best {min(judged):.3f}"] if judged else []
    speed = losses[-1].get("tokens_per_second") if losses else None
    said += [f"{speed:,.0f} tokens/s"] if speed else []
    return View(
        title=folder.name,
        state=status.RUNNING if running else ended,
        far=f"step {step} of {steps}",
        share=step / steps,
        left=(steps - step) * config.tokens_a_step / speed if running and speed else None,
        curves=[Curve("loss", ", ".join(said), [line["loss"] for line in losses])],
        failures=events,
    )


def shown(view: View, width: int = WIDTH) -> Lines:
    """A view for a terminal of rich."""
    left = "" if view.left is None else f", about {clock(view.left)} left"
    done = round(30 * min(1.0, view.share))
    lines: list[Any] = [
        Text.assemble((view.title, "bold"), f"  {view.state}{left}"),
        Text("█" * done + "░" * (30 - done) + f" {view.share:4.0%}  {view.far}"),
    ]
    if view.counts:
        lines.append(Text("outcomes: " + ", ".join(f"{name} {count}" for name, count in sorted(view.counts.items()))))
    for curve in view.curves:
        lines += [Text(), Text.assemble((curve.title or "all runs", "bold"), f"  {curve.said}")]
        known = [loss for loss in curve.losses if loss is not None]
        if len(known) > 1:
            lines.append(_drawn(curve.losses, known, width))
    if view.failures:
        rest = f" ({len(view.failures)}, the last {NAMED})" if len(view.failures) > NAMED else ""
        lines += [Text(), Text(f"failed{rest}", "bold"), *(Text(f"  {each}") for each in view.failures[-NAMED:])]
    return Lines(*lines)


def _drawn(losses: Sequence[float | None], known: Sequence[float], width: int) -> Table:
    """A curve with the ends of its scale."""
    table = Table.grid(padding=(0, 1))
    rows = picture([losses], width=min(width, max(1, (len(losses) + 1) // 2)), height=HEIGHT)
    ends = {0: f"{max(known):.3f}", HEIGHT - 1: f"{min(known):.3f}"}
    for number, row in enumerate(rows):
        table.add_row(Text(f"{ends.get(number, ''):>8}"), Text(row, "cyan"))
    return table


def look(folder: Path, console: Console, *, html: bool) -> None:
    """Show a folder as it is now."""
    pages = Pages(folder) if html else None
    console.print(shown(view_of(folder)), soft_wrap=True)
    if pages is not None:
        pages.write()


def live(folder: Path, console: Console, *, every: float, html: bool) -> None:
    """Show a folder until nothing works in it any more."""
    pages = Pages(folder) if html else None
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            view = view_of(folder)
            screen.update(shown(view, max(10, console.width - 12)), refresh=True)
            if pages is not None:
                pages.write()
            if not view.is_running:
                return
            time.sleep(every)


class Pages:
    """The report of a sweep, written when there are results that it had not before. UserError for a run's folder."""

    def __init__(self, folder: Path) -> None:
        if (folder / "config.json").exists():
            raise UserError(f"{folder} is a run, and reports are of sweeps; leave out --html")
        self.folder = folder
        self._seen = 0

    def write(self) -> None:
        """Write it if there are."""
        file = self.folder / "results.jsonl"
        files = [each for each in (file, *results_of_workers(file)) if each.exists()]
        now = max((each.stat().st_mtime_ns for each in files), default=0)
        if now != self._seen:
            self._seen = now
            question, results = answered(self.folder)
            write_report(results, self.folder, question, defaults())
