"""Parameters of published models at their exact size, by shapes alone."""

import pytest

import fxformer as fx

PUBLISHED = {
    "transformer-base": 63_082_496,
    "transformer-big": 214_245_376,
    "bert-base": 109_482_240,
    "bert-base-chinese": 102_267_648,
    "bert-base-mlm": 109_514_298,
    "bert-base-pretraining": 110_106_428,
    "bert-large": 335_141_888,
    "bert-large-pretraining": 336_226_108,
    "albert-base": 11_683_584,
    "albert-base-pretraining": 11_683_584 + 128_688 + 1_538,  # the masked head, and two labels of 768 and a bias
    "albert-large": 17_683_968,
    "albert-xlarge": 58_724_864,
    "albert-xxlarge": 222_595_584,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-small": 76_961_152,
    "t5-v1.1-base": 247_577_856,
    "t5-v1.1-large": 783_150_080,
    "t5-v1.1-xl": 2_849_757_184,
    "t5-v1.1-xxl": 11_135_332_352,
    "glm-base": 109_338_624,
    "glm-large": 334_688_256,
    "glm-2b": 1_920_122_880,
    "glm-10b": 9_880_682_496,
    "glm-130b": 128_697_794_560,
    "chatglm-6b": 6_173_286_400,
    "chatglm2-6b": 6_243_584_000,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-small": 125_226_240,
    "gpt3-medium": 355_871_744,
    "gpt3-large": 760_300_032,
    "gpt3-xl": 1_315_723_264,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_853_386_240,
    "gpt3-175b": 174_604_259_328,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-34b": 33_743_970_304,
    "llama2-70b": 68_976_648_192,
    "gshard-600b": 619_333_734_400,  # the paper prints 600B; see the page for what of it is certain
    "switch-base-8": 619_339_008,
    "switch-base-16": 1_072_397_568,
    "switch-base-32": 1_978_514_688,
    "switch-base-64": 3_790_748_928,
    "switch-base-128": 7_415_217_408,
    "switch-base-256": 14_664_154_368,
    "switch-large-128": 26_309_291_008,
    "switch-xxl-128": 394_675_073_024,
    "glam-8b": 143_860_731_904,  # the paper prints 143B and 1.2T
    "glam-64b": 1_161_756_418_048,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.2": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_419_200,
    "deepseek-v3-mtp": 671_026_419_200 + 11_610_068_224,
    "deepseek-v3.2": 671_026_419_200 + 61 * 13_959_424,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "olmo2-1b": 1_484_916_736,
    "olmo2-7b": 7_298_617_344,
    "olmo2-13b": 13_716_198_400,
    "olmo2-32b": 32_234_279_936,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
}


@pytest.mark.parametrize("name", fx.zoo.names())
def test_a_published_model_has_the_published_number_of_parameters(name):
    """Every name of the zoo has its number here."""
    assert fx.count(fx.zoo.get(name)) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("choices", "inner", "parts"),
    [
        ({"norm": "rms"}, 40, {"norm": 24}),
        ({"norm": "layer"}, 40, {"norm": 2 * 24}),
        ({"norm": "none"}, 40, {"norm": 0}),
        ({"kv_heads": 1}, 40, {"norm": 24, "key and value": 2 * 24 * 8}),
        ({"ffn": "glu"}, 40, {"norm": 24, "ffn": 3 * 24 * 40}),
        ({"head": "untied"}, 40, {"norm": 24, "head": 24 * 256}),
        ({"position": "learned", "length": 32}, 40, {"norm": 24, "position": 32 * 24}),
        ({"position": "t5"}, 40, {"norm": 24, "bias": 32 * 3}),
        ({"qk_norm": "rms"}, 40, {"norm": 24, "qk": 2 * 8}),
    ],
    ids=str,
)
def test_a_toy_counts_what_its_formulas_add_up_to(choices, inner, parts):
    """Depth 2, width 24, 3 heads of 8, pre-norm: vocabulary, then attention, feed-forward and norms of each block."""
    block = 2 * 24 * 24 + parts.get("key and value", 2 * 24 * 24) + parts.get("ffn", 2 * 24 * inner)
    block += parts.get("qk", 0) + 2 * parts["norm"]
    outside = 256 * 24 + parts.get("head", 0) + parts.get("position", 0) + parts.get("bias", 0) + parts["norm"]
    assert fx.count(fx.zoo.toy(width=24, depth=2, heads=3, inner=inner, **choices)) == outside + 2 * block
