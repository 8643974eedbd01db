"""The corpus of image files and what is known of them."""

from __future__ import annotations

import html
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, PngImagePlugin

from dpo_core.metadata.image_metadata import ImageMetadata

FOLDER = Path(__file__).parents[1] / "metadata" / "corpus"
USER_COMMENT, EXIF_IFD, SOFTWARE = 0x9286, 0x8769, 0x0131
XMP = "XML:com.adobe.xmp"
_CODES = {"utf-8": b"\0" * 8, "utf-16-be": b"UNICODE\0", "utf-16-le": b"UNICODE\0"}


class Case(NamedTuple):
    """A file, why it is there, and what is known of its picture."""

    name: str
    data: bytes
    why: str
    expected: dict[str, Any]

    @property
    def suffix(self) -> str:
        return {b"\x89P": ".png", b"\xff\xd8": ".jpg", b"RI": ".webp"}[self.data[:2]]


def corpus() -> list[Case]:
    """All cases: published formats written by hand, and what ComfyUI saved."""
    written = json.loads((FOLDER / "written.json").read_text(encoding="utf-8"))
    cases = [
        Case(one["case"], image_file(one["made_of"]), one["why"], one["expected"])
        for one in written
    ]
    saved = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))
    for one in saved:
        texts = comfyui_texts(one["file"])
        data = png(**texts) if texts else (FOLDER / one["file"]).read_bytes()
        name = one["file"].removesuffix(".json")
        cases.append(Case(name, data, one["why"], one["expected"]))
        # The workflow alone, as if the graph that ran had been taken out.
        if texts and "drawn" in one:
            expected = {**one["expected"], **one["drawn"]}
            drawn = png(workflow=texts["workflow"])
            cases.append(Case(f"{name} drawn", drawn, one["why"], expected))
    return cases


def comfyui_texts(file: str) -> dict[str, str]:
    """The text chunks of a PNG that ComfyUI saved; none for a file that was kept whole."""
    if not file.endswith(".json"):
        return {}
    texts = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    return {key: json.dumps(value) for key, value in texts.items()}


def told(found: ImageMetadata) -> dict[str, Any]:
    """What metadata tell, in the form of the corpus's answers."""
    return without_nothing(asdict(found))


def without_nothing(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with its ambiguous fields in order, and without those that say nothing."""
    answer = answer | {"ambiguous": sorted(answer.get("ambiguous", ()))}
    return {name: value for name, value in answer.items() if value not in (None, [])}


def image_file(made_of: dict[str, Any]) -> bytes:
    """A small file as the corpus describes it: `png`, `zpng`, `jpeg` or `webp` and its texts."""
    ((kind, texts),) = made_of.items()
    if kind in ("png", "zpng"):
        return png(zipped=kind == "zpng", **texts)
    options: dict[str, Any] = {}
    if "xmp" in texts:
        options["xmp"] = xmp(texts["xmp"], texts["codec"])
    elif "xmp_raw" in texts:
        options["xmp"] = texts["xmp_raw"].encode()
    else:
        options["exif"] = exif(texts)
    return saved(kind.upper(), **options)


def exif(texts: dict[str, Any]) -> Image.Exif:
    block = Image.Exif()
    for tag, text in texts.get("ifd0", {}).items():
        block[int(tag, 16)] = text
    if "comment" in texts:
        codec = texts["codec"]
        block[SOFTWARE] = "a program"  # Pillow drops the block from a PNG if this level is empty
        comment = _CODES[codec] + texts["comment"].encode(codec)
        block.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    return block


def xmp(text: str, codec: str = "utf-8") -> bytes:
    packet = (
        "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><rdf:Description><exif:UserComment><rdf:Alt>"
        f"<rdf:li xml:lang='x-default'>{html.escape(text)}</rdf:li>"
        "</rdf:Alt></exif:UserComment></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    return packet.encode(codec)


def png(zipped: bool = False, **texts: str) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        if key == XMP:
            chunks.add_itxt(key, xmp(text).decode())
        else:
            chunks.add_text(key, text, zip=zipped)
    return saved("PNG", pnginfo=chunks)


def saved(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, kind, **options)
    return file.getvalue()
