"""Pictures and prompts through the host's VAE and text encoder."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, TypeGuard

import node_helpers
import torch
from torch import Tensor

from ...dpo_core.pairs.record import LabelledImage, Pair, PairSet, Picture, RankedGroup
from ...dpo_core.saving.encoding_store import EncodingStore, entry_key
from ...dpo_core.training.dataset import (
    EncodedGroup,
    EncodedImage,
    EncodedPair,
    EncodedPairs,
    tensor_digest,
)
from .conditioning import (
    Conditioning,
    conditioning_digest,
    conditioning_problems,
    plain_conditioning,
)
from .encoder_identity import clip_identity, content_digest
from .encoding_cache import LIMIT_BYTES, EncodingCache, clip_state
from .encoding_progress import EncodingProgress
from .folders import encodings_folder
from .picture_encoding import PictureEncoder

ENCODED = EncodingCache(LIMIT_BYTES)
"""What was encoded since the host was started."""


def encode_pairs(
    records: PairSet,
    vae: Any,
    clip: Any,
    megapixels: float,
    guidance: float,
    groups: bool = False,
    progress: EncodingProgress | None = None,
    store: EncodingStore | None = None,
) -> EncodedPairs:
    """Every pair and every single image as latents and conditioning; ranked groups if asked for.

    Args:
        records: pictures and prompts.
        vae: the host's VAE.
        clip: the host's text encoder.
        megapixels: all images of a record are scaled to this area, in 1024 x 1024 pixels; 0 keeps
            their size.
        guidance: for models that embed it; others ignore it.
        groups: whether ranked groups and ties are encoded, too; of a group, the images of one
            size.
        progress: is told of every prompt and every picture.
        store: what was encoded before the host was started; left out, that of its output folder.

    What was encoded before is taken from memory or from disk. Pictures whose latents are known
    are not encoded at all, where `usable_latent` allows it.

    Raises:
        ValueError: the images of a pair differ in size, or there is nothing to encode.
    """
    ranked, ties = (records.groups, records.ties) if groups else ((), ())
    # Of a growing collection the first pairs may be yet to come.
    if not (records.pairs or records.labelled or ranked or ties or records.lineage):
        raise ValueError(
            "There are no pairs to encode, only rankings: turn groups on to learn from those, "
            "with loss dgpo." if records.groups else "There are no pairs to encode."
        )
    progress = progress or EncodingProgress()
    store = store or encoding_store(progress.note)
    texts = _prompts(records, groups)
    sets: list[Sequence[Picture]] = [
        [one.picture for one in records.labelled],
        *((pair.chosen, pair.rejected) for pair in (*records.pairs, *ties)),
        *(one.pictures for one in ranked),
    ]
    progress.expect(len(texts) + sum(map(len, sets)))
    progress.begin("prompts", len(texts))
    encoder = PromptEncoder(clip, guidance, store)
    prompts = {}
    for text in texts:
        prompts[text], known = encoder.encode(text)
        progress.one(known)
    pictures = PictureEncoder(vae, megapixels, ENCODED, store, progress)
    latents = iter(pictures.latents(sets))
    thumbs = next(latents)
    keys = Keys()
    dataset = EncodedPairs(
        tuple(
            replace(_encoded_pair(one, next(latents), prompts[one.prompt], keys), tie=tie)
            for tie, pairs in ((False, records.pairs), (True, ties))
            for one in pairs
        ),
        tuple(
            _encoded_image(one, latent, prompts[one.prompt], keys)
            for one, latent in zip(records.labelled, thumbs, strict=True)
        ),
        tuple(
            group
            for one in ranked
            for group in _encoded_group(one, next(latents), prompts[one.prompt], keys)
        ),
    )
    progress.end()
    return dataset


def encoding_store(tell: Callable[[str], None] = logging.warning) -> EncodingStore:
    """What was encoded before the host was started.

    Args:
        tell: is given a sentence if no more can be kept.
    """
    return EncodingStore(encodings_folder(), tell=tell)


def _prompts(records: PairSet, groups: bool) -> list[str]:
    found = [pair.prompt for pair in records.pairs] + [one.prompt for one in records.labelled]
    if groups:
        found += [group.prompt for group in records.groups] + [tie.prompt for tie in records.ties]
    return list(dict.fromkeys(found))


def _encoded_pair(
    pair: Pair, latents: Sequence[Tensor], prompt: Conditioning, keys: Keys
) -> EncodedPair:
    chosen, rejected = latents
    return replace(
        encoded_pair(chosen, rejected, prompt, keys),
        prompt=pair.prompt,
        chosen_probability=pair.chosen_probability,
        group=pair.group,
        held_out=pair.split == "val",
        rating_gap=pair.rating_gap,
    )


def _encoded_image(
    one: LabelledImage, latent: Tensor, prompt: Conditioning, keys: Keys
) -> EncodedImage:
    plain = _plain(latent)
    return EncodedImage(
        plain, prompt, keys.key(prompt, plain), one.liked, one.prompt, one.group, one.split == "val"
    )


def _encoded_group(
    one: RankedGroup, latents: Sequence[Tensor], prompt: Conditioning, keys: Keys
) -> list[EncodedGroup]:
    """The group of those images that have the most common size; none if that is only one."""
    (shape, count), *_ = Counter(tuple(latent.shape) for latent in latents).most_common(1)
    if count < 2:
        return []
    kept = [i for i, latent in enumerate(latents) if tuple(latent.shape) == shape]
    plain = tuple(_plain(latents[i]) for i in kept)
    ratings = tuple(one.ratings[i] for i in kept)
    if ratings[0] == ratings[-1]:
        return []
    return [
        EncodedGroup(
            plain, ratings, prompt, keys.key(prompt, *plain), one.prompt, one.group,
            one.split == "val",
        )
    ]


class Keys:
    """Digests of records, in which those of a prompt are taken once: it may be megabytes, shared
    by hundreds of pairs."""

    def __init__(self) -> None:
        self._prompts: dict[int, tuple[Conditioning, str]] = {}

    def key(self, conditioning: Conditioning, *latents: Tensor) -> str:
        """Of a record with these."""
        if id(conditioning) not in self._prompts:
            # Kept with its digest, so that its id is not given to another.
            digest = conditioning_digest(conditioning)
            self._prompts[id(conditioning)] = conditioning, digest
        content = f"{tensor_digest(*latents)}{self._prompts[id(conditioning)][1]}"
        return blake2b(content.encode(), digest_size=16).hexdigest()


def encoded_pair(
    chosen: Tensor, rejected: Tensor, conditioning: Conditioning, keys: Keys | None = None
) -> EncodedPair:
    """A pair of latents of shape (C, ...) and its conditioning, keyed by their content.

    Raises:
        ValueError: latents of different shapes.
    """
    if chosen.shape != rejected.shape:
        raise ValueError(
            f"A pair's images differ in size: latents of {tuple(chosen.shape)} and "
            f"{tuple(rejected.shape)}. Both sides must have the same size; nothing is resized."
        )
    chosen, rejected = _plain(chosen), _plain(rejected)
    key = (keys or Keys()).key(conditioning, chosen, rejected)
    return EncodedPair(chosen, rejected, conditioning, key)


class PromptEncoder:
    """Conditioning entries, from memory or disk where they are known.

    Args:
        clip: the host's text encoder.
        guidance: for models that embed it; others ignore it.
        store: what was encoded before the host was started.
    """

    def __init__(self, clip: Any, guidance: float, store: EncodingStore) -> None:
        self._clip, self._guidance, self._store = clip, guidance, store
        self._state = clip_state(clip)
        self._identity = None if self._state is None else clip_identity(clip)

    def encode_all(self, prompts: Iterable[str]) -> dict[str, Conditioning]:
        """Every prompt's entry. Raises as :meth:`encode` does."""
        # Outside inference mode: what is kept may be trained with.
        with torch.inference_mode(False), torch.no_grad():
            return {prompt: self.encode(prompt)[0] for prompt in prompts}

    def encode(self, prompt: str) -> tuple[Conditioning, bool]:
        """The prompt's only entry, and whether it was known.

        Raises:
            ValueError: the text encoder gave something that cannot be trained on.
        """
        key = (self._state, prompt, self._guidance)
        # The file of an embedding may have changed; its content is among the tokens.
        lasting = self._state is not None and "embedding:" not in prompt
        if lasting and (kept := ENCODED.find(self._clip, key)) is not None:
            return kept, True
        entries, known = self._entries(prompt)
        conditioning = node_helpers.conditioning_set_values(entries, {"guidance": self._guidance})
        problems = [p for entry in conditioning for p in conditioning_problems(entry)]
        if len(conditioning) != 1:
            problems.append(f"consists of {len(conditioning)} parts")
        if problems:
            raise ValueError(f"The prompt {prompt!r}, as encoded, {', '.join(problems)}.")
        (entry,) = map(plain_conditioning, conditioning)
        return (ENCODED.keep(self._clip, key, entry) if lasting else entry), known

    def _entries(self, prompt: str) -> tuple[list[Conditioning], bool]:
        """As the text encoder gives them, and whether they were known."""
        tokens = self._clip.tokenize(prompt)
        said = None if self._identity is None else content_digest(tokens)
        if self._identity is None or said is None:
            return self._clip.encode_from_tokens_scheduled(tokens), False
        key = entry_key("prompt", self._identity, said)
        entry = self._store.get(key)
        if _is_entry(entry):
            return [entry], True
        entries = self._clip.encode_from_tokens_scheduled(tokens)
        if len(entries) == 1 and _is_entry(entries[0]):
            self._store.put(key, entries[0])
        return entries, False


