"""A folder is read in the background, once, and again only what has changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image
from toykit.generations import picture, write_generation

from dpo_core.curation.found_image import FoundImage
from dpo_core.curation.index import Index
from dpo_core.curation.scan import Scan

ROOT = Path(__file__).parents[2]


def scanned(folder: Path, index: Path, *without: Path) -> Scan:
    scan = Scan(folder, Index(index), without)
    scan.start()
    assert scan.wait(30)
    assert scan.status().state == "done", scan.status()
    return scan


def by_name(scan: Scan) -> dict[str, FoundImage]:
    return {image.name: image for image in scan.findings().images.values()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index.jsonl"


@pytest.mark.parametrize("name", ["a.png", "b.jpg", "c.webp", "d.jpeg"])
def test_an_image_tells_its_prompt_size_and_kind(name: str, folder: Path, index: Path) -> None:
    write_generation(folder / name, "a cat\non a mat", 7, (24, 16), at=1_700_000_000)
    (image,) = by_name(scanned(folder, index)).values()
    assert (image.prompt, image.width, image.height) == ("a cat on a mat", 24, 16)
    assert image.kind == {"png": "PNG", "webp": "WEBP"}.get(name.split(".")[1], "JPEG")
    assert image.at == 1_700_000_000_000 and image.problem == ""


def test_the_size_is_that_of_the_image_as_it_is_shown(folder: Path, index: Path) -> None:
    for suffix in ("png", "jpg", "webp"):
        write_generation(folder / f"turned.{suffix}", "a cat", 1, (24, 16), orientation=6)
    sizes = {(image.width, image.height) for image in by_name(scanned(folder, index)).values()}
    assert sizes == {(16, 24)}


def test_a_caption_beside_an_image_is_its_prompt(folder: Path, index: Path) -> None:
    write_generation(folder / "a.png", "a cat", 1)
    (folder / "a.txt").write_text("a tabby\n")
    assert by_name(scanned(folder, index))["a.png"].prompt == "a tabby"
    (folder / "a.txt").write_text("a ginger cat\n")
    assert by_name(scanned(folder, index))["a.png"].prompt == "a ginger cat"
    (folder / "a.txt").unlink()
    assert by_name(scanned(folder, index))["a.png"].prompt == "a cat"


def test_an_unknown_prompt_and_an_empty_one_differ_and_stay_so(folder: Path, index: Path) -> None:
    write_generation(folder / "none.png", None, 1)
    write_generation(folder / "empty.png", "", 2)
    for _ in range(2):
        found = by_name(scanned(folder, index))
        assert (found["none.png"].prompt, found["empty.png"].prompt) == (None, "")


def test_only_png_jpeg_and_webp_by_content_are_taken(folder: Path, index: Path) -> None:
    Image.new("RGB", (9, 9)).save(folder / "gif.png", "GIF")
    Image.new("RGB", (9, 9)).save(folder / "bmp.png", "BMP")
    Image.new("RGB", (9, 9)).save(folder / "really_a_jpeg.png", "JPEG")
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.webp").touch()
    Image.new("RGB", (9, 9)).save(folder / "other.bmp")
    found = by_name(scanned(folder, index))
    assert {name for name, image in found.items() if not image.problem} == {"really_a_jpeg.png"}
    assert found["really_a_jpeg.png"].kind == "JPEG" and len(found) == 6
    assert "no PNG, JPEG or WebP" in found["bmp.png"].problem


def test_a_decompression_bomb_is_refused_by_its_header(folder: Path, index: Path) -> None:
    image = write_generation(folder / "bomb.png", "a cat", 1)
    data = bytearray(image.read_bytes())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    image.write_bytes(bytes(data))
    assert "million pixels" in by_name(scanned(folder, index))["bomb.png"].problem


def test_an_unchanged_folder_is_not_read_again(folder: Path, index: Path) -> None:
    for seed in range(5):
        write_generation(folder / f"{seed}.png", "a cat", seed)
    first = scanned(folder, index)
    assert first.status().from_index == 0
    for path in folder.iterdir():
        path.chmod(0)  # for those who are not root it could not even be opened
    second = scanned(folder, index)
    assert second.status().from_index == 5 and second.findings().images.keys() == by_id(first)
    assert {**second.findings().images} == {**first.findings().images}


def by_id(scan: Scan) -> set[str]:
    return {*scan.findings().images}


def test_what_changed_was_added_or_taken_away_is_noticed(folder: Path, index: Path) -> None:
    for seed in range(4):
        write_generation(folder / f"{seed}.png", "a cat", seed, at=1_700_000_000)
    scan = scanned(folder, index)
    write_generation(folder / "0.png", "a dog", 0, at=1_700_000_001)
    (folder / "1.png").unlink()
    write_generation(folder / "new.png", "a cat", 9)
    before = scan.findings().revision
    scan.start()
    assert scan.wait(30)
    found = by_name(scan)
    assert found.keys() == {"0.png", "2.png", "3.png", "new.png"}
    assert found["0.png"].prompt == "a dog" and scan.status().from_index == 2
    assert scan.findings().revision > before
    assert by_name(scanned(folder, index)) == found


def test_links_out_of_the_folder_and_left_out_folders_are_not_read(
    folder: Path, index: Path, tmp_path: Path
) -> None:
    write_generation(tmp_path / "secret" / "a.png", "secret", 1)
    (folder / "file.png").symlink_to(tmp_path / "secret" / "a.png")
    (folder / "folder").symlink_to(tmp_path / "secret")
    write_generation(folder / "ours" / "b.png", "ours", 2)
    write_generation(folder / "deep" / "er" / "c.png", "a cat", 3)
    scan = scanned(folder, index, folder / "ours")
    assert [name for name, one in by_name(scan).items() if not one.problem] == ["deep/er/c.png"]
    assert "leads out" in by_name(scan)["file.png"].problem
    assert ["leads out" in problem.what for problem in scan.status().problems] == [True]


def test_hostile_names_are_read_and_come_back_from_the_index(folder: Path, index: Path) -> None:
    names = ["new\nline.png", "ünï\u202ecode 🐈.png", "n" * 200 + ".png", "<script>.png", "'\".png"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"\xff\xfe.png"))
    for seed, name in enumerate(names):
        picture(seed).save(folder / name, "PNG")
    assert by_name(scanned(folder, index)).keys() == set(names)
    again = scanned(folder, index)
    assert again.status().from_index == len(names) and by_name(again).keys() == set(names)


def test_exact_copies_get_one_digest_and_others_none(folder: Path, index: Path) -> None:
    write_generation(folder / "a.png", "a cat", 1)
    write_generation(folder / "b.png", "another graph", 1)
    write_generation(folder / "c.png", "a cat", 2)
    nearly = picture(1)
    nearly.putpixel((0, 0), (1, 2, 3))
    write_generation(folder / "d.png", "a cat", 1, image=nearly)
    for _ in range(2):
        found = by_name(scanned(folder, index))
        assert found["a.png"].digest == found["b.png"].digest != ""
        assert found["c.png"].digest == ""
        assert found["d.png"].digest in ("", found["d.png"].digest)
        assert found["d.png"].digest != found["a.png"].digest


def test_files_that_vanish_while_it_reads_do_no_harm(folder: Path, index: Path) -> None:
    for seed in range(60):
        write_generation(folder / f"{seed:02}.png", "a cat", seed, at=1_700_000_000 - seed)
    scan = Scan(folder, Index(index))
    scan.start()
    for seed in range(59, 20, -1):
        (folder / f"{seed:02}.png").unlink()
    assert scan.wait(30) and scan.status().state == "done"
    assert {f"{seed:02}.png" for seed in range(21)} <= {
        name for name, image in by_name(scan).items() if not image.problem
    }
    assert len(by_name(scanned(folder, index))) == 21


def test_a_scan_that_is_stopped_goes_on_where_it_was(folder: Path, index: Path) -> None:
    for seed in range(150):
        write_generation(folder / f"{seed}.png", "a cat", seed)
    scan = Scan(folder, Index(index))
    scan.start()
    while scan.status().read < 20:
        time.sleep(0.001)
    scan.stop()
    read = scan.status().read
    assert scan.status().state == "stopped" and 20 <= read < 150
    assert scanned(folder, index).status().from_index == read
    scan.start()
    assert scan.wait(30) and len(by_name(scan)) == 150


def test_a_folder_that_is_gone_fails_with_a_sentence_and_can_be_tried_again(
    folder: Path, index: Path
) -> None:
    folder.rmdir()
    scan = Scan(folder, Index(index))
    scan.start()
    assert scan.wait(30)
    assert scan.status().state == "failed" and "no such folder" in scan.status().error
    folder.mkdir()
    write_generation(folder / "a.png", "a cat", 1)
    scan.start()
    assert scan.wait(30) and scan.status().state == "done" and len(by_name(scan)) == 1


def test_a_scan_killed_in_the_middle_loses_little_and_reads_no_half_line(
    folder: Path, index: Path
) -> None:
    for seed in range(300):
        write_generation(folder / f"{seed}.png", "a cat", seed)
    program = (
        "import sys, pathlib\n"
        "from dpo_core.curation.scan import Scan\n"
        "from dpo_core.curation.index import Index\n"
        "scan = Scan(pathlib.Path(sys.argv[1]), Index(pathlib.Path(sys.argv[2])))\n"
        "scan.start()\nscan.wait()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(folder), str(index)], cwd=ROOT)
    while not index.exists() or index.stat().st_size < 20_000:
        time.sleep(0.002)
        assert child.poll() is None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    saved = index.read_bytes()
    index.write_bytes(saved[: len(saved) - 30])  # as if the last line had been torn
    whole = sum(1 for line in saved.split(b"\n") if line)
    scan = scanned(folder, index)
    assert scan.status().from_index == whole - 1 and len(by_name(scan)) == 300
    assert scanned(folder, index).status().from_index == 300


def test_two_scans_of_one_folder_at_once_agree(folder: Path, index: Path) -> None:
    for seed in range(100):
        write_generation(folder / f"{seed}.png", f"cat {seed % 3}", seed)
    scans = [Scan(folder, Index(index)) for _ in range(2)]
    for scan in scans:
        scan.start()
        scan.start()
    assert all(scan.wait(30) for scan in scans)
    assert by_name(scans[0]) == by_name(scans[1]) == by_name(scanned(folder, index))


def test_lines_of_files_long_gone_are_tidied_away(folder: Path, index: Path) -> None:
    image = by_name_of_one(folder, index)
    line = index.read_bytes().strip() + b"\n"
    old = line.replace(b'"name":"a.png"', b'"name":"old.png"')
    index.write_bytes(line + old * 3000)
    assert by_name(scanned(folder, index)) == {"a.png": image}
    assert index.read_bytes() == line


def by_name_of_one(folder: Path, index: Path) -> FoundImage:
    write_generation(folder / "a.png", "a cat", 1)
    return by_name(scanned(folder, index))["a.png"]


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"null", b'{"v": 2}', b'{"v": 1, "name": 3}', b'{"v":1,"name":"a.png"}',
     b'{"v":1,"id":"x","name":"a.png","bytes":1,"mtime_ns":1,"kind":"SVG","width":1,"height":1}',
     b'{"v":1,"id":"x","name":"a.png","bytes":true,"mtime_ns":1}', b"\xff" * 99, b"[" * 9999],
)  # fmt: skip
def test_damaged_lines_of_the_index_are_passed_over(
    line: bytes, folder: Path, index: Path
) -> None:
    image = by_name_of_one(folder, index)
    index.write_bytes(line + b"\n" + index.read_bytes() + line)
    assert by_name(scanned(folder, index)) == {"a.png": image}


def test_the_index_holds_what_a_person_can_read(folder: Path, index: Path) -> None:
    by_name_of_one(folder, index)
    (line,) = [line for line in index.read_text().split("\n") if line]
    assert json.loads(line)["prompt"] == "a cat"
