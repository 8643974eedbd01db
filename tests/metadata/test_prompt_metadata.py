from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from dpo_core.metadata.comfyui import prompt_behind
from dpo_core.metadata.reading import read_metadata

TAIL = "Negative prompt: ugly, blurry\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1"
USER_COMMENT, EXIF_IFD = 0x9286, 0x8769


def read_prompt(path: Path) -> str | None:
    return read_metadata(path).prompt


def png(path: Path, **texts: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def commented(path: Path, comment: bytes) -> Path:
    exif = Image.Exif()
    exif[0x0131] = "a program"  # Pillow drops the block from a PNG if this level is empty
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    Image.new("RGB", (4, 4)).save(path, exif=exif)
    return path


def graph_prompt(tmp_path: Path, graph: object) -> str | None:
    return read_prompt(png(tmp_path / "graph.png", prompt=json.dumps(graph)))


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def encode(text: Any) -> dict[str, Any]:
    return node("CLIPTextEncode", text=text, clip=["99", 1])


def simple_graph(**changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "1": node("KSampler", positive=["2", 0], negative=["3", 0], model=["99", 0], seed=5),
        "2": encode("a cat"),
        "3": encode("ugly"),
    } | {key.strip("_"): value for key, value in changes.items()}


# A1111, Forge, SwarmUI


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (f"a cat\n{TAIL}", "a cat"),
        (f"a cat,\non a mat\n{TAIL}", "a cat, on a mat"),
        (f"a cat\r\n{TAIL}", "a cat"),
        ("a cat\nSteps: 20, Seed: 1", "a cat"),
        ("a cat\nSteps: 3 up the stairs\nSteps: 20, Seed: 1", "a cat Steps: 3 up the stairs"),
        (TAIL, ""),
        ("a cat, no settings after it", None),
        ("a cat Negative prompt: ugly\nSteps: 20, Seed: 1", None),
        ("a cat\nNegative prompt: ugly\nNegative prompt: bad\nSteps: 2", "a cat"),
        (json.dumps({"sui_image_params": {"prompt": "a cat", "negativeprompt": "ugly"}}), "a cat"),
        (json.dumps({"prompt": "a cat"}), None),
        ("{not json", None),
    ],
)
def test_the_parameters_text_of_a_png(tmp_path: Path, text: str, prompt: str | None) -> None:
    assert read_prompt(png(tmp_path / "a.png", parameters=text)) == prompt


def test_letters_beyond_latin_survive_however_they_were_written(tmp_path: Path) -> None:
    assert read_prompt(png(tmp_path / "a.png", parameters=f"猫, café\n{TAIL}")) == "猫, café"
    assert read_prompt(png(tmp_path / "b.png", parameters=f"café\n{TAIL}")) == "café"
    info = PngImagePlugin.PngInfo()
    info.add(b"tEXt", b"parameters\0" + f"猫\n{TAIL}".encode())  # UTF-8 where Latin-1 belongs
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png", pnginfo=info)
    assert read_prompt(tmp_path / "c.png") == "猫"


@pytest.mark.parametrize("suffix", ["jpg", "webp", "png"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + f"猫 a cat\n{TAIL}".encode("utf-16-be"),
        b"UNICODE\0" + f"猫 a cat\n{TAIL}".encode("utf-16-le"),
        b"UNICODE\0" + f"\ufeff猫 a cat\n{TAIL}".encode("utf-16-le") + b"\0",
        b"UNICODE\0" + f"猫 a cat\n{TAIL}".encode(),
        b"\0" * 8 + f"猫 a cat\n{TAIL}".encode(),
        f"猫 a cat\n{TAIL}".encode(),
    ],
)
def test_the_user_comment_in_either_byte_order(tmp_path: Path, suffix: str, comment: bytes) -> None:
    assert read_prompt(commented(tmp_path / f"a.{suffix}", comment)) == "猫 a cat"


def test_an_ascii_user_comment(tmp_path: Path) -> None:
    path = commented(tmp_path / "a.jpg", b"ASCII\0\0\0" + f"a cat\n{TAIL}".encode())
    assert read_prompt(path) == "a cat"


# ComfyUI


