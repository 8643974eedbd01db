"""Prompts as a judge's text encoder takes them: numbers, by a tokenizer that lies on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .judge import JudgeError

_WHOLE = "tokenizer.json"


@dataclass(frozen=True)
class PromptTokens:
    """Attributes:
    tokenizer: of `transformers`.
    limit: tokens a prompt may have, with those that begin and end it; what is longer is cut.
    """

    tokenizer: Any
    limit: int

    def __call__(self, prompt: str) -> Tensor:
        """Token numbers, shape (1, T), T at most `limit`."""
        numbers = self.tokenizer(prompt, truncation=True, max_length=self.limit)["input_ids"]
        return torch.tensor([numbers])


def clip_tokens(
    folders: Sequence[Path], limit: int, vocabulary: int, end: int, source: str
) -> PromptTokens:
    """CLIP's byte pairs, from the first of some folders that has them.

    Args:
        folders: where to look for `vocab.json` and `merges.txt`, or `tokenizer.json`.
        limit: tokens of the longest prompt.
        vocabulary: tokens the text encoder knows.
        end: the token at which the encoder reads off what the prompt means.
        source: how messages call the model.

    Raises:
        JudgeError: none of them has any, or they are another model's.
    """
    folder = _folder(folders, [("vocab.json", "merges.txt"), (_WHOLE,)], source)
    tokenizer = _loaded("CLIPTokenizer", folder)
    if _count(tokenizer) > vocabulary or tokenizer.eos_token_id != end:
        raise _of_another(folder, source, tokenizer, vocabulary)
    return PromptTokens(tokenizer, limit)


def bert_tokens(
    folders: Sequence[Path], limit: int, vocabulary: int, source: str
) -> PromptTokens:
    """BERT's word pieces, from `vocab.txt` or `tokenizer.json`; else as :func:`clip_tokens`."""
    folder = _folder(folders, [("vocab.txt",), (_WHOLE,)], source)
    tokenizer = _loaded("BertTokenizer", folder)
    if _count(tokenizer) > vocabulary:
        raise _of_another(folder, source, tokenizer, vocabulary)
    return PromptTokens(tokenizer, limit)


def _folder(folders: Sequence[Path], wanted: Sequence[tuple[str, ...]], source: str) -> Path:
    for folder in folders:
        if any(all((folder / name).is_file() for name in names) for names in wanted):
            return folder
    files = ", or ".join(" and ".join(names) for names in wanted)
    raise JudgeError(
        f"{source} has no tokenizer: it cannot read prompts. Put {files} into "
        f"{folders[0] if folders else 'its folder'}; they come with the model."
    )


def _loaded(kind: str, folder: Path) -> Any:
    import transformers

    # Before transformers 5 the plain name is that of a slow one, which reads no tokenizer.json.
    tokenizer = getattr(transformers, f"{kind}Fast", None) or getattr(transformers, kind)
    try:
        return tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises all sorts for a file that makes no sense
        raise JudgeError(
            f"The tokenizer in {folder} cannot be read ({type(error).__name__}: {error}). Get its "
            "files again."
        ) from error


def _count(tokenizer: Any) -> int:
    """One more than the largest number it gives."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _of_another(folder: Path, source: str, tokenizer: Any, vocabulary: int) -> JudgeError:
    return JudgeError(
        f"The tokenizer in {folder} is not that of {source}: it knows {_count(tokenizer)} tokens "
        f"and ends prompts with the {tokenizer.eos_token_id or tokenizer.sep_token_id}th, the "
        f"model knows {vocabulary}. Put the files that came with the model there."
    )
