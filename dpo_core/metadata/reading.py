"""Reads what an image file tells of how the picture was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from .a1111 import metadata_of_infotext
from .bounded_json import read_object
from .comfyui import metadata_of_graph
from .comfyui_graph import Graph
from .comfyui_workflow import api_graph_of, output_names_of
from .file_texts import texts_of_file, texts_of_path
from .fooocus import metadata_of_fooocus, metadata_of_fooocus_text
from .image_metadata import PROMPT_KEY, ImageMetadata
from .invokeai import metadata_of_invokeai
from .json_fields import object_in
from .novelai import metadata_of_novelai
from .prompt_text import MAX_PROMPT_CHARS, tidy_prompt
from .swarmui import metadata_of_swarm

_COMMENTS = (
    "parameters", "Comment", "Description", "exif:UserComment", "exif:ImageDescription",
    "exif:Model", "exif:XPComment", "xmp:UserComment", "xmp:description", "xmp:ImageDescription",
)  # fmt: skip
"""Where programs put a text that tells everything."""
_FIELDS = [field.name for field in fields(ImageMetadata) if field.name not in ("tool", "ambiguous")]


def read_metadata(path: Path) -> ImageMetadata:
    """What the metadata of a PNG, JPEG, WebP or AVIF file tells; empty for any other file.

    Never raises; decodes no pixels.
    """
    try:
        return metadata_of_texts(texts_of_path(path))
    except Exception:  # whatever a hostile file may still come up with
        return ImageMetadata()


def metadata_of_file(file: BinaryIO) -> ImageMetadata:
    """`read_metadata` for an opened file, which is read from its start. Never raises."""
    try:
        file.seek(0)
        return metadata_of_texts(texts_of_file(file))
    except Exception:  # as above
        return ImageMetadata()


def metadata_of_texts(texts: Mapping[str, str]) -> ImageMetadata:
    """What the texts of a file tell together; what they differ in is ambiguous."""
    found = _merged([_tidied(one) for one in _all(texts) if one is not None])
    own = texts.get(PROMPT_KEY)
    if own is None or len(own) > MAX_PROMPT_CHARS:
        return found
    unclear = tuple(name for name in found.ambiguous if name != "prompt")
    return replace(found, tool="DPO", prompt=tidy_prompt(own), ambiguous=unclear)


def _all(texts: Mapping[str, str]) -> Iterator[ImageMetadata | None]:
    """What each program that left something in the file tells."""
    yield _of_comfyui(texts)
    yield metadata_of_invokeai(texts)
    novelai = metadata_of_novelai(texts)
    yield novelai
    for name in _COMMENTS:
        text = texts.get(name)
        if text is not None and novelai is None:
            yield _of_comment(text)


def _of_comment(text: str) -> ImageMetadata | None:
    if not text.lstrip().startswith("{"):
        return metadata_of_fooocus_text(text) or metadata_of_infotext(text)
    found = read_object(text)
    return (
        metadata_of_swarm(found)
        or metadata_of_fooocus(found)
        or _of_graphs(found.get("prompt"), lambda: object_in(found, "workflow"))
    )


def _of_comfyui(texts: Mapping[str, str]) -> ImageMetadata | None:
    return _of_graphs(
        read_object(texts.get("prompt")), lambda: read_object(texts.get("workflow"))
    )


def _of_graphs(api: Any, workflow: Callable[[], dict[str, Any]]) -> ImageMetadata | None:
    """The graph that ran tells; the one that was drawn names outputs, or stands in for it.

    The drawn one is read only when it is needed, for it is the larger by far.
    """
    graph = Graph.of(api, lambda: output_names_of(workflow()))
    return metadata_of_graph(graph if graph.nodes else api_graph_of(workflow()))


def _tidied(found: ImageMetadata) -> ImageMetadata:
    """Texts on one line each; those that are longer than any prompt are none."""
    texts = {"prompt": found.prompt, "negative": found.negative}
    long = [name for name, text in texts.items() if text and len(text) > MAX_PROMPT_CHARS]
    tidy = {
        name: tidy_prompt(text)
        for name, text in texts.items()
        if text is not None and name not in long
    }
    return replace(
        found,
        prompt=tidy.get("prompt"),
        negative=tidy.get("negative"),
        ambiguous=(*found.ambiguous, *long),
    )


def _merged(found: list[ImageMetadata]) -> ImageMetadata:
    if len(found) < 2:
        return found[0] if found else ImageMetadata()
    values: dict[str, Any] = {}
    unclear = []
    for name in _FIELDS:
        told = {_compared(name, value): value for one in reversed(found)
                if (value := getattr(one, name)) is not None}  # fmt: skip
        if len(told) == 1:
            values[name] = next(iter(told.values()))
        elif told or any(name in one.ambiguous for one in found):
            unclear.append(name)
    tool = next((one.tool for one in found if one.tool is not None), None)
    return ImageMetadata(tool, **values, ambiguous=tuple(unclear))


def _compared(name: str, value: Any) -> Any:
    """Programs name a model with or without its folder and its file's ending."""
    if name != "model":
        return value
    path = PurePosixPath(value.replace("\\", "/").lower())
    known = path.suffix in (".safetensors", ".ckpt", ".gguf", ".sft")
    return path.stem if known else path.name
