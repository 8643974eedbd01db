from __future__ import annotations

from pathlib import Path

from PIL import Image, PngImagePlugin

from dpo_core.metadata.image_metadata import ImageMetadata
from dpo_core.metadata.reading import read_metadata


def test_a_file_without_metadata_tells_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert read_metadata(tmp_path / "a.png") == ImageMetadata()
    assert read_metadata(tmp_path / "missing.png") == ImageMetadata()


def test_a_file_tells_its_prompt(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat\nNegative prompt: ugly\nSteps: 20, Seed: 1")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    assert read_metadata(tmp_path / "a.png").prompt == "a cat"
