"""Where preferences come from, and the folders they can be written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..dpo_core.exchange.onetrainer_layout import export_onetrainer
from ..dpo_core.exchange.preference_export import export_preferences
from ..dpo_core.pairs.export import export_pair_folder
from ..dpo_core.pairs.folder import folder_manifest, load_pair_folder
from ..dpo_core.pairs.labelled_folder import load_labelled_folder
from ..dpo_core.pairs.problem import PairError, PairProblem
from ..dpo_core.pairs.record import Pair, PairSet, Picture
from ..dpo_core.pairs.split import split_by_prompt
from .host.folders import (
    READABLE,
    WRITABLE,
    FolderNotAllowed,
    readable_folder,
    shown,
    writable_folder,
)
from .host.progress import say
from .types import CATEGORY, Pairs

EXPORTS = {
    "pair_folder": export_pair_folder,
    "onetrainer": export_onetrainer,
    "huggingface": export_preferences,
}
"""How pairs are written, by the name of the layout."""


class LoadPairFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOLoadPairFolder",
            display_name="Load Pair Folder (DPO)",
            category=CATEGORY,
            description="Reads chosen and rejected images with their captions from a folder.",
            search_aliases=["preference pairs", "chosen rejected", "dpo dataset"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.String.Input("folder", default="", placeholder="pairs", tooltip=READABLE),
                io.String.Input(
                    "chosen_pattern",
                    default="chosen/{}",
                    tooltip="Where the better images are; {} stands for the name both images of a "
                    "pair share, without its ending. Subfolders and a split into train and val "
                    "are found by themselves. The prompt is read from a .txt beside the chosen "
                    "image, else from the image itself.",
                ),
                io.String.Input(
                    "rejected_pattern",
                    default="rejected/{}",
                    tooltip="Where the worse images are, in the same way.",
                ),
                io.Combo.Input(
                    "on_problem",
                    options=["error", "skip"],
                    default="error",
                    tooltip="error stops and lists everything wrong with the folder; skip leaves "
                    "those pairs out and lists them in the report.",
                ),
            ],
            outputs=[
                Pairs.Output(display_name="pairs"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, **_: Any) -> str | float:
        if folder is None:  # linked: which folder it is, is not known before the node runs
            return float("nan")
        try:
            return folder_manifest(readable_folder(folder))
        except (FolderNotAllowed, PairError, OSError) as error:
            return str(error)

    @classmethod
    def execute(
        cls, folder: str, chosen_pattern: str, rejected_pattern: str, on_problem: str
    ) -> io.NodeOutput:
        reading = load_pair_folder(
            readable_folder(folder), chosen_pattern, rejected_pattern, on_problem
        )
        say(reading.report, cls.hidden.unique_id)
        return io.NodeOutput(reading.pairs, reading.report, ui={"text": [reading.report]})


class PairsFromImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOPairsFromImages",
            display_name="Pairs from Images (DPO)",
            category=CATEGORY,
            description="Pairs images of this graph: the first chosen with the first rejected, and "
            "so on. Takes single images, batches and lists.",
            is_input_list=True,
            inputs=[
                io.Image.Input("chosen", tooltip="The better images."),
                io.Image.Input("rejected", tooltip="The worse ones, in the same order and size."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="The prompt of all pairs; or a list with one for each.",
                ),
            ],
            outputs=[Pairs.Output(display_name="pairs")],
        )

    @classmethod
    def execute(
        cls, chosen: list[Tensor], rejected: list[Tensor], prompt: list[str]
    ) -> io.NodeOutput:
        better, worse = _single_images(chosen), _single_images(rejected)
        problems = []
        if len(better) != len(worse):
            problems.append(PairProblem(
                f"{len(better)} chosen but {len(worse)} rejected images", "the node's inputs",
                "Connect as many of one as of the other; they are paired in order.",
            ))
        if len(prompt) not in (1, len(better)):
            problems.append(PairProblem(
                f"{len(prompt)} prompts for {len(better)} pairs", "prompt",
                "Give one prompt for all pairs, or one for each.",
            ))
        prompts = prompt * len(better) if len(prompt) == 1 else prompt
        pairs = []
        for i, (a, b, text) in enumerate(zip(better, worse, prompts, strict=False)):
            where = f"pair {i + 1}"
            if a.shape != b.shape:
                problems.append(PairProblem(
                    f"Chosen image is {_size(a)}, rejected {_size(b)}", where,
                    "Crop or scale both images of a pair to one size.",
                ))
                continue
            try:
                pair = Pair(text, Picture.from_pixels(a.cpu().numpy()),
                            Picture.from_pixels(b.cpu().numpy()), source="graph")
            except PairError as error:
                problems += [PairProblem(p.what, where, p.fix) for p in error.problems]
                continue
            if pair.chosen == pair.rejected:
                problems.append(PairProblem(
                    "Chosen and rejected are the same image",
                    where,
                    "Connect two different images.",
                ))
            pairs.append(pair)
        if problems:
            raise PairError(problems)
        return io.NodeOutput(PairSet.folded(pairs))


class JoinPairs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOJoinPairs",
            display_name="Join Pairs (DPO)",
            category=CATEGORY,
            description="Puts two sets of pairs together. The same pair in both counts once.",
            inputs=[
                Pairs.Input("pairs_a", tooltip="These come first."),
                Pairs.Input("pairs_b", tooltip="Those of these that are not in pairs_a follow."),
            ],
            outputs=[Pairs.Output(display_name="pairs")],
        )

    @classmethod
    def execute(cls, pairs_a: PairSet, pairs_b: PairSet) -> io.NodeOutput:
        return io.NodeOutput(pairs_a.join(pairs_b))


class ExportPairFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOExportPairFolder",
            display_name="Export Pair Folder (DPO)",
            category=CATEGORY,
            description="Writes pairs as a folder of chosen and rejected images with captions, "
            "as a folder for OneTrainer, or as a dataset. An earlier export in its place is "
            "replaced, nothing else ever is.",
            search_aliases=["onetrainer", "huggingface", "pick-a-pic", "parquet", "concepts.json"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                Pairs.Input("pairs", tooltip="What to write."),
                io.String.Input("folder", default="dpo/export", tooltip=WRITABLE),
                io.Combo.Input(
                    "layout",
                    options=list(EXPORTS),
                    default="pair_folder",
                    optional=True,
                    tooltip="pair_folder: chosen and rejected images with captions, which this and "
                    "most trainers read. onetrainer: the same in train and val, with OneTrainer's "
                    "concepts.json and manifest.json. huggingface: a dataset of Parquet files with "
                    "the images inside, as Pick-a-Pic (needs the package pyarrow). The last two "
                    "also keep ties, thumbs and rankings, and Import Preferences reads them back.",
                ),
                io.Int.Input(
                    "validation_percent",
                    default=10,
                    min=0,
                    max=90,
                    optional=True,
                    tooltip="For onetrainer and huggingface: this share of your prompts goes to "
                    "val, all pairs of a prompt together, always the same ones. Pairs that have "
                    "a train and val of their own keep it. 0 makes no split.",
                ),
            ],
            outputs=[io.String.Output(display_name="path")],
        )

    @classmethod
    def execute(
        cls,
        pairs: PairSet,
        folder: str,
        layout: str = "pair_folder",
        validation_percent: int = 10,
    ) -> io.NodeOutput:
        target = writable_folder(folder)
        if layout != "pair_folder":
            pairs = split_by_prompt(pairs, validation_percent)
        try:
            path = EXPORTS[layout](pairs, target)
        except OSError as error:
            raise ValueError(
                f"The pairs could not be written to {target} ({error.strerror or error}). Nothing "
                "half-written is left. Make room or give another folder, and run again."
            ) from error
        line = f"Wrote {shown(path)}: {pairs.summary()[0]}"
        say(line, cls.hidden.unique_id)
        return io.NodeOutput(str(path), ui={"text": [line]})


class LoadLabelledFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOLoadLabelledFolder",
            display_name="Load Labelled Folder (DPO)",
            category=CATEGORY,
            description="Reads liked and disliked images with their captions from two folders.",
            search_aliases=["kto", "liked disliked", "thumbs"],
            inputs=[
                io.String.Input(
                    "liked", default="",
                    tooltip=f"Images you like. May be left empty. {READABLE}",
                ),
                io.String.Input(
                    "disliked", default="",
                    tooltip=f"Images you do not like. May be left empty. {READABLE}",
                ),
                io.Combo.Input(
                    "on_problem", options=["error", "skip"], default="error",
                    tooltip="error stops and lists everything wrong with the folders; skip leaves "
                    "those images out and lists them in the report.",
                ),
            ],
            outputs=[
                Pairs.Output(display_name="pairs"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, liked: str | None, disliked: str | None, **_: Any
    ) -> str | float:
        if liked is None or disliked is None:  # linked: not known before the node runs
            return float("nan")
        try:
            return " ".join(map(_manifest, (liked, disliked)))
        except (FolderNotAllowed, PairError, OSError) as error:
            return str(error)

    @classmethod
    def execute(cls, liked: str, disliked: str, on_problem: str) -> io.NodeOutput:
        folders: list[Path | str] = []
        problems: list[str] = []
        for name, text in (("liked", liked), ("disliked", disliked)):
            try:
                folders.append(readable_folder(text) if text.strip() else "")
            except FolderNotAllowed as error:
                problems.append(f"{name}: {error}")
        if problems:
            raise FolderNotAllowed("\n".join(problems))
        reading = load_labelled_folder(folders[0], folders[1], on_problem)
        return io.NodeOutput(reading.pairs, reading.report, ui={"text": [reading.report]})


def _manifest(text: str) -> str:
    return folder_manifest(readable_folder(text)) if text.strip() else ""


def _single_images(images: list[Tensor]) -> list[Tensor]:
    """Images of shape (height, width, 3) from any mix of lists, batches and single images."""
    singles = [one for image in images for one in (image if image.ndim == 4 else [image])]
    return [one[..., :3] for one in singles]


def _size(image: Tensor) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
