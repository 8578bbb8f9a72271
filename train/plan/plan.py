"""The command: what is to be planned, in words, and what is printed of it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from fxformer import sharding, zoo
from fxformer.given import length_limit
from fxformer.lookup import nearest
from train.config import Config, load
from train.config.read import split
from train.errors import UserError, user_input
from train.plan.advice import USUAL, ranked, remedy, ways
from train.plan.estimate import Candidate, as_data, by_compiler, by_formulas
from train.plan.programs import Decoding
from train.plan.topology import Topology, compiles, topology_of
from train.plan.words import page, ranking, remedied

LENGTH = 2048  # tokens of a row of a published model, where nothing else is said and its positions allow it


def candidate_of(what: str, settings: Sequence[str], topology: str, mesh: str, rules: str, decode: str) -> Candidate:
    """What a command line plans. what: a TOML file, or the name of a published model, whose batch is a row a device.

    Where neither mesh nor rules are said, here or in the file, they are the best by formulas.
    Raises UserError with one sentence for anything that cannot be.
    """
    with user_input():
        place = topology_of(topology)
        config = _config(what, settings, place)
        mesh, how = mesh or config.run.mesh, decoding_of(decode) if decode else None
        rules = rules or (config.run.rules if config.run.mesh else "")
        if rules:
            sharding.preset(rules)
        start = Candidate(config=config, topology=place, mesh=mesh, rules=rules, how=how)
        if mesh and rules:
            return start
        sizes = sharding.mesh_shape(mesh)
        fitting = [
            (name, cut) for name, cut in ways(place, [rules] if rules else USUAL)
            if (not mesh or sharding.mesh_shape(cut) == sizes)
        ]  # fmt: skip
        found, refused = ranked(start, fitting)
        if not found:
            said = " and ".join(part for part in (mesh and f"mesh={mesh}", rules and f"rules={rules}") if part)
            why = next(iter(refused.values()), f"{place} has {place.count} devices, which no mesh of theirs takes so")
            raise UserError(f"{said or 'no mesh'} cannot be: {why}")
        return found[0].candidate


def _config(what: str, settings: Sequence[str], topology: Topology) -> Config:
    if what.endswith(".toml") or Path(what).exists():
        config = load(Path(what), settings)
        if any(config.cells):
            raise UserError(f"{what} has a grid of {len(config.cells)} cells; a plan is of one run, without a grid")
        return config
    nearest({name: name for name in zoo.names()}, what, "model")
    limit = length_limit(zoo.get(what))
    length = LENGTH if limit is None else min(LENGTH, limit)
    start = {"zoo": what, "length": length, "batch": topology.count, "dtype": "bfloat16"}
    return Config(name=what).with_settings({**start, **split(settings)})


def decoding_of(text: str) -> Decoding:
    """The step of decoding written as "batch=64,length=4096". Raises ValueError for anything else."""
    found = dict(re.findall(r"(\w+)=(\d+)", text))
    if found.keys() != {"batch", "length"} or ",".join(f"{k}={v}" for k, v in found.items()) != text.replace(" ", ""):
        raise ValueError(f"decode={text!r} is not like batch=64,length=4096")
    sizes = {name: int(value) for name, value in found.items()}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"decode={text!r} has {name}={size}; use 1 or more")
    return Decoding(**sizes)


def planned(candidate: Candidate, in_json: bool, formulas: bool) -> tuple[str, bool]:
    """The plan in words or as JSON, what would fit where it does not; and whether it fits. Raises UserError."""
    with user_input():
        asks = compiles(candidate.topology) and not formulas
        estimate = by_compiler(candidate) if asks else by_formulas(candidate)
        found = None if estimate.fits else remedy(candidate, ask=asks)
    if in_json:
        told = {"change": found.words, **as_data(found.estimate)} if found else None
        return json.dumps({**as_data(estimate), "remedy": told}), estimate.fits
    lines = page(estimate)
    return (lines if estimate.fits else f"{lines}\n{remedied(found)}"), estimate.fits


def searched(candidate: Candidate, in_json: bool) -> tuple[str, bool]:
    """Every mesh and preset by formulas, the best first; and whether one of them fits. Raises UserError."""
    with user_input():
        estimates, refused = ranked(candidate, ways(candidate.topology))
    fits = any(each.fits for each in estimates)
    if in_json:
        return json.dumps({"ranked": [as_data(each) for each in estimates], "refused": refused}), fits
    return ranking(estimates, refused), fits
