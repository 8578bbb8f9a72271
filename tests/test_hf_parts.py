"""Parts of models in checkpoints: without a head, or with one that says no tokens, each as a class of transformers.

What they say is compared with those classes in tests/parity.
"""

import json
import re
from dataclasses import replace

import pytest

import fxformer as fx
from fxformer.hf.families import FAMILIES, difference
from fxformer.layers.head import Bare, Labels, Pooler, Untied
from fxformer.layers.project import Normal
from fxformer.ops.mask import Causal
from tests.parity.test_golden import GOLDEN
from tests.test_hf import assert_same, edit_config, edit_tensors, noise

CLASSES = {
    "bert-decoder": "BertLMHeadModel",
    "bert-text-labels": "BertForSequenceClassification",
    "bert-token-labels": "BertForTokenClassification",
    "bert-span": "BertForQuestionAnswering",
    "albert-text-labels": "AlbertForSequenceClassification",
    "albert-span": "AlbertForQuestionAnswering",
    "gpt2-token-labels": "GPT2ForTokenClassification",
    "llama-bare": "LlamaModel",
    "llama-token-labels": "LlamaForTokenClassification",
    "qwen3-text-labels": "Qwen3ForSequenceClassification",
    "t5-encoder": "T5EncoderModel",
}
DECODERS = ("gpt2", "llama-7b", "mistral-7b", "mixtral-8x7b", "qwen3-0.6b", "olmo2-7b", "gemma2-2b", "gpt-oss-20b",
            "deepseek-v2-lite", "deepseek-v3", "deepseek-v3.2")  # fmt: skip
HEADS = (Bare(), Labels(labels=3, bias=False), Labels(labels=5))


def of_name(folder):
    """The class that config.json names."""
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    return name


def saved(spec, tmp_path):
    """The folder of a model with noise in every parameter, and the noise."""
    params = noise(spec)
    fx.hf.save(spec, params, tmp_path / "model")
    return tmp_path / "model", params


@pytest.mark.parametrize("name", CLASSES)
def test_a_part_is_saved_as_the_class_that_it_was(name, tmp_path):
    assert of_name(GOLDEN / name) == CLASSES[name]
    spec, params = fx.hf.load(GOLDEN / name)
    fx.hf.save(spec, params, tmp_path / "model")
    assert of_name(tmp_path / "model") == CLASSES[name]
    read_spec, read_params = fx.hf.load(tmp_path / "model")
    assert read_spec == spec
    assert_same(read_params, params)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_is_stored_with_each_head_that_its_classes_have(name, tmp_path):
    classes = set()
    for i, head in enumerate(HEADS):
        spec = replace(fx.zoo.tiny(name), head=head)
        try:
            folder, params = saved(spec, tmp_path / str(i))
        except ValueError as error:  # transformers has no such class of this one
            assert re.search(r"none of .* has the parts (token_)?score", str(error)), error
            continue
        read_spec, read_params = fx.hf.load(folder)
        assert difference(read_spec, spec) is None
        assert_same(read_params, params)
        classes.add(of_name(folder))
    family = FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]]
    assert classes == family.classes.keys() - {family.architecture}


@pytest.mark.parametrize("name", ["bert-base", "albert-base"])
def test_an_encoder_may_be_stored_without_its_pooler(name, tmp_path):
    """As embedding models are; `BertModel(add_pooling_layer=False)`."""
    folder, params = saved(fx.zoo.tiny(name), tmp_path)
    edit_tensors(folder, lambda tensors: {key: t for key, t in tensors.items() if ".pooler." not in key})
    spec, read = fx.hf.load(folder)
    assert spec.pooler is None
    assert_same(read, {key: params[key] for key in ("embed", "stack")})
    fx.hf.save(spec, read, tmp_path / "again")
    assert of_name(tmp_path / "again") == of_name(folder)
    assert fx.hf.load(tmp_path / "again")[0] == spec


def test_a_head_that_is_stored_beside_a_bare_model_is_read(tmp_path):
    folder, params = saved(fx.zoo.tiny("llama-7b"), tmp_path)
    edit_config(folder, architectures=["LlamaModel"])
    spec, read = fx.hf.load(folder)
    assert type(spec.head) is Untied
    assert_same(read, params)


def test_labels_of_an_encoder_need_its_pooler(tmp_path):
    folder, _ = saved(replace(fx.zoo.tiny("bert-base"), pooler=Pooler(labels=4, init=Normal())), tmp_path)
    edit_tensors(folder, lambda tensors: {key: t for key, t in tensors.items() if ".pooler." not in key})
    with pytest.raises(ValueError, match=r"lacks tensor 'bert\.pooler\.dense\.weight' and 1 more$"):
        fx.hf.load(folder)


def test_a_decoder_of_bert_sees_what_is_before():
    assert fx.hf.load(GOLDEN / "bert-decoder")[0].stack.blocks[0].attention.mask == Causal()


def test_what_is_stored_of_a_decoder_beside_an_encoder_alone_is_passed_over(tmp_path):
    folder, params = saved(fx.zoo.tiny("t5-small"), tmp_path)
    edit_config(folder, architectures=["T5EncoderModel"])
    spec, read = fx.hf.load(folder)
    assert spec.encoder is None and spec.head == Bare()
    assert_same(read, {"embed": params["embed"], "stack": params["encoder"]})


