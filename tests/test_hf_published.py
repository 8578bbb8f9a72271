"""config.json of published models, read as published: exact sizes, the models of the zoo, their rotations."""

import math

import pytest

import fxformer as fx
from fxformer.hf.families import difference, family_of
from fxformer.hf.family import settings, unread
from fxformer.ops.rotary import Linear, Llama3, Rotary, YaRN
from tests.published import PUBLISHED

# Switch's experts take a share of the tokens in the paper, and any number in transformers.
IN_ZOO = [name for name in PUBLISHED if name in fx.zoo.names() and not name.startswith("switch")]
OTHER_INIT = ("deepseek", "bert")  # whose papers print another one than config.json


def read(name):
    config = PUBLISHED[name].config
    family = family_of(config)
    return family.read(settings(family, config))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_has_its_published_size(name):
    assert fx.count(read(name)) == PUBLISHED[name].count


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_word_of_a_published_config_is_unknown(name):
    config = PUBLISHED[name].config
    family = family_of(config)
    assert unread(family, config, settings(family, config)) == []


@pytest.mark.parametrize("name", IN_ZOO)
def test_a_published_config_is_the_model_of_the_zoo(name):
    spec, ours = read(name), fx.zoo.get(name)
    assert difference(spec, ours) is None if name.startswith(OTHER_INIT) else spec == ours


@pytest.mark.parametrize(
    ("name", "rotary"),
    [
        ("codellama-7b", Rotary(width=128, base=1e6)),
        ("llama3.1-8b", Rotary(width=128, base=5e5, scaling=Llama3(factor=8.0, original_length=8192))),
        ("llama3.2-1b", Rotary(width=64, base=5e5, scaling=Llama3(factor=32.0, original_length=8192))),
        ("mistral-7b-v0.3", Rotary(width=128, base=1e6)),
        ("mistral-nemo", Rotary(width=128, base=1e6)),
        ("qwen3-8b", Rotary(width=128, base=1e6)),
        ("qwen3-8b-yarn", Rotary(width=128, base=1e6, scaling=YaRN(factor=4.0, original_length=32768))),
        ("chatglm2-6b", Rotary(width=64, pairing="interleaved")),
        ("chatglm2-6b-32k", Rotary(width=64, pairing="interleaved", scaling=Linear(factor=50.0))),
        ("chatglm3-6b", Rotary(width=64, pairing="interleaved")),
        ("chatglm3-6b-32k", Rotary(width=64, pairing="interleaved", base=5e5)),
        ("glm-4-9b", Rotary(width=64, pairing="interleaved")),
        ("glm-4-9b-code", Rotary(width=64, pairing="interleaved")),
        ("glm-4-9b-chat-code", Rotary(width=64, pairing="interleaved", base=5e6)),
    ],
)
def test_a_published_config_rotates_as_published(name, rotary):
    assert {block.attention.rotary for block in read(name).stack.blocks} == {rotary}


def test_yarn_also_scales_the_logits():
    (scale,) = {block.attention.scale for block in read("qwen3-8b-yarn").stack.blocks}
    assert scale == pytest.approx((0.1 * math.log(4) + 1) ** 2 / math.sqrt(128), rel=1e-12)
