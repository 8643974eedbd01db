"""The two kinds of tokenizer that reward models have, with a handful of words."""

from __future__ import annotations

import json
import string
from pathlib import Path

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
CLIP_WORDS = [*string.ascii_lowercase, *(f"{one}</w>" for one in string.ascii_lowercase)]
CLIP_WORDS += ["ca", "cat</w>", "do", "dog</w>", BEGIN, END]
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "##s", "red"]


def write_clip_tokenizer(folder: Path) -> int:
    """The size of its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(CLIP_WORDS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\n")
    return len(CLIP_WORDS)


def clip_numbers(*words: str) -> list[int]:
    """What a prompt of these tokens is, by hand."""
    return [CLIP_WORDS.index(word) for word in (BEGIN, *words, END)]


def write_bert_tokenizer(folder: Path) -> int:
    """The size of its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n")
    return len(BERT_WORDS)


def bert_numbers(*words: str) -> list[int]:
    """What a prompt of these tokens is, by hand."""
    return [BERT_WORDS.index(word) for word in ("[CLS]", *words, "[SEP]")]
