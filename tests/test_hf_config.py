"""config.json as users bring it: what is known is checked, what others read refused, the rest named in one warning.

What the settings compute is compared with the real classes in tests/parity.
"""

import json
import math
import resource
import shutil
import time
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import fxformer as fx
from fxformer.hf.families import FAMILIES, family_of
from fxformer.hf.family import FIXED, INERT, settings, unread
from fxformer.hf.foreign import FOREIGN, NEUTRAL
from fxformer.hf.kinds import KINDS
from fxformer.ops.rotary import Dynamic, Linear
from tests.parity.test_golden import GOLDEN
from tests.test_hf import edit_config, model, noise

MUTATIONS = 2_000  # over all families
SECONDS, BYTES = 10, 10**9  # that one of them may take
TINY = {
    **{
        name: name
        for name in (
            "gpt2",
            "llama",
            "mistral",
            "mixtral",
            "qwen3",
            "olmo2",
            "gemma2",
            "glm",
            "bert",
            "t5",
            "t5-encoder",
        )
    },
    **{"albert": "albert-mlm-groups", "gpt_oss": "gpt-oss", "switch_transformers": "switch"},
    **{"deepseek_v2": "deepseek-v2", "deepseek_v3": "deepseek-v3", "deepseek_v32": "deepseek-v3.2"},
}
THUDM = {"chatglm": "chatglm-6b", "chatglm2": "chatglm2-6b", "glm-130b": "glm-130b"}


def folder_of(name: str, path: Path) -> Path:
    """A tiny checkpoint of a family."""
    if name in THUDM:
        spec = fx.zoo.tiny(THUDM[name])
        fx.hf.save(spec, noise(spec), path / "model")
    else:
        shutil.copytree(GOLDEN / TINY[name], path / "model", ignore=shutil.ignore_patterns("expected*"))
    return path / "model"


def config_of(name: str) -> dict:
    """The config.json of a tiny model of transformers."""
    return json.loads((GOLDEN / TINY[name] / "config.json").read_text())


def understood(name: str, changes: dict) -> tuple[fx.Transformer, list[str]]:
    """What a config with these changes says, and the settings in it that nothing reads."""
    config = {**config_of(name), **changes}
    family = family_of(config)
    read = settings(family, config)
    return family.read(read), unread(family, config, read)


def yarn(**more: object) -> dict:
    return {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, **more}}