def test_the_samplers_positive_link_leads_to_the_prompt_never_the_negative(
    tmp_path: Path,
) -> None:
    assert graph_prompt(tmp_path, simple_graph()) == "a cat"
    swapped = node("KSampler", positive=["3", 0], negative=["2", 0])
    assert graph_prompt(tmp_path, simple_graph(_1=swapped)) == "ugly"


@pytest.mark.parametrize("kind", ["KSampler", "KSamplerAdvanced", "SamplerCustom"])
def test_samplers_of_every_kind(tmp_path: Path, kind: str) -> None:
    sampler = node(kind, positive=["2", 0], negative=["3", 0])
    assert graph_prompt(tmp_path, simple_graph(_1=sampler)) == "a cat"


@pytest.mark.parametrize(
    "guider",
    [
        node("BasicGuider", conditioning=["2", 0], model=["99", 0]),
        node("CFGGuider", positive=["2", 0], negative=["3", 0], cfg=7.0),
    ],
)
def test_a_guider_stands_between_sampler_and_prompt(tmp_path: Path, guider: dict[str, Any]) -> None:
    custom = node("SamplerCustomAdvanced", guider=["9", 0], sampler=["99", 0], noise=["98", 0])
    graph = simple_graph(_1=custom, _9=guider)
    assert graph_prompt(tmp_path, graph) == "a cat"


def test_a_guider_of_two_conditionings_is_ambiguous(tmp_path: Path) -> None:
    custom = node("SamplerCustomAdvanced", guider=["9", 0])
    guider = node("DualCFGGuider", cond1=["2", 0], cond2=["4", 0], negative=["3", 0])
    assert graph_prompt(tmp_path, simple_graph(_1=custom, _9=guider, _4=encode("x"))) is None


def test_nodes_that_pass_one_conditioning_on_are_passed(tmp_path: Path) -> None:
    graph = simple_graph(
        _1=node("KSampler", positive=["4", 0], negative=["4", 1]),
        _4=node("ControlNetApplyAdvanced", positive=["5", 0], negative=["3", 0], strength=1.0),
        _5=node("ConditioningSetTimestepRange", conditioning=["6", 0], start=0.0, end=1.0),
        _6=node("FluxGuidance", conditioning=["2", 0], guidance=3.5),
    )
    assert graph_prompt(tmp_path, graph) == "a cat"


@pytest.mark.parametrize(
    "between",
    [
        node("ConditioningCombine", conditioning_1=["2", 0], conditioning_2=["4", 0]),
        node("ConditioningConcat", conditioning_to=["2", 0], conditioning_from=["4", 0]),
        node("SomeMixer", conditioning_a=["2", 0], conditioning_b=["4", 0]),
        node("ConditioningSetArea", conditioning=["2", 0], width=64),
        node("ConditioningZeroOut", conditioning=["2", 0]),
        node("UnknownLoader", thing=["2", 0]),
    ],
)
def test_what_is_not_one_text_for_the_whole_picture_gives_none(
    tmp_path: Path, between: dict[str, Any]
) -> None:
    sampler = node("KSampler", positive=["5", 0], negative=["3", 0])
    graph = simple_graph(_1=sampler, _4=encode("a dog"), _5=between)
    assert graph_prompt(tmp_path, graph) is None


@pytest.mark.parametrize(
    ("kind", "prompt"), [("ControlNetApplyAdvanced", "ugly"), ("SomePack'sControlNet", None)]
)
def test_the_second_output_of_a_node_with_two_sides_is_the_negative_one_if_it_is_known(
    tmp_path: Path, kind: str, prompt: str | None
) -> None:
    graph = simple_graph(
        _1=node("KSampler", positive=["4", 1], negative=["4", 0]),
        _4=node(kind, positive=["2", 0], negative=["3", 0]),
    )
    assert graph_prompt(tmp_path, graph) == prompt


