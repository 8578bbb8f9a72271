"""What a sweep would do, in words; a look ahead writes nothing."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import fxformer as fx
from train.config import Config
from train.data.corpus import Corpus
from train.report.looks import seeds_in, too_few
from train.run.progress import clock
from train.run.provenance import source_digest
from train.sweep.ask import question_for
from train.sweep.cells import groups_of
from train.sweep.due import grown, missing_of
from train.sweep.kept import home_of, strangers
from train.sweep.plans import groups_at_once, plan_for, weight_of
from train.sweep.results import Results
from train.sweep.status import PROGRAMS, time_left
from train.verdict.number import number_of

STATE_COPIES = 4  # of the parameters: themselves, their gradients, two moments


def preview(config: Config) -> str:
    """What `ablate` would do, in words: cells, compilations, memory, and the time that one timed step suggests."""
    folder = home_of(config)
    corpus = _corpus(config)
    corpus.check(config.text_length)
    results, (question, said) = Results(folder / "results.jsonl"), question_for(config)
    _, cells, why = grown(config, question, config, corpus, results)
    groups, races = groups_of(missing_of(cells, results)), question is not None and question.run == "racing"
    swept = sorted({name for cell in config.cells for name in cell})
    lines = [f"{config.name}: {number_of(len(cells), 'cell')} over {', '.join(swept) or 'nothing'}"]
    lines += [*said, *why, *too_few(folder, question, seeds_in(cell.config.settings() for cell in cells))]
    lines += strangers(results, [cell.key for cell in cells], corpus.sha256, source_digest())
    known = len(cells) - sum(len(group.cells) for group in groups)
    lines += [f"{known} have results, {number_of(len(groups), 'compilation')}"]
    if groups:
        plan = plan_for(groups[0], corpus)
        a_flop, a_weight = plan.seconds / groups[0].flops_a_step, PROGRAMS * (plan.compilation or 0.0)
        parts = [(a_weight * weight_of(group), a_flop * group.work) for group in groups]
        compiling, training = (clock(sum(each)) for each in zip(*parts, strict=True))
        held = sorted(STATE_COPIES * 4 * fx.count(group.config.spec()) * len(group.cells) for group in groups)
        together = held[-groups_at_once() :]
        size = f"at most {sum(together) / 1e6:,.1f} MB for parameters, gradients and moments"
        lines += [plan.reason, f"{size}; groups at once: {len(together)}"]
        took = f"{training} of training, {compiling} of compilation, {number_of(groups_at_once(), 'group')} at once"
        lines += [f"{'at most' if races else 'about'} {clock(time_left(parts, groups_at_once()))}: {took}"]
    return "\n".join(lines)


def _corpus(config: Config) -> Corpus:
    """The text in tokens; a tokenizer that is learned for it is forgotten."""
    kept = Path(config.run.out) / ".tokenizers"
    with TemporaryDirectory() as aside:
        if kept.is_dir():
            shutil.copytree(kept, aside, dirs_exist_ok=True)
        return config.corpus(Path(aside))