FIRST = "rope_scaling.original_max_position_embeddings"
# Settings that change nothing, and those of them of which a warning tells.
SAME = [
    ("bert", {"output_past": True}, []),
    ("bert", {"gradient_checkpointing": False, "directionality": "bidi", "pooler_type": "first_token_transform"}, []),
    ("gpt2", {"hidden_size": 30, "num_attention_heads": 5, "num_hidden_layers": 2}, []),
    ("t5", {"hidden_size": 18, "head_dim": 4, "num_attention_heads": 5}, []),
    ("mixtral", {"num_experts": 5}, []),
    ("llama", {"tf_legacy_loss": False}, ["tf_legacy_loss"]),
    ("llama", {"unsloth_fixed": True, "internal_version": 1}, ["unsloth_fixed", "internal_version"]),
    ("llama", {"_attn_implementation_autoset": True, "is_decoder": True}, ["_attn_implementation_autoset"]),
    ("llama", {"transformers.js_config": {"dtype": "q4"}}, ["transformers.js_config"]),
    ("llama", {"rope_scaling": {"rope_type": "default", "factor": 1.0}}, ["rope_scaling.factor"]),
    ("llama", {"rope_scaling": {"type": "default", "original_max_position_embeddings": 16}}, [FIRST]),
    ("llama", {"partial_rotary_factor": 1.0, "pruned_heads": None}, []),
    ("llama", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
    ("llama", {"rope_scaling": {}, "rope_parameters": None}, []),
    ("llama", {"logit_scale": 1.0, "alibi": False, "num_local_experts": 0, "use_sliding_window": False}, []),
    ("llama", {"text_config": None, "sliding_window": None}, []),
    ("gemma2", {"use_bidirectional_attention": False}, []),
    (
        "mixtral",
        {"moe_frequency": 1, "sequence_parallel_enabled": False},
        ["moe_frequency", "sequence_parallel_enabled"],
    ),
]
# Pairs of settings that say one model: the second is the plain way to say it.
ALIKE = [
    ("llama", yarn(finetuned=True), yarn(), ["rope_scaling.finetuned"]),
    ("llama", yarn(attn_factor=0.5), yarn(), ["rope_scaling.attn_factor"]),
    ("qwen3", yarn(attn_factor=0.8782488562869419), yarn(), ["rope_scaling.attn_factor"]),
    (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "original_max_position_embeddings": 16, "mscale": 1.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        [FIRST, "rope_scaling.mscale"],
    ),
    ("llama", {**yarn(), "original_max_position_embeddings": 32}, yarn(original_max_position_embeddings=32), []),
    ("llama", {"num_key_value_heads": None}, {"num_key_value_heads": 8}, []),
    ("mistral", {"num_key_value_heads": None}, {"num_key_value_heads": 6}, []),
    ("mixtral", {"num_key_value_heads": None, "hidden_size": 30}, {"num_key_value_heads": 6, "hidden_size": 30}, []),
    ("qwen3", {"num_key_value_heads": None}, {"num_key_value_heads": 6}, []),
    ("gpt2", {"n_head": None, "num_attention_heads": 6}, {"n_head": 6}, []),
    ("deepseek_v3", {"n_routed_experts": None, "num_local_experts": 16}, {"n_routed_experts": 16}, []),
]
REFUSED = [
    ("gpt2", {"hidden_size": 48}, "n_embd=30 and hidden_size=48, which are one setting"),
    ("llama", {"logit_scale": 0.0625}, "logit_scale=0.0625, which changes the logits of other models"),
    ("llama", {"no_rope_layers": [0, 1]}, "no_rope_layers=.*, which changes the logits"),
    ("llama", {"n_embd": 48}, "n_embd=48, which changes the logits"),
    ("llama", {"mamba_d_state": 16}, "mamba_d_state=16, which changes the logits"),
    ("llama", {"rope_parameters": ""}, "rope_parameters='', which makes no model; give an object"),
    ("llama", {"rope_scaling": -0.0}, "rope_scaling=-0.0, which makes no model; give an object"),
    ("llama", {"rope_scaling": False}, "rope_scaling=False, which makes no model; give an object"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rotation for 'full_attention' alone"),
    ("llama", {"rope_scaling": {"rope_type": "proportional"}}, "slowest channel pairs of a head where they are"),
    ("llama", {"rope_scaling": {"rope_type": "mrope"}}, "three positions, of time, height and width"),
    ("llama", {"rope_scaling": {"rope_type": ["yarn"]}}, r"rope_type=\['yarn'\], which makes no model; give a name"),
    (
        "llama",
        {"partial_rotary_factor": 0.5, **yarn()},
        "0.5 with rope_type='yarn', but this model rotates whole heads",
    ),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 0.5}}, "factor=0.5 has no base for every length"),
    ("llama", yarn(rope_theta=1.0), "YaRN of base=1.0 turns all pairs alike"),
    ("llama", yarn(mscale=1.0, mscale_all_dim=-10 / math.log(4.0)), "mscale_all_dim=-7.2.*, a magnitude of 0"),
    ("llama", {"rms_norm_eps": float("inf")}, "rms_norm_eps=inf, which makes no model"),
    ("llama", {"rope_theta": 10**400}, "rope_theta=1000.*…, which makes no model"),
    ("llama", {"hidden_act": ["silu"]}, r"hidden_act=\['silu'\], which makes no model; give a name"),
    (
        "llama",
        {"hidden_size": 2**31},
        "hidden_size=2147483648, which makes no model; give a whole number from 1 to 2147",
    ),
    ("mistral", {"sliding_window": float("nan")}, "sliding_window=nan, which makes no model"),
    ("deepseek_v3", {"routed_scaling_factor": float("nan")}, "routed_scaling_factor=nan, which makes no model"),
    ("qwen3", {"layer_types": [["full_attention"], {}]}, "layer_types=.*, which makes no model; give a list of names"),
    ("bert", {"architectures": [{}]}, "architectures=.*, which makes no model; give a list of names"),
    ("albert", {"id2label": [0, 1]}, "id2label=.*, which makes no model; give an object"),
    ("t5", {"num_decoder_layers": 0}, "num_decoder_layers=0, which makes no model"),
    ("t5", {"feed_forward_proj": {}}, "feed_forward_proj={}, which makes no model; give a name"),
    ("switch_transformers", {"router_dtype": "bfloat16"}, "the router rounds its logits, and tokens near a tie go to"),
]