@pytest.mark.parametrize(
    ("encoder", "prompt"),
    [
        (node("CLIPTextEncodeSDXL", text_g="a cat", text_l="a cat", width=1024), "a cat"),
        (node("CLIPTextEncodeSDXL", text_g="a cat", text_l="a dog"), None),
        (node("CLIPTextEncodeFlux", clip_l="", t5xxl="a cat", guidance=3.5), "a cat"),
        (node("CLIPTextEncodeSD3", clip_l="", clip_g="", t5xxl=""), ""),
        (node("CLIPTextEncode", clip=["99", 0]), None),
        (node("CLIPTextEncodeFlux", clip_l="a cat", t5xxl=["77", 0]), None),
    ],
)
def test_encoders_with_several_texts(
    tmp_path: Path, encoder: dict[str, Any], prompt: str | None
) -> None:
    assert graph_prompt(tmp_path, simple_graph(_2=encoder)) == prompt


def test_the_text_may_be_linked_to_a_plain_string_node(tmp_path: Path) -> None:
    graph = simple_graph(
        _2=encode(["4", 0]),
        _4=node("StringConstantMultiline", string=["5", 0], strip_newlines=True),
        _5=node("PrimitiveStringMultiline", value="a cat\non a mat"),
    )
    assert graph_prompt(tmp_path, graph) == "a cat on a mat"


@pytest.mark.parametrize(
    "source",
    [
        node("RegexReplace", string="a dog", regex_pattern="dog", replace="cat"),
        node("SomeJoin", first="a", second="cat"),
        node("Wildcard", text="a {cat|dog}", seed=3),
        node("LoadText", file="prompt.txt"),
        node("Captioner", image=["8", 0]),
    ],
)
def test_text_of_more_than_one_outcome_gives_none(
    tmp_path: Path, source: dict[str, Any]
) -> None:
    assert graph_prompt(tmp_path, simple_graph(_2=encode(["4", 0]), _4=source)) is None


def test_several_samplers_must_agree(tmp_path: Path) -> None:
    again = node("KSampler", positive=["5", 0], negative=["3", 0])
    assert graph_prompt(tmp_path, simple_graph(_4=again, _5=encode("a cat"))) == "a cat"
    assert graph_prompt(tmp_path, simple_graph(_4=again, _5=encode("a dog"))) is None
    assert graph_prompt(tmp_path, simple_graph(_4=again)) is None


def test_two_programs_metadata_in_one_file_must_agree(tmp_path: Path) -> None:
    graph = json.dumps(simple_graph())
    agreeing = png(tmp_path / "a.png", prompt=graph, parameters=f"a cat\n{TAIL}")
    assert read_prompt(agreeing) == "a cat"
    other = png(tmp_path / "b.png", prompt=graph, parameters=f"a dog\n{TAIL}")
    assert read_prompt(other) is None


def test_a_graph_in_the_exif_of_a_webp(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(simple_graph())
    exif[0x010F] = "workflow:{}"
    Image.new("RGB", (4, 4)).save(tmp_path / "a.webp", exif=exif)
    assert read_prompt(tmp_path / "a.webp") == "a cat"


# Hostile and broken files


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 200_000,
        '{"1": ' * 100_000,
        "9" * 10_000,
        json.dumps({"1": None, "2": {"class_type": 3, "inputs": []}}),
        json.dumps({"1": node("KSampler", positive=[[], 0])}),
        json.dumps({"1": node("KSampler", positive=["1", 0])}),
        json.dumps({"1": node("KSampler", positive=["2", 0]), "2": encode(["2", 0])}),
        json.dumps({"1": node("KSampler", positive=["2", True]), "2": encode("a cat")}),
        json.dumps({"1": node("KSampler", positive=["2", 0]), "2": encode("x" * 100_000)}),
        json.dumps({str(i): node("KSampler", positive=[str(i), 0]) for i in range(500)}),
    ],
)
def test_hostile_graphs_give_none(tmp_path: Path, text: str) -> None:
    assert read_prompt(png(tmp_path / "a.png", prompt=text)) is None


def test_a_chain_longer_than_any_real_graph_gives_none(tmp_path: Path) -> None:
    graph = {str(i): node("Pass", conditioning=[str(i + 1), 0]) for i in range(1, 5000)}
    graph |= {"0": node("KSampler", positive=["1", 0]), "5000": encode("a cat")}
    assert graph_prompt(tmp_path, graph) is None