def _is_entry(value: Any) -> TypeGuard[Conditioning]:
    """Whether a value can be one prompt's conditioning."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], Tensor)
        and value[0].ndim >= 2
        and len(value[0]) == 1
        and isinstance(value[1], dict)
        and _is_finite(value)
    )


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, (list, tuple)) else True


def model_shaped(dataset: EncodedPairs, latent_format: Any, model_name: str) -> EncodedPairs:
    """The dataset with latents of the number of dimensions the model takes.

    Raises:
        ValueError: latents made for another kind of model.
    """
    dimensions = latent_format.latent_dimensions + 2
    channels = latent_format.latent_channels
    wrong = set()

    def shaped(latent: Tensor) -> Tensor:
        frame = dimensions == 5 and latent.ndim == 3  # an image is a clip of one frame
        fitting = latent.unsqueeze(1) if frame else latent
        if fitting.ndim != dimensions - 1 or fitting.shape[0] != channels:
            wrong.add(tuple(latent.shape))
        return fitting

    found = replace(
        dataset,
        pairs=tuple(
            replace(pair, chosen=shaped(pair.chosen), rejected=shaped(pair.rejected))
            for pair in dataset.pairs
        ),
        labelled=tuple(replace(one, latent=shaped(one.latent)) for one in dataset.labelled),
        groups=tuple(
            replace(group, latents=tuple(map(shaped, group.latents))) for group in dataset.groups
        ),
    )
    if wrong:
        raise ValueError(
            f"The pairs were encoded for another kind of model: latents of shape "
            f"{', '.join(map(str, sorted(wrong)))}, while {model_name} takes "
            f"{channels} channels. Encode them with the VAE that belongs to "
            "the model."
        )
    return found


def _plain(latent: Tensor) -> Tensor:
    return latent.detach().to("cpu", torch.float32, copy=True)
