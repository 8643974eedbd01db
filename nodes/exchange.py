"""Preferences that other programs have written."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
from comfy_api.v0_0_2 import io

from ..dpo_core.exchange.image_folder import ImageFolder
from ..dpo_core.exchange.importing import LAYOUTS, import_folder, import_stamp
from ..dpo_core.exchange.preference_import import MAX_ROWS
from ..dpo_core.pairs.problem import PairError
from .host.folders import (
    READABLE,
    FolderNotAllowed,
    imports_folder,
    listed_folder,
    readable_folder,
    shown,
)
from .host.progress import say
from .types import CATEGORY, Pairs


class ImportPreferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DPOImportPreferences",
            display_name="Import Preferences (DPO)",
            category=CATEGORY,
            description="Reads preferences of other programs: a folder of OneTrainer's pair tool, "
            "or a dataset of Parquet files such as Pick-a-Pic. Reads back what Export Pair Folder "
            "has written in these layouts, with nothing lost.",
            search_aliases=["onetrainer", "huggingface", "pick-a-pic", "parquet", "dpo dataset"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    placeholder="dpo/export",
                    tooltip=f"{READABLE} Nothing is downloaded: put the dataset's .parquet files "
                    "there, or the folder that OneTrainer's pair tool wrote to.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="auto",
                    tooltip="auto looks at what the folder holds. onetrainer: manifest.json, else "
                    "concepts.json, else the folders chosen and rejected. huggingface: Parquet "
                    "files with the columns of Pick-a-Pic, or chosen, rejected and prompt (needs "
                    "the package pyarrow).",
                ),
                io.Int.Input(
                    "limit",
                    default=0,
                    min=0,
                    max=MAX_ROWS,
                    tooltip="Of a dataset, reads so many rows from the start; 0 reads all. Set it "
                    "to try a large one: the images of all rows that are read are kept in "
                    "output/dpo/imports, for training needs them.",
                ),
                io.Combo.Input(
                    "on_problem",
                    options=["error", "skip"],
                    default="error",
                    tooltip="error stops and lists everything wrong; skip leaves those pairs out "
                    "and lists them in the report.",
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
            return import_stamp(readable_folder(folder), listed_folder)
        except (FolderNotAllowed, PairError, OSError) as error:
            return str(error)

    @classmethod
    def execute(cls, folder: str, layout: str, limit: int, on_problem: str) -> io.NodeOutput:
        source = readable_folder(folder)
        images = ImageFolder(imports_folder(source))
        bar = comfy.utils.ProgressBar(1, node_id=cls.hidden.unique_id)

        def progress(done: int, total: int) -> None:
            bar.update_absolute(done, total)
            comfy.model_management.throw_exception_if_processing_interrupted()

        try:
            reading = import_folder(
                source, images, listed_folder, layout, on_problem, limit, progress
            )
        except OSError as error:
            raise ValueError(
                f"The dataset's images could not be kept in {shown(images.path)} "
                f"({error.strerror or error}). Make room, and run again."
            ) from error
        say(reading.report, cls.hidden.unique_id)
        return io.NodeOutput(reading.pairs, reading.report, ui={"text": [reading.report]})