def test_lone_surrogates_in_json_become_text_that_can_be_saved(tmp_path: Path) -> None:
    prompt = graph_prompt(tmp_path, simple_graph(_2=encode("a cat \ud83d")))
    assert prompt == "a cat ?"


def test_files_that_are_no_images_give_none(tmp_path: Path) -> None:
    assert read_prompt(tmp_path / "missing.png") is None
    assert read_prompt(tmp_path) is None
    (tmp_path / "empty.png").touch()
    assert read_prompt(tmp_path / "empty.png") is None
    os.mkfifo(tmp_path / "pipe.png")
    assert read_prompt(tmp_path / "pipe.png") is None


def test_a_compressed_text_bomb_gives_none(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a" * 20_000_000 + f"\n{TAIL}", zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    assert read_prompt(tmp_path / "a.png") is None


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_noise_gives_none(tmp_path: Path) -> None:
    for i, noise in enumerate((b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0" * 40)):
        path = tmp_path / f"{i}.webp"
        Image.new("RGB", (4, 4)).save(path, exif=noise)
        assert read_prompt(path) is None


def test_reading_stops_where_the_pixels_begin(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", parameters=f"a cat\n{TAIL}")
    path.write_bytes(path.read_bytes()[:-20])
    assert read_prompt(path) == "a cat"


# The pictures of one link


def two_pictures() -> dict[str, Any]:
    """A cat from a LoRA that learned from pictures of a dog."""
    return simple_graph(
        _4=node("VAEDecode", samples=["1", 0], vae=["99", 2]),
        _1=node("KSampler", positive=["2", 0], negative=["3", 0], model=["10", 0]),
        _10=node("LoraModelLoader", model=["99", 0], lora=["11", 0]),
        _11=node("Train", images=["12", 0]),
        _12=node("VAEDecode", samples=["13", 0], vae=["99", 2]),
        _13=node("KSampler", positive=["14", 0], negative=["3", 0], model=["99", 0]),
        _14=encode("a dog"),
    )


def test_only_what_made_the_pictures_of_a_link_is_asked() -> None:
    graph = two_pictures()
    assert prompt_behind(graph, ["4", 0]) == "a cat"
    assert prompt_behind(graph, ["12", 0]) == "a dog"


def test_pictures_of_two_prompts_have_none() -> None:
    graph = two_pictures() | {"20": node("ImageBatch", image1=["4", 0], second_image=["12", 0])}
    assert prompt_behind(graph, ["20", 0]) is None
    graph["14"] = encode("a cat")
    assert prompt_behind(graph, ["20", 0]) == "a cat"


def test_a_second_pass_with_another_prompt_has_none() -> None:
    graph = two_pictures()
    graph["1"]["inputs"]["latent_image"] = ["13", 0]
    assert prompt_behind(graph, ["4", 0]) is None


def test_the_drawn_workflow_tells_what_an_unknown_nodes_outputs_are() -> None:
    graph = simple_graph(
        _1=node("KSampler", positive=["4", 1], negative=["4", 2]),
        _4=node("SomePack'sControlNet", positive=["2", 0], negative=["3", 0]),
    )
    outputs = [{"name": name} for name in ("MODEL", "positive", "negative")]
    drawn = {"nodes": [{"id": 4, "type": "SomePack'sControlNet", "outputs": outputs}]}
    assert prompt_behind(graph, ["1", 0]) is None
    assert prompt_behind(graph, ["1", 0], drawn) == "a cat"


@pytest.mark.parametrize("workflow", [None, [], {}, {"nodes": 3}, {"nodes": [3, {"id": 1}]}])
def test_what_is_no_workflow_does_no_harm(workflow: object) -> None:
    assert prompt_behind(two_pictures(), ["4", 0], workflow) == "a cat"


@pytest.mark.parametrize("link", [None, 4, "4", [], ["4"], ["77", 0], ["4", "0"], {"a": 1}])
def test_what_is_no_link_to_a_picture_has_none(link: object) -> None:
    assert prompt_behind(two_pictures(), link) is None


@pytest.mark.parametrize("graph", [None, [], {}, {"4": 3}, {"4": node("A", a=["4", 0])}])
def test_what_is_no_graph_has_none(graph: object) -> None:
    assert prompt_behind(graph, ["4", 0]) is None