@pytest.mark.parametrize(
    ("name", "architecture", "renamed", "sentence"),
    [
        ("llama", "LlamaForQuestionAnswering", ("lm_head", "qa_outputs"), "LlamaForCausalLM, LlamaModel, "),
        ("bert", "BertForMultipleChoice", ("bert.pooler", "classifier"), "BertModel, BertForMaskedLM, "),
        ("t5", "T5ForTokenClassification", ("decoder.final_layer_norm", "classifier"), "T5ForConditionalGeneration"),
        ("switch", "SwitchTransformersEncoderModel", ("decoder.", "x."), "SwitchTransformersForConditionalGeneration"),
    ],
)
def test_another_class_is_refused_with_those_that_are_read(name, architecture, renamed, sentence, tmp_path):
    folder, _ = saved(fx.hf.load(GOLDEN / name)[0], tmp_path)
    edit_config(folder, architectures=[architecture])
    edit_tensors(folder, lambda tensors: {key.replace(*renamed): t for key, t in tensors.items()})
    with pytest.raises(ValueError, match=f"; config.json says {architecture}, and of this family {sentence}.*are read"):
        fx.hf.load(folder)


# What no spec says.


@pytest.fixture
def source(tmp_path):
    """A folder of Mistral's, with all that stands beside a model."""
    folder, _ = saved(fx.hf.load(GOLDEN / "mistral-tied")[0], tmp_path)
    edit_config(folder, model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=None)
    edit_config(folder, eos_token_id=[2, 7], bos_token_id=1, pad_token_id=0, max_position_embeddings=131072)
    edit_config(folder, quantization_config=None, vocab_size=61, torch_dtype="bfloat16", transformers_version="4.1")
    for name in ("generation_config.json", "tokenizer.json", "tokenizer.model", "tokenization_own.py", "README.md"):
        (folder / name).write_text(name)
    return folder


def test_what_no_spec_says_is_taken_over(source, tmp_path):
    spec, params = fx.hf.load(source)
    fx.hf.save(spec, params, tmp_path / "again", like=source)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "again"))
    kept = ("eos_token_id", "bos_token_id", "pad_token_id", "max_position_embeddings", "model_type", "architectures")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert "torch_dtype" not in after and "transformers_version" not in after
    assert {file.name for file in (tmp_path / "again").iterdir()} == {
        *("config.json", "model.safetensors"),
        *("generation_config.json", "tokenizer.json", "tokenizer.model", "tokenization_own.py"),
    }
    assert (tmp_path / "again" / "tokenizer.json").read_text() == "tokenizer.json"
    assert fx.hf.load(tmp_path / "again")[0] == spec


def test_a_family_of_its_own_stays_what_it_was(source, tmp_path):
    """Without windows Mistral is LLaMA, which comes first where nothing else is said."""
    spec, params = fx.hf.load(source)
    fx.hf.save(spec, params, tmp_path / "plain")
    fx.hf.save(spec, params, tmp_path / "like", like=source)
    names = [json.loads((tmp_path / name / "config.json").read_text())["model_type"] for name in ("plain", "like")]
    assert names == ["llama", "mistral"]


def test_what_is_taken_over_never_changes_the_model(tmp_path):
    """Learned positions and labels are of the spec: the settings of another model of the family give way."""
    folder, _ = saved(fx.hf.load(GOLDEN / "bert-text-labels")[0], tmp_path)
    other = replace(fx.zoo.tiny("bert-base"), pooler=Pooler(labels=3))
    edit_config(folder, pad_token_id=5, id2label={str(i): f"class {i}" for i in range(4)})
    fx.hf.save(other, noise(other), tmp_path / "other", like=folder)
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    assert config["pad_token_id"] == 5
    assert config["max_position_embeddings"] == 96 and len(config["id2label"]) == 3
    spec, params = fx.hf.load(folder)
    fx.hf.save(spec, params, tmp_path / "same", like=folder)
    assert json.loads((tmp_path / "same" / "config.json").read_text())["id2label"]["2"] == "class 2"


def test_two_labels_of_a_text_stay_the_class_that_they_were(tmp_path):
    spec = replace(fx.zoo.tiny("bert-base"), pooler=Pooler(labels=2))
    folder, params = saved(spec, tmp_path)
    assert of_name(folder) == "BertForSequenceClassification"
    edit_tensors(folder, lambda t: {key.replace("classifier", "cls.seq_relationship"): each for key, each in t.items()})
    edit_config(folder, architectures=["BertForNextSentencePrediction"])
    fx.hf.save(*fx.hf.load(folder), tmp_path / "again", like=folder)
    assert of_name(tmp_path / "again") == "BertForNextSentencePrediction"
    assert_same(fx.hf.load(tmp_path / "again")[1], params)


def test_what_to_be_like_is_a_folder_of_a_checkpoint(tmp_path):
    spec = fx.zoo.tiny("gpt2")
    with pytest.raises(ValueError, match=r"has no config\.json; give the folder of a checkpoint"):
        fx.hf.save(spec, noise(spec), tmp_path / "model", like=tmp_path)
    assert not (tmp_path / "model").exists()
