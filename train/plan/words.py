"""A plan as a page of a terminal."""

from collections.abc import Sequence

from fxformer.table import columns
from train.plan.advice import Remedy
from train.plan.estimate import Estimate
from train.plan.topology import compiles

GB, TERA = 1e9, 1e12
NAMES = {
    "gradients": "gradients, while there are some",
    "temporaries": "activations and temporaries",
    "program": "code",
}
BOUNDS = {"compute": "its products", "memory": "its memory", "links": "its links"}


def page(estimate: Estimate) -> str:
    """Memory, work, exchange and time of one device, and whether it fits."""
    rows = [(NAMES.get(name, name), f"{size / GB:.2f}") for name, size in estimate.memory.items()]
    rows.append(("all", f"{estimate.used / GB:.2f}"))
    rows.append((f"the device has ({estimate.candidate.topology.kind})", f"{estimate.available / GB:.2f}"))
    unit, words = (TERA, "TFLOPs") if estimate.flops["program"] > 0.1 * TERA else (GB, "GFLOPs")
    named = {"program": "the program", "masked": "accounting, every key", "causal": "accounting, keys up to the query"}
    flops = [(named[name], f"{estimate.flops[name] / unit:,.2f}") for name in named]
    sent = [(kind, f"{times:,.0f}", f"{size / GB:.3f}") for kind, (times, size) in estimate.collectives.items()]
    parts = [
        title(estimate),
        _table(("memory of a device", "GB"), rows),
        _table(("products of a device, one run", words), flops),
        _table(("exchange of a device, one run", "times", "GB sent"), sent) if sent else "",
        time_said(estimate),
        "\n".join(f"lint: {each}" for each in estimate.lint),
        verdict(estimate),
    ]
    return "\n\n".join(part for part in parts if part)


def title(estimate: Estimate) -> str:
    """What is planned, and who says so."""
    candidate = estimate.candidate
    if candidate.how is None:
        data, train = candidate.config.data, candidate.config.train
        again = "computed again in the backward pass" if candidate.execution.remat else "kept for the backward pass"
        what = f"a training step of {data.batch} x {data.length:,} tokens in {train.dtype}, activations {again}"
    else:
        what = (
            f"a step of decoding in {candidate.config.train.dtype}, {candidate.how.batch} rows that hold "
            f"{candidate.how.length:,} tokens"
        )
    where = f"{candidate.topology}, mesh {candidate.mesh}, rules {candidate.rules}"
    return f"{candidate.config.name}: {what}\non {where}; {source(estimate)}"


def source(estimate: Estimate) -> str:
    """Who says so."""
    if estimate.source == "compiler":
        return (
            "as the TPU's compiler has it"
            if not estimate.refused
            else "memory as the TPU's compiler has it, the rest by formulas"
        )
    missing = (
        " (pip install fxformer[plan] asks the TPU's compiler)" if estimate.candidate.topology.chip.compiled else ""
    )
    return "by formulas alone" + ("" if compiles(estimate.candidate.topology) else missing)


def time_said(estimate: Estimate) -> str:
    """The roofline in a sentence."""
    each = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in estimate.seconds.items())
    open_loops = (
        ""
        if not estimate.open_loops
        else (f"\n{estimate.open_loops} loops have no length that the program states and are counted once")
    )
    idle = f"\nstages of the pipeline wait {estimate.idle:.0%} of it" if estimate.idle else ""
    return (
        f"time: {each}; {_seconds(estimate.time)} or more, bound by {BOUNDS[estimate.bound]}: at most "
        f"{estimate.tokens_per_second:,.0f} tokens/s of all devices{idle}{open_loops}"
    )


def verdict(estimate: Estimate) -> str:
    """Whether it fits."""
    share = 100 * estimate.used / estimate.available
    if estimate.fits:
        return f"it fits: {estimate.used / GB:.1f} of {estimate.available / GB:.1f} GB, {share:.0f} %"
    return f"it does not fit: {estimate.used / GB:.1f} GB on a device that has {estimate.available / GB:.1f}"


def remedied(found: Remedy | None) -> str:
    """What would make it fit."""
    if found is None:
        return "nothing that was tried makes it fit: other ways to compute and cut, fewer rows, more of these devices"
    says = "the compiler says" if found.estimate.source == "compiler" else "formulas say"
    taken = f"{found.estimate.used / GB:.1f} GB"
    return f"with {found.words} it fits, {says}: {taken}, {_seconds(found.estimate.time)} or more"


def ranking(estimates: list[Estimate], refused: dict[str, str]) -> str:
    """Ways to cut, the best first, and why others cannot be."""
    rows = [
        (
            each.candidate.mesh, each.candidate.rules, "fits" if each.fits else "does not fit",
            f"{each.used / GB:.1f}", each.bound, f"{_seconds(each.time)}", f"{each.tokens_per_second:,.0f}",
        )
        for each in estimates
    ]  # fmt: skip
    header = ("mesh", "rules", "", "GB a device", "bound by", "time", "tokens/s")
    lines = [columns([header, *rows])]
    for why in dict.fromkeys(refused.values()):
        lines.append(f"{', '.join(way for way in refused if refused[way] == why)}: {why}")
    return "\n".join(lines)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return columns([header, *rows])


def _seconds(seconds: float) -> str:
    factor, unit = (1e6, "us") if seconds < 1e-3 else (1e3, "ms") if seconds < 10 else (1.0, "s")
    return f"{factor * seconds:,.1f} {unit}"