def ids(cases: list) -> list[str]:
    return [f"{name}-{','.join(changes)}" for name, changes, *_ in cases]


@pytest.mark.parametrize(("name", "changes", "said"), SAME, ids=ids(SAME))
def test_what_changes_nothing_is_accepted(name, changes, said):
    spec, beside = understood(name, changes)
    assert spec == understood(name, {})[0]
    assert beside == said


@pytest.mark.parametrize(("name", "changes", "plain", "said"), ALIKE, ids=ids(ALIKE))
def test_two_ways_to_say_one_model_are_one(name, changes, plain, said):
    spec, beside = understood(name, changes)
    assert spec == understood(name, plain)[0] != understood(name, {})[0]
    assert beside == said


@pytest.mark.parametrize(("name", "changes", "sentence"), REFUSED, ids=ids(REFUSED))
def test_what_would_change_the_model_is_refused(name, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        fx.count(understood(name, changes)[0])


CASES = Path(__file__).parent.parent.parent / "shared" / "cases" / "configs.json"


@pytest.mark.skipif(not CASES.exists(), reason="the cases lie beside the repository")
def test_the_cases_of_users_come_out_as_they_should():
    """Whether they are refused; what they compute is compared in the tests above and in tests/parity."""
    for case in json.loads(CASES.read_text()):
        family, changes = case["family"], dict(case["settings"])
        if "equal to n_embd" in changes.values():
            changes = {"hidden_size": 30, "num_attention_heads": 5}
        if "NaN as JSON" in changes.values():
            changes = {"rms_norm_eps": float("nan")}
        if "quantization_config" in changes or family == "chatglm2":
            continue  # which are read beside the settings, and by tests of their own
        if case["want"] == "sentence":
            with pytest.raises(ValueError, match=next(iter(changes))):
                understood(family, changes)
        else:
            understood(family, changes)


# One warning, one table.


def test_what_nothing_reads_is_said_once_and_refused_by_strict(tmp_path):
    folder = model("llama-7b", tmp_path)
    before = fx.hf.load(folder, strict=True)[0]
    edit_config(folder, tf_legacy_loss=False, moe_frequency=1, rope_scaling={"type": "default", "finetuned": True})
    with pytest.warns(
        UserWarning, match=r"tf_legacy_loss, moe_frequency, rope_scaling\.finetuned, which nothing"
    ) as said:
        assert fx.hf.load(folder)[0] == before
    assert len(said) == 1 and said[0].filename == __file__
    with pytest.raises(ValueError, match=r"_loss, moe_frequency, rope_scaling\.finetuned, which is"):
        fx.hf.load(folder, strict=True)


def test_published_settings_are_known(tmp_path):
    """Nothing is said of what transformers itself writes."""
    for name in TINY:
        assert understood(name, {})[1] == []


def test_every_setting_that_a_family_reads_has_a_type_and_a_range():
    for name, family in FAMILIES.items():
        for key, default in family.defaults.items():
            made = None if default is None else KINDS[key].make(default)
            assert key in KINDS and made == default, f"{name} reads {key}={default!r}"
        assert set(family.synonyms.values()) | family.optional | family.unseen <= set(family.defaults)


def test_no_setting_is_both_read_by_others_and_without_effect():
    assert not INERT & (set(NEUTRAL) | set(FOREIGN))
    assert not set(FIXED) & (set(NEUTRAL) | set(FOREIGN) | INERT)


# Buffers.


@pytest.mark.parametrize("buffer", ["inv_freq", "original_inv_freq", "cos_cached", "sin_cached"])
@pytest.mark.parametrize("place", ["model.rotary_emb", "rotary_emb", "model.layers.1.self_attn.rotary_emb"])
def test_tables_of_rotation_are_read_past_at_any_level(place, buffer, tmp_path):
    folder = folder_of("llama", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, f"{place}.{buffer}": np.ones(4, np.float32)}, folder / "model.safetensors")
    assert fx.hf.load(folder)[0] == understood("llama", {})[0]


