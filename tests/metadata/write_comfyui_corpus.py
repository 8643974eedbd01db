"""Writes corpus/comfyui: workflows drawn in ComfyUI's page, run by it, and what it saved of them.

Run with the Python of a ComfyUI checkout that has playwright, the tests' folder on its path:
`COMFYUI_PATH=... PYTHONPATH=.:tests python tests/metadata/write_comfyui_corpus.py`. The answers are
written by hand in corpus/answers.json and are not touched.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostkit import checkout
from PIL import Image

CORPUS = Path(__file__).parent / "corpus" / "comfyui"
CHECKPOINT = "tiny.safetensors"
CAT, UGLY = "a photo of a cat on a mat", "ugly, blurry"

_STAND_INS = '''
"""Text encoders and a ControlNet of no size, so that nodes made for large models run."""
import torch

class Encoders:
    def tokenize(self, text, **options):
        return {name: [[(1, 1.0)] * 77] for name in
                ("l", "g", "t5xxl", "llama", "hydit_clip", "mt5xl", "qwen25_7b")}
    def encode_from_tokens(self, tokens, return_pooled=False, return_dict=False):
        cond, pooled = torch.zeros(1, 77, 768), torch.zeros(1, 768)
        if return_dict:
            return {"cond": cond, "pooled_output": pooled}
        return (cond, pooled) if return_pooled else cond
    def encode_from_tokens_scheduled(self, tokens, unprojected=False, add_dict={}, **options):
        return [[torch.zeros(1, 77, 768), {"pooled_output": torch.zeros(1, 768), **add_dict}]]

class TinyTextEncoders:
    CATEGORY, FUNCTION, RETURN_TYPES = "testing", "load", ("CLIP",)
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    def load(self):
        return (Encoders(),)

class TinyControlNet:
    CATEGORY, FUNCTION, RETURN_TYPES = "testing", "load", ("CONTROL_NET",)
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    def load(self):
        return (None,)

NODE_CLASS_MAPPINGS = {"TinyTextEncoders": TinyTextEncoders, "TinyControlNet": TinyControlNet}
'''

_DRAW = """async ({ graph, change }) => {
    app.rootGraph.clear()
    await app.loadApiJson(graph, 'corpus')
    const at = id => app.rootGraph.getNodeById(id)
    const add = type => {
        const node = LiteGraph.createNode(type); app.rootGraph.add(node); return node }
    const widget = (id, name) => at(id).widgets.find(w => w.name === name)
    const subgraph = ids => app.rootGraph.convertToSubgraph(new Set(ids.map(at))).node
    await (new Function('at', 'add', 'widget', 'subgraph', change))(at, add, widget, subgraph)
    const { output, workflow } = await app.graphToPrompt()
    return JSON.parse(JSON.stringify({ output, workflow })) }"""

Graph = dict[str, dict[str, Any]]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def sampler(positive: Any, negative: Any, latent: Any, seed: int, **more: Any) -> dict[str, Any]:
    graph = node(
        "KSampler", model=["4", 0], positive=positive, negative=negative, latent_image=latent,
        seed=seed, steps=1, cfg=2.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip
    graph["inputs"].update(more)
    return graph


def encode(text: Any, clip: Any = ("4", 1)) -> dict[str, Any]:
    return node("CLIPTextEncode", text=text, clip=list(clip))


def plain(**changes: Any) -> Graph:
    """The default workflow; `_6=...` replaces or adds a node."""
    graph: Graph = {
        "3": sampler(["6", 0], ["7", 0], ["5", 0], 156680208700286),
        "4": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "5": node("EmptyLatentImage", width=64, height=72, batch_size=1),
        "6": encode(CAT),
        "7": encode(UGLY),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="corpus"),
    }
    graph.update({key.strip("_"): value for key, value in changes.items()})
    return {key: value for key, value in graph.items() if value}


def advanced(positive: Any, latent: Any, first: bool, seed: int) -> dict[str, Any]:
    return node(
        "KSamplerAdvanced", model=["4", 0], positive=positive, negative=["7", 0],
        latent_image=latent, add_noise="enable" if first else "disable", noise_seed=seed, steps=2,
        cfg=2.0, sampler_name="euler", scheduler="normal", start_at_step=0 if first else 1,
        end_at_step=1 if first else 10000,
        return_with_leftover_noise="enable" if first else "disable",
    )  # fmt: skip


def custom_advanced(guider: dict[str, Any], **more: Any) -> Graph:
    return plain(
        _3=node(
            "SamplerCustomAdvanced", noise=["20", 0], guider=["21", 0], sampler=["22", 0],
            sigmas=["23", 0], latent_image=["5", 0],
        ),
        _20=node("RandomNoise", noise_seed=4242),
        _21=guider,
        _22=node("KSamplerSelect", sampler_name="euler"),
        _23=node("BasicScheduler", model=["4", 0], scheduler="simple", steps=1, denoise=1.0),
        **more,
    )  # fmt: skip


ENCODERS = node("TinyTextEncoders")


def encoded_by(kind: str, **inputs: Any) -> Graph:
    return plain(
        _6=node(kind, clip=["30", 0], **inputs), _7=encode(UGLY, ("30", 0)), _30=ENCODERS
    )


def sdxl(text_g: str, text_l: str) -> Graph:
    return encoded_by(
        "CLIPTextEncodeSDXL", width=1024, height=1024, crop_w=0, crop_h=0, target_width=1024,
        target_height=1024, text_g=text_g, text_l=text_l,
    )  # fmt: skip


def second_pass(positive: Any, seed: int, **more: Any) -> Graph:
    return plain(
        _8=node("VAEDecode", samples=["11", 0], vae=["4", 2]),
        _10=node(
            "LatentUpscale", samples=["3", 0], upscale_method="nearest-exact", width=96, height=104,
            crop="disabled",
        ),
        _11=sampler(positive, ["7", 0], ["10", 0], seed, denoise=0.5),
        **more,
    )  # fmt: skip


def controlled(positive: Any, negative: Any) -> Graph:
    return plain(
        _3=sampler(positive, negative, ["5", 0], 7),
        _40=node("TinyControlNet"),
        _41=node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        _42=node(
            "ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], control_net=["40", 0],
            image=["41", 0], strength=0.0, start_percent=0.0, end_percent=1.0,
        ),
    )  # fmt: skip


def cases() -> Iterator[tuple[str, Graph, str]]:
    """File name, graph, and what is then changed in the page."""
    yield "plain", plain(), ""
    yield "unicode", plain(_6=encode("猫と\nマット, café 🐈")), ""
    yield (
        "looks_swapped",
        plain(_6=encode("worst quality, ugly, blurry"), _7=encode("masterpiece, best quality")),
        "at(6).title = 'Negative'; at(7).title = 'Positive'",
    )
    yield "negative_encoded_first", plain(_3=sampler(["7", 0], ["6", 0], ["5", 0], 5)), ""
    stages = {
        "3": advanced(["6", 0], ["5", 0], True, 11),
        "10": advanced(["6", 0], ["3", 0], False, 22),
        "8": node("VAEDecode", samples=["10", 0], vae=["4", 2]),
    }
    yield "advanced_two_stages", plain(**stages), ""
    other = {**stages, "10": advanced(["12", 0], ["3", 0], False, 22), "12": encode("a dog")}
    yield "advanced_refined_with_another_prompt", plain(**other), ""
    flux = node("CLIPTextEncodeFlux", clip=["30", 0], clip_l=CAT, t5xxl=CAT, guidance=3.5)
    yield (
        "flux_basic_guider",
        custom_advanced(
            node("BasicGuider", model=["4", 0], conditioning=["24", 0]),
            _6=flux, _7=None, _30=ENCODERS,
            _24=node("FluxGuidance", conditioning=["6", 0], guidance=3.5),
        ),
        "",
    )  # fmt: skip
    yield (
        "cfg_guider",
        custom_advanced(
            node("CFGGuider", model=["4", 0], positive=["6", 0], negative=["7", 0], cfg=2.0)
        ),
        "",
    )
    yield (
        "dual_cfg_guider",
        custom_advanced(
            node(
                "DualCFGGuider", model=["4", 0], cond1=["6", 0], cond2=["12", 0],
                negative=["7", 0], cfg_conds=2.0, cfg_cond2_negative=2.0, style="regular",
            ),
            _12=encode("a dog"),
        ),
        "",
    )  # fmt: skip
    yield (
        "sampler_custom",
        {
            **custom_advanced(node("BasicGuider", model=["4", 0], conditioning=["6", 0])),
            "3": node(
                "SamplerCustom", model=["4", 0], add_noise=True, noise_seed=77, cfg=2.0,
                positive=["6", 0], negative=["7", 0], sampler=["22", 0], sigmas=["23", 0],
                latent_image=["5", 0],
            ),
        },
        "",
    )  # fmt: skip
    yield "sdxl_one_text", sdxl(CAT, CAT), ""
    yield "sdxl_two_texts", sdxl(CAT, "a dog"), ""
    yield (
        "sd3_three_fields",
        encoded_by("CLIPTextEncodeSD3", clip_l=CAT, clip_g=CAT, t5xxl="", empty_padding="none"),
        "",
    )
    yield (
        "lumina2_system_prompt",
        encoded_by("CLIPTextEncodeLumina2", system_prompt="superior", user_prompt=CAT),
        "",
    )
    yield "qwen_edit", encoded_by("TextEncodeQwenImageEdit", prompt="make the cat black"), ""
    yield "controlnet_two_outputs", controlled(["42", 0], ["42", 1]), ""
    yield "controlnet_crossed", controlled(["42", 1], ["42", 0]), ""
    yield (
        "strings_put_together",
        plain(
            _6=encode(["50", 0]),
            _50=node("StringConcatenate", string_a=["51", 0], string_b=["52", 0], delimiter=", "),
            _51=node("PrimitiveStringMultiline", value="a photo of\na cat"),
            _52=node("StringReplace", string=["53", 0], find="dog", replace="mat"),
            _53=node("StringTrim", string="  on a dog  ", mode="Both"),
        ),
        "",
    )
    yield (
        "string_by_regex",
        plain(
            _6=encode(["50", 0]),
            _50=node(
                "RegexReplace", string="a photo of a dog", regex_pattern="d.g", replace="cat",
                case_insensitive=True, multiline=False, dotall=False, count=0,
            ),
        ),
        "",
    )  # fmt: skip
    yield (
        "primitives",
        plain(),
        """for (const [id, name] of [[6, 'text'], [3, 'seed']]) {
            const value = widget(id, name).value, primitive = add('PrimitiveNode')
            const slot = at(id).inputs.findIndex(i => i.name === name)
            primitive.connect(0, at(id), slot)
            primitive.widgets[0].value = name === 'text' ? 'a photo of a primitive cat' : 99 }""",
    )
    yield (
        "reroutes",
        plain(),
        """for (const slot of [1, 2]) {
            let from = at(slot === 1 ? 6 : 7)
            for (let i = 0; i < 2; i++) {
                const reroute = add('Reroute'); from.connect(0, reroute, 0); from = reroute }
            from.connect(0, at(3), slot) }""",
    )
    yield "subgraph_of_encoders", plain(), "subgraph([6, 7, 5])"
    yield (
        "subgraph_with_its_text_outside",
        plain(),
        "subgraph([6, 7]).widgets.find(w => w.value.includes('cat')).value = 'a photo of two cats'",
    )
    yield "subgraph_of_sampler", plain(), "subgraph([3, 8])"
    yield "subgraph_in_subgraph", plain(), "const one = subgraph([6, 7]); subgraph([one.id, 5, 3])"
    yield (
        "bypassed_node",
        plain(
            _3=sampler(["25", 0], ["7", 0], ["5", 0], 8),
            _25=node("FluxGuidance", conditioning=["6", 0], guidance=3.5),
        ),
        "at(25).mode = 4",
    )
    yield (
        "muted_branch",
        plain(
            _60=sampler(["61", 0], ["7", 0], ["5", 0], 9),
            _61=encode("a dog"),
            _62=node("VAEDecode", samples=["60", 0], vae=["4", 2]),
            _63=node("SaveImage", images=["62", 0], filename_prefix="corpus_muted"),
        ),
        "for (const id of [60, 61, 62, 63]) at(id).mode = 2",
    )
    yield (
        "previewed_branch",
        plain(
            _60=sampler(["61", 0], ["7", 0], ["5", 0], 9),
            _61=encode("a dog"),
            _62=node("VAEDecode", samples=["60", 0], vae=["4", 2]),
            _63=node("PreviewImage", images=["62", 0]),
        ),
        "",
    )
    yield (
        "image_to_image",
        plain(
            _5=node("VAEEncode", pixels=["70", 0], vae=["4", 2]),
            _70=node("LoadImage", image="picture.png"),
            _3=sampler(["6", 0], ["7", 0], ["5", 0], 10, denoise=0.5),
        ),
        "",
    )
    yield "hires_fix", second_pass(["6", 0], 156680208700286), ""
    yield "hires_fix_other_seed", second_pass(["6", 0], 1), ""
    yield "hires_fix_other_prompt", second_pass(["12", 0], 1, _12=encode("sharp, detailed")), ""
    area = node(
        "ConditioningSetArea", conditioning=["12", 0], width=64, height=64, x=0, y=0, strength=1.0
    )
    yield (
        "area_composition",
        plain(
            _3=sampler(["81", 0], ["7", 0], ["5", 0], 12),
            _12=encode("a dog on the left"),
            _80=area,
            _81=node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["80", 0]),
        ),
        "",
    )
    yield (
        "two_prompts_combined",
        plain(
            _3=sampler(["81", 0], ["7", 0], ["5", 0], 12),
            _12=encode("a dog"),
            _81=node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["12", 0]),
        ),
        "",
    )
    yield (
        "switch",
        plain(
            _3=sampler(["90", 0], ["7", 0], ["5", 0], 13),
            _12=encode("a dog"),
            _90=node("ComfySwitchNode", switch=True, on_false=["12", 0], on_true=["6", 0]),
        ),
        "",
    )
    yield (
        "negative_zeroed",
        plain(
            _3=sampler(["6", 0], ["7", 0], ["5", 0], 14),
            _7=node("ConditioningZeroOut", conditioning=["6", 0]),
        ),
        "",
    )
    yield "dynamic_prompt", plain(_6=encode("a {white|white} cat /* not said */ on a mat")), ""
    yield (
        "saved_as_webp",
        plain(
            _9=node(
                "SaveAnimatedWEBP", images=["8", 0], filename_prefix="corpus", fps=6.0,
                lossless=False, quality=80, method="default",
            )
        ),
        "",
    )  # fmt: skip


def main(names: list[str]) -> None:
    found = checkout.find_checkout()
    assert found is not None, checkout.missing_reason()
    checkout.enter_checkout(found)
    from hostkit.server import ComfyServer
    from hostkit.tiny_models import write_sd15_checkpoint
    from webkit import browser
    from webkit.front_end import FrontEnd, front_end_arguments

    CORPUS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(found, Path(folder), None, front_end_arguments())
        models = server.base_dir / "models" / "checkpoints"
        write_sd15_checkpoint(models).rename(models / CHECKPOINT)
        pack = server.base_dir / "custom_nodes" / "stand_ins"
        pack.mkdir()
        (pack / "__init__.py").write_text(_STAND_INS)
        picture = Image.effect_mandelbrot((64, 72), (-2, -1.5, 1, 1.5), 20)
        picture.convert("RGB").save(server.base_dir / "input" / "picture.png")
        with server, browser.chromium() as chromium, browser.tabs(chromium) as tabs:
            page = FrontEnd(tabs.new_page(), server, "classic")
            for name, graph, change in cases():
                if names and name not in names:
                    continue
                page.open()  # it remembers what stood in nodes of the same numbers
                drawn = page.page.evaluate(_DRAW, {"graph": graph, "change": change})
                extra = {"extra_pnginfo": {"workflow": drawn["workflow"]}}
                result = server.queue(drawn["output"], extra_data=extra)
                print(name, result.status, result.error)
                records = [
                    one
                    for output in result.outputs.values()
                    for one in output.get("images", ())
                    if one["type"] == "output"
                ]
                _keep(name, server.image(records[0]))


def _keep(name: str, data: bytes) -> None:
    """A PNG's texts as JSON; of another format the file."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format != "PNG":
            (CORPUS / f"{name}.{image.format.lower()}").write_bytes(data)
            return
        image.load()
        texts = {key: json.loads(text) for key, text in image.text.items()}
    text = json.dumps(texts, ensure_ascii=False, separators=(",", ":"))
    (CORPUS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
