"""Whatever a file holds, reading it ends soon, takes little memory and raises nothing."""

from __future__ import annotations

import io
import json
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import pytest
from metadatakit.corpus import FOLDER, corpus, png

from dpo_core.metadata.file_texts import MAX_TEXT_BYTES, texts_of_file
from dpo_core.metadata.image_metadata import ImageMetadata
from dpo_core.metadata.reading import metadata_of_texts

SECONDS_FOR_ONE = 5.0
"""Generous: a busy machine must not fail a file that takes a hundredth of it."""
MEGABYTES_FOR_ONE = 60
FILES = [case.data for case in corpus()]


def read(data: bytes) -> ImageMetadata:
    """As `read_metadata`, without the net below it."""
    started = time.process_time()
    found = metadata_of_texts(texts_of_file(io.BytesIO(data)))
    assert time.process_time() - started < SECONDS_FOR_ONE
    return found


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 30)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def insert(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at:at] = chance.choice([chance.randbytes(40), b"[" * 3000, b'{"a":' * 800, b"\xff" * 12])


def enlarge_a_number(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"])


def repeat(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    data[start:start] = data[start : start + chance.randrange(400)] * chance.randint(2, 20)


def test_mutated_files_are_read_or_not_but_never_raise() -> None:
    chance = random.Random(0)
    changes = [cut, flip, insert, enlarge_a_number, repeat]
    for data, change in islice(zip(cycle(FILES), cycle(changes), strict=False), 2500):
        mutated = bytearray(data)
        change(mutated, chance)
        read(bytes(mutated))


def test_mutated_graphs_are_read_or_not_but_never_raise() -> None:
    chance = random.Random(1)
    graphs = [json.loads(text) for text in _graph_texts()]
    for graph in islice(cycle(graphs), 800):
        mutated = json.loads(json.dumps(graph))
        for _ in range(chance.randint(1, 4)):
            _spoil(mutated, chance)
        for key in ("prompt", "workflow"):
            started = time.process_time()
            metadata_of_texts({key: json.dumps(mutated)})
            assert time.process_time() - started < SECONDS_FOR_ONE


def _graph_texts() -> Iterator[str]:
    for file in sorted((FOLDER / "comfyui").glob("*.json")):
        yield from (json.dumps(one) for one in json.loads(file.read_text()).values())


def _spoil(value: Any, chance: random.Random) -> None:
    """Another value, type or link somewhere in a JSON value."""
    odd = [None, True, -1, 1 << 70, 0.5, "", "x", [], {}, [0, 0], ["3", 0], ["6", 0], [[], {}]]
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not keys:
            return
        key = chance.choice(list(keys))
        if isinstance(value[key], (dict, list)) and chance.random() < 0.8:
            value = value[key]
            continue
        value[key] = chance.choice(odd)
        return


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png_of(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + b"".join(chunks)


def tiff_of_many_tags_that_share_one_text() -> bytes:
    text = b"a" * 3_000_000
    entry = (0x010E).to_bytes(2, "little") + (2).to_bytes(2, "little")
    entry += len(text).to_bytes(4, "little") + (8).to_bytes(4, "little")
    directory = (65535).to_bytes(2, "little") + entry * 65535
    header = b"II*\0" + (8 + len(text)).to_bytes(4, "little")
    return header + text + directory


def links(count: int, fan: int, kind: str, **inputs: Any) -> str:
    """A graph in which each node is linked to `fan` later ones, with a sampler before them."""
    nodes: dict[str, Any] = {
        str(i): {
            "class_type": kind,
            "inputs": {f"conditioning_{k}": [str(i + 1), 0] for k in range(fan)} | inputs,
        }
        for i in range(count)
    }
    nodes["s"] = {"class_type": "KSampler", "inputs": {"positive": ["0", 0], "seed": 1}}
    return json.dumps(nodes)


def doubled_strings(count: int) -> str:
    nodes: dict[str, Any] = {
        str(i): {
            "class_type": "StringConcatenate",
            "inputs": {
                "string_a": [str(i + 1), 0], "string_b": [str(i + 1), 0], "delimiter": "x" * 9999,
            },
        }
        for i in range(count)
    }  # fmt: skip
    nodes["e"] = {"class_type": "CLIPTextEncode", "inputs": {"text": ["0", 0]}}
    nodes["s"] = {"class_type": "KSampler", "inputs": {"positive": ["e", 0], "seed": 1}}
    return json.dumps(nodes)


def nested_subgraphs(depth: int) -> str:
    """Each holds two uses of the next: unfolded, they would be 2 ** depth."""
    def level(i: int) -> dict[str, Any]:
        kind = str(i + 1) if i < depth else "KSampler"
        return {"id": str(i), "nodes": [{"id": k, "type": kind} for k in (1, 2)], "links": []}

    subgraphs = [level(i) for i in range(depth + 1)]
    return json.dumps({"nodes": [{"id": 1, "type": "0"}], "definitions": {"subgraphs": subgraphs}})


def itself_in_itself() -> str:
    one = {"id": "a", "nodes": [{"id": 1, "type": "a"}, {"id": 2, "type": "a"}], "links": []}
    return json.dumps({"nodes": [{"id": 1, "type": "a"}], "definitions": {"subgraphs": [one]}})


MADE: dict[str, Callable[[], bytes]] = {
    "compressed bomb": lambda: png_of(
        chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * 90_000_000, 1))
    ),
    "compressed bombs": lambda: png_of(
        *[
            chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(b"a" * (MAX_TEXT_BYTES - 1), 1))
            for i in range(30)
        ]
    ),
    "international bomb": lambda: png_of(
        chunk(b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(b"a" * 90_000_000, 1))
    ),
    "many chunks": lambda: png_of(chunk(b"tEXt", b"a\0b") * 200_000),
    "EXIF whose tags share one text": lambda: png_of(
        chunk(b"eXIf", tiff_of_many_tags_that_share_one_text())
    ),
    "deep lists": lambda: png(prompt="[" * 3_000_000),
    "deep objects": lambda: png(prompt='{"1":' * 500_000),
    "many lists": lambda: png(prompt='{"1":[' + "[]," * 1_300_000 + "[]]}"),
    "many numbers": lambda: png(prompt='{"1":[' + "1.5," * 900_000 + "1]}"),
    "one long number": lambda: png(prompt='{"1":' + "9" * 3_000_000 + "}"),
    "long ring": lambda: png(prompt=links(5000, 1, "Pass") + " "),
    "wide fan": lambda: png(prompt=links(2000, 8, "ConditioningCombine")),
    "reroutes in a ring": lambda: png(
        prompt=json.dumps(
            {
                "s": {"class_type": "KSampler", "inputs": {"positive": ["1", 0], "seed": 1}},
                "1": {"class_type": "Reroute", "inputs": {"": ["2", 0]}},
                "2": {"class_type": "Reroute", "inputs": {"": ["1", 0]}},
            }
        )
    ),
    "strings that double": lambda: png(prompt=doubled_strings(60)),
    "braces that ask for memory": lambda: png(
        prompt=json.dumps(
            {
                "s": {"class_type": "KSampler", "inputs": {"positive": ["e", 0], "seed": 1}},
                "e": {"class_type": "CLIPTextEncode", "inputs": {"text": ["f", 0]}},
                "f": {
                    "class_type": "StringFormat",
                    "inputs": {"f_string": "{a:>9999999999}", "values.a": "x"},
                },
            }
        )
    ),
    "subgraphs that double": lambda: png(workflow=nested_subgraphs(60)),
    "a subgraph in itself": lambda: png(workflow=itself_in_itself()),
    "settings without an end": lambda: png(parameters="a\nSteps: 1" + ', a"b\\:' * 400_000),
    "quotes without an end": lambda: png(parameters="a\nSteps: 1, " + 'a: "\\' * 400_000),
    "tags without an end": lambda: png(parameters="<lora:" * 500_000 + "\nSteps: 1"),
    "brackets without an end": lambda: png(
        **{"sd-metadata": json.dumps({"image": {"prompt": "[" * 1_000_000}})}
    ),
    "XMP tags without an end": lambda: png_of(
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<exif:UserComment>" + b"<a" * 900_000
              + b"</exif:UserComment>")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_what_was_made_to_harm_does_none(name: str) -> None:
    data = MADE[name]()
    read(data)
    tracemalloc.start()
    try:
        found = metadata_of_texts(texts_of_file(io.BytesIO(data)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEGABYTES_FOR_ONE * 1_000_000
    assert found.prompt is None or len(found.prompt) <= 64 * 1024