# Sizes and files.


@pytest.mark.parametrize("size", [10**9, 2**31 - 1, 10**6])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        *(("gpt2", name) for name in ("n_layer", "n_embd", "n_head", "vocab_size", "n_positions", "n_inner")),
        *(("llama", name) for name in ("num_hidden_layers", "num_attention_heads", "head_dim", "intermediate_size")),
        *(("mixtral", name) for name in ("num_local_experts", "num_key_value_heads")),
        *(("gpt_oss", name) for name in ("num_local_experts", "num_hidden_layers")),
        *(("albert", name) for name in ("num_hidden_layers", "num_hidden_groups", "inner_group_num")),
        *(("t5", name) for name in ("num_layers", "num_decoder_layers", "d_kv", "relative_attention_num_buckets")),
        *(("switch_transformers", name) for name in ("num_experts", "num_layers")),
        *(("deepseek_v3", name) for name in ("n_routed_experts", "n_shared_experts", "qk_rope_head_dim")),
        *(("deepseek_v32", name) for name in ("index_n_heads", "num_hidden_layers")),
    ],
)
def test_a_size_beyond_the_stored_tensors_is_refused_before_anything_is_built(family, name, size, tmp_path):
    folder = folder_of(family, tmp_path)
    edit_config(folder, **{name: size})
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(ValueError, match=f"config.json has {name}={size}, "):
        fx.hf.load(folder)
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1 and peak < 2**24


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[" * 100_000 + "]" * 100_000, "nests its lists and objects too deeply"),
        ('{"model_type": ' + '{"a":' * 100_000 + "1" + "}" * 100_001, "nests its lists and objects too deeply"),
        ('{"model_type": "llama", "rms_norm_eps": NaN}', "is not JSON: it holds NaN"),
        ('{"model_type": "llama", "anything": [-Infinity]}', "is not JSON: it holds -Infinity"),
        ('{"model_type": "llama", "rms_norm_eps": 1e999}', "rms_norm_eps=inf, which makes no model"),
        ('{"vocab_size": 1' + "0" * 5000 + "}", "is not JSON"),
        ("[]", "holds no JSON object"),
        ("\ud800", "is not JSON"),
    ],
    ids=["deep list", "deep object", "NaN", "infinity", "overflow", "long number", "list", "no UTF-8"],
)
def test_a_file_that_is_no_json_is_refused(content, sentence, tmp_path):
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=sentence):
        fx.hf.load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_in_the_place_of_a_file_is_refused(name, tmp_path):
    folder = folder_of("llama", tmp_path)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        fx.hf.load(folder)


@pytest.mark.parametrize("place", ["", ".", "..", "a/b", "a\0b", "\ud800"])
def test_an_index_names_files_of_its_folder(place, tmp_path):
    folder = folder_of("llama", tmp_path)
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, place)}))
    with pytest.raises(ValueError, match="has no weight_map from each tensor to a file beside it"):
        fx.hf.load(folder)


