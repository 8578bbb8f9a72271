"""Plans by formulas, the sentences of the command, and what it looks for where something does not fit."""

import json
import sys
from dataclasses import replace

import jax
import pytest

import fxformer as fx
from fxformer import sharding
from fxformer.layers.ffn import MoE
from fxformer.walk import replaced
from tests.laws.specs import PUBLISHED, TOYS
from train.cli import main
from train.config import Config
from train.plan import estimate as estimates
from train.plan.advice import USUAL, changes, ranked, remedy, ways
from train.plan.estimate import Candidate, by_formulas, wanted
from train.plan.hlo import cost_of
from train.plan.plan import candidate_of
from train.plan.programs import Decoding, bytes_of, decoding, training
from train.plan.topology import CHIPS, SLICES, Topology, mesh_of, topology_of
from train.plan.words import page

TOY = {"width": 64, "depth": 4, "heads": 4, "length": 32, "batch": 8}


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch):
    """What is tested here has to be so where libtpu is not installed; with it: test_tpu.py."""
    monkeypatch.setattr("train.plan.topology.compiles", lambda topology: False)
    monkeypatch.setattr("train.plan.plan.compiles", lambda topology: False)
    monkeypatch.setattr("train.plan.words.compiles", lambda topology: False)


def command(*words, capsys):
    """(exit code, what is printed, what is said of errors) of `python -m train plan …`."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["train", "plan", *words])
        main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def toy(topology="h100:8", mesh="data=8", rules="fsdp", how=None, **settings):
    config = Config(name="toy").with_settings({**TOY, **settings})
    return Candidate(config=config, topology=topology_of(topology), mesh=mesh, rules=rules, how=how)


@pytest.mark.parametrize(("rules", "mesh"), [way for way in ways(topology_of("h100:4")) if "ep" not in way[0]])
def test_what_stands_between_steps_is_what_the_arrays_take(rules, mesh):
    """On devices that are here: bytes of a plan are those of the shards."""
    config, cut = Config(name="toy").with_settings(TOY), sharding.PRESETS[rules]
    place = sharding.mesh(mesh)
    program = training(config, place, cut, None)
    params = sharding.init_sharded(config.spec(), jax.random.key(0), place, cut)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(params))
    assert program.bytes("parameters") == held == sharding.plan(config.spec(), place, cut).bytes


@pytest.mark.parametrize("name", [*PUBLISHED, *TOYS])
def test_every_structure_has_a_plan(name):
    """Closed forms know every layer of the tables; parameters and moments are counted as shapes say."""
    spec = {**PUBLISHED, **TOYS}[name]
    kinds = {type(block.attention) for block in spec.stack.blocks}, {type(block.ffn) for block in spec.stack.blocks}
    from train.plan.closed import KEPT_BY_ATTENTION, KEPT_BY_FFN, kept

    assert kinds[0] <= KEPT_BY_ATTENTION.keys() and kinds[1] <= KEPT_BY_FFN.keys()
    assert all(kept(block, spec.embed.width, 64.0, 16, 4, 1, naive=1024) > 0 for block in spec.stack.blocks)


def test_a_tpu_keeps_no_weights_of_attention_where_its_kernel_is_the_default():
    for length, same in ((256, True), (1024, False), (2048, True)):
        tpu, gpu = (by_formulas(toy(each, length=length)) for each in ("v5e:2x4", "h100:8"))
        assert (tpu.memory["temporaries"] == gpu.memory["temporaries"]) is same
        assert tpu.memory["temporaries"] <= gpu.memory["temporaries"]


def test_a_cache_is_cut_with_the_batch_and_its_heads():
    spec, how = fx.zoo.toy(width=64, heads=8, kv_heads=4, depth=2), Decoding(batch=8, length=32)
    place = sharding.mesh("data=4,model=2")
    program = decoding(spec, how, place, sharding.PRESETS["tp"], "bfloat16")
    whole = fx.accounting.cache_bytes(spec, 32) * 8
    records = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(program.parts["cache"])
        if leaf.dtype == "bfloat16" and path
    ]  # fmt: skip
    assert sum(bytes_of(leaf) for leaf in records) == whole / 8
    assert {leaf.sharding.spec for leaf in records} == {jax.sharding.PartitionSpec("data", "model", None, None)}


def test_a_step_of_decoding_runs_as_it_is_planned():
    """The cache that a plan cuts is one that a model reads with, to the same logits."""
    spec = fx.zoo.toy(width=32, heads=4, depth=1, window=6)
    place, cut = sharding.mesh("data=2,model=2"), sharding.PRESETS["tp"]
    params, empty = fx.init(spec, jax.random.key(0)), fx.empty_cache(spec, 4, 16)
    tokens = jax.random.randint(jax.random.key(1), (4, 9), 0, 256)
    alone = fx.apply(spec, params, tokens, cache=empty)
    with sharding.use(place, cut):
        cache = jax.device_put(empty, sharding.cache_shardings(spec, empty, place, cut))
        placed = jax.device_put(params, sharding.param_shardings(spec, place, cut))
        out = fx.apply(spec, placed, tokens, cache=cache)
    assert abs(out.logits - alone.logits).max() < 2e-5


def test_more_devices_hold_less_each_and_accumulation_keeps_less():
    two, eight = (by_formulas(toy(topology=f"h100:{n}", mesh=f"data={n}")) for n in (2, 8))
    assert eight.memory["parameters"] * 4 == two.memory["parameters"]
    in_parts = by_formulas(toy(topology="h100:2", mesh="data=2", accumulate=4))
    assert in_parts.memory["temporaries"] < two.memory["temporaries"]
    assert by_formulas(toy(topology="h100:2", mesh="data=2", remat=True)).flops["program"] > two.flops["program"]


def test_a_pipeline_waits_as_its_books_say():
    """Eight rows pass four stages in eleven ticks; what it computes is what the compiler counts, to 5 %."""
    whole, four = (by_formulas(toy("h100:4", mesh, rules)) for mesh, rules in (("data=4", "dp"), ("stage=4", "pp")))
    assert (whole.idle, four.idle) == (0, pytest.approx(3 / 11))
    assert four.memory["parameters"] < 0.26 * whole.memory["parameters"]
    program = training(four.candidate.config, sharding.mesh("stage=4"), sharding.PRESETS["pp"], None)
    found = cost_of(program.lower().compile().as_text())
    assert four.flops["program"] == pytest.approx(found.flops, rel=0.05)
    assert four.collectives["collective-permute"] == found.by_kind()["collective-permute"]
    assert "stages of the pipeline wait 27% of it" in page(four)


@pytest.mark.parametrize("kind", CHIPS)
def test_a_topology_is_written_as_it_is_sold(kind):
    shapes = SLICES[CHIPS[kind].dimensions]
    counts = [topology_of(f"{kind}:{shape}").count for shape in shapes]
    assert counts == sorted(counts) and [each.count for each in Topology(kind, shapes[0]).larger] == counts[1:]


def test_every_way_over_all_devices_is_tried_once():
    found = ways(topology_of("v5e:2x4"))
    assert len(found) == len(set(found))
    for rules, mesh in found:
        assert sharding.mesh_size(mesh) == 8 or mesh == "data=1"
        spec = fx.zoo.toy(width=64, heads=8, depth=8, inner=64, **({"ffn": "moe"} if "ep" in rules else {}))
        if "ep" in rules:
            spec = replaced(spec, MoE, replace(spec.stack.blocks[0].ffn, experts=8))
        sharding.plan(spec, mesh_of(topology_of("v5e:2x4"), mesh), sharding.PRESETS[rules])
    assert {rules for rules, _ in found} == set(sharding.PRESETS)


def test_what_fits_comes_first_and_the_fastest_of_it():
    candidate = candidate_of("llama2-7b", [], "v5e:4x4", "", "", "")
    found, refused = ranked(candidate, ways(candidate.topology, USUAL))
    fits = [each.fits for each in found]
    assert fits == sorted(fits, reverse=True) and fits[0] and not fits[-1]
    times = [each.time for each in found if each.fits]
    assert times == sorted(times) and found[0].candidate == candidate
    assert set(refused.values()) == {"the rules cut experts, and the model has none; use rules without ep"}


def test_the_cheapest_change_that_fits_is_found(monkeypatch):
    """A device with room for a little less: blocks computed again are tried first, then parts of a batch."""
    candidate = toy(width=128, depth=8, batch=64, length=64)
    first = by_formulas(candidate)
    words = [words for words, _ in changes(candidate)]
    assert words[:2] == ["remat=true", "remat=true and accumulate=2"]
    again = by_formulas(next(other for words, other in changes(candidate) if words == "remat=true"))
    chip = CHIPS["h100"]
    monkeypatch.setitem(CHIPS, "h100", chip.__class__((first.used + again.used) / 2 / 0.9, *_rest(chip)))
    monkeypatch.setattr("train.plan.advice.MARGIN", 0.9)
    found = remedy(candidate, ask=False)
    assert found is not None and found.words == "remat=true"


def _rest(chip):
    return chip.flops, chip.bandwidth, chip.link, chip.dimensions, chip.compiled


def test_a_model_that_fits_nothing_small_is_told_what_to_buy(capsys):
    code, out, _ = command("mixtral-8x7b", "--topology", "v5e:2x2", capsys=capsys)
    assert code == 1 and "it does not fit" in out
    assert "with v5e:8x8, mesh=" in out and "formulas say" in out


def test_a_plan_is_printed_and_is_json(capsys):
    code, out, _ = command("gpt2", "--topology", "v5e:2x2", "--set", "batch=8", capsys=capsys)
    assert code == 0 and "it fits" in out and "a training step of 8 x 1,024 tokens in bfloat16" in out
    code, out, _ = command("gpt2", "--topology", "v5e:2x2", "--json", capsys=capsys)
    told = json.loads(out)
    assert told["fits"] and told["remedy"] is None and told["memory"]["parameters"] > 0
    code, out, _ = command("gpt2", "--topology", "h100:4", "--decode", "batch=64,length=1024", "--json", capsys=capsys)
    assert json.loads(out)["program"] == "decoding step"
    code, out, _ = command("gpt2", "--topology", "v5e:2x2", "--search", capsys=capsys)
    assert code == 0 and " fsdp     fits " in out
    assert "embed.table: axis vocab of size 50257 is not divisible" in out and out.count("the model has none") == 1


def test_a_configuration_is_planned_as_it_would_run(tmp_path, capsys):
    file = tmp_path / "small.toml"
    file.write_text("[model]\nwidth = 64\nheads = 4\n[data]\nbatch = 8\n[run]\nmesh = 'data=4,model=2'\nrules = 'tp'\n")
    code, out, _ = command(str(file), "--topology", "h100:8", capsys=capsys)
    assert code == 0 and "mesh data=4,model=2, rules tp" in out and "activations kept for the backward pass" in out
    code, out, _ = command(str(file), "--topology", "h100:8", "--set", "remat=true", capsys=capsys)
    assert "activations computed again in the backward pass" in out


REFUSED = {
    "v5e:3x3": (["gpt2", "--topology", "v5e:3x3"], "topology='v5e:3x3' is none; v5e comes as v5e:1x1, v5e:2x2, "),
    "no chip": (["gpt2", "--topology", "v7:2x2"], "chip='v7' is unknown; use one of v5e, v5p, v6e, a100, h100, h200"),
    "mesh": (["gpt2", "--topology", "v5e:2x2", "--mesh", "data=8", "--rules", "dp"], "takes 8 devices, v5e:2x2 has 4"),
    "mesh alone": (["gpt2", "--topology", "v5e:2x2", "--mesh", "data=8"], "mesh=data=8 cannot be: v5e:2x2 has 4"),
    "model": (["gpt3000", "--topology", "v5e:2x2"], "model='gpt3000' is unknown"),
    "rules": (["gpt2", "--topology", "v5e:2x2", "--rules", "zero"], "rules='zero' is unknown"),
    "sizes": (["gpt2", "--topology", "v5e:2x2", "--decode", "batch=64"], "decode='batch=64' is not like batch=64,"),
    "no rows": (["gpt2", "--topology", "v5e:2x2", "--decode", "batch=0,length=8"], "has batch=0; use 1 or more"),
    "batch": (["gpt2", "--topology", "v5e:2x2", "--rules", "dp", "--set", "batch=6"], "batch=6 is not divisible"),
    "grid": (["configs/ladder.toml", "--topology", "v5e:2x2"], "has a grid of 72 cells; a plan is of one run"),
    "no cache": (
        ["bert-base-mlm", "--topology", "h100:1", "--decode", "batch=1,length=8", "--set", "objective=masked"],
        "sees those after it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence(name, capsys):
    words, sentence = REFUSED[name]
    code, out, err = command(*words, capsys=capsys)
    assert code == 2 and not out and sentence in err and err.count("\n") == 1


def test_what_a_refusal_of_the_compiler_would_take_is_read():
    one = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 112.31G of 15.75G hbm. Exceeded hbm"
    other = (
        "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (256.00G) exceeds available HBM (15.75G)."
    )
    assert wanted(one) == 112.31 * 2**30 and wanted(other) == 256 * 2**30
    assert wanted("INTERNAL: Used 3G of patience") is None


def test_bounds_are_named_by_what_takes_longest():
    estimate = by_formulas(toy())
    assert estimate.time == max(estimate.seconds.values()) == estimate.seconds[estimate.bound]
    assert set(estimates.as_data(estimate)["seconds"]) == {"compute", "memory", "links", "at_least", "bound"}
