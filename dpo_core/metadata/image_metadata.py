"""What an image file's metadata tells of how the picture was made."""

from __future__ import annotations

from dataclasses import dataclass

PROMPT_KEY = "dpo_prompt"
"""The PNG text chunk of images we write, which holds the prompt they were ranked under."""


@dataclass(frozen=True)
class ImageMetadata:
    """How a picture was made; None is what its metadata does not tell.

    A wrong prompt is worse than none: what cannot be told for certain is None, too, and its name
    is in `ambiguous`.
    """

    tool: str | None = None
    """The program: "ComfyUI", "A1111", "SwarmUI", ... or "DPO" for images of our own."""
    prompt: str | None = None
    """The positive prompt on one line; "" is a picture made without a text."""
    negative: str | None = None
    """The negative prompt on one line."""
    seed: int | None = None
    width: int | None = None
    """In pixels, as the picture was generated; the file's own may be larger or turned."""
    height: int | None = None
    model: str | None = None
    """The checkpoint's name or file, as the program wrote it."""
    ambiguous: tuple[str, ...] = ()
    """Names of fields that the metadata speaks of, but not for certain."""