# Settings that used to be refused are saved again as they were.


@pytest.mark.parametrize(
    "changes", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}], ids=["no", "inverse"]
)
def test_the_scales_of_gpt2_are_written_as_they_are_read(changes, tmp_path):
    spec = understood("gpt2", changes)[0]
    assert len({block.attention for block in spec.stack.blocks}) == (2 if "by_inverse" in str(changes) else 1)
    fx.hf.save(spec, noise(spec), tmp_path / "saved")
    assert fx.hf.load(tmp_path / "saved", strict=True)[0] == spec


def test_dynamic_scaling_is_written_as_it_is_read(tmp_path):
    spec = understood("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 9})[0]
    assert spec.stack.blocks[0].attention.rotary.scaling == Dynamic(factor=2.0, original_length=9)
    fx.hf.save(spec, noise(spec), tmp_path / "saved")
    assert fx.hf.load(tmp_path / "saved", strict=True)[0] == spec


@pytest.mark.parametrize("changes", [{"base": 500_000.0}, {"scaling": Linear(factor=50.0)}], ids=["base", "linear"])
def test_the_ratio_of_chatglm_is_written_as_it_is_read(changes, tmp_path):
    spec = fx.zoo.tiny("chatglm2-6b")
    (group,) = spec.stack.groups
    (block,) = group.blocks
    attention = replace(block.attention, rotary=replace(block.attention.rotary, **changes))
    groups = (replace(group, blocks=(replace(block, attention=attention),)),)
    spec = replace(spec, stack=replace(spec.stack, groups=groups))
    fx.hf.save(spec, noise(spec), tmp_path / "saved")
    assert fx.hf.load(tmp_path / "saved", strict=True)[0] == spec


# Whatever stands there, it is a model or a sentence.

LEAVES = st.one_of(
    st.sampled_from([None, True, False, "", "gelu", "silu", "48", "full_attention", "yarn", "dynamic", 10**400]),
    st.integers(-3, 9),
    st.sampled_from([sign * 2**power + more for power in (10, 31, 32, 63) for sign in (1, -1) for more in (-1, 0, 1)]),
    st.floats(),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(st.sampled_from(["full_attention", "sliding_attention", "dense", "sparse"]), max_size=4),
        st.dictionaries(st.sampled_from(["rope_type", "type", "factor", "rope_theta", "mscale", "a", "0"]), inner),
    ),
    max_leaves=5,
)
COMMON = (
    "quantization_config",
    "rope_scaling",
    "rope_parameters",
    "rope_theta",
    "layer_types",
    "num_key_value_heads",
    "head_dim",
    "id2label",
)


@pytest.fixture(scope="module", params=FAMILIES)
def family_folder(request, tmp_path_factory):
    """(config.json, its content) of a tiny checkpoint of each family."""
    folder = folder_of(request.param, tmp_path_factory.mktemp(request.param))
    return folder / "config.json", json.loads((folder / "config.json").read_text())


@bounded(
    max_examples=-(-MUTATIONS // len(FAMILIES)),
    deadline=1000 * SECONDS,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_any_config_is_a_model_or_one_sentence(family_folder, data):
    file, config = family_folder
    known = {*config, *COMMON, *FAMILIES[family_name(config)].defaults}
    changed = json.loads(json.dumps(config))
    for _ in range(data.draw(st.sampled_from([1, 1, 2, 3]))):
        inner = [value for value in changed.values() if isinstance(value, dict) and value]
        place = data.draw(st.sampled_from(inner)) if inner and data.draw(st.booleans()) else changed
        key = data.draw(st.sampled_from(sorted(known if place is changed else place)))
        place[key] = data.draw(VALUES)
    file.write_text(json.dumps(changed))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            fx.hf.load(file.parent)
        except ValueError as error:
            assert "\n" not in str(error)
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < BYTES


def family_name(config: dict) -> str:
    return next(name for name, family in FAMILIES.items() if family is family_of(config))
