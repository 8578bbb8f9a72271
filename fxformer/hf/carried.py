"""What a checkpoint holds beside its model and no spec says: special tokens, the longest text, the tokenizer."""

import shutil
from pathlib import Path

# Settings that are taken over from another checkpoint, where they leave the model as it is.
SETTINGS = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id"),
    *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"),
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids"),
    *("max_position_embeddings", "n_ctx", "seq_length", "max_sequence_length", "model_max_length"),
    *("id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "prefix", "tokenizer_class"),
)
# Files of the tokenizer, by the names of all kinds of it, and what generation starts from.
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "ice_text.model", "tokenization_*.py"),
    *("chat_template.jinja", "chat_template.json", "generation_config.json"),
)


def copy_files(source: Path, target: Path) -> None:
    """Copy the files beside the model from one folder to another."""
    for pattern in FILES:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, target / file.name)
