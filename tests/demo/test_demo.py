from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dpo_core import __main__ as command
from dpo_core.demo.demo import DemoSettings, run_demo, train_settings
from dpo_core.demo.denoiser import DemoDenoiser, attached, build_adapter
from dpo_core.demo.judgement import held_out_accuracy, judge
from dpo_core.demo.network import FlowNetwork, load_base, seeded_noise
from dpo_core.demo.picks import drawn, picked_pairs, questions
from dpo_core.demo.pictures import encode
from dpo_core.demo.taste import TASTES, taste
from dpo_core.run import train
from dpo_core.saving.lora_file import read_lora
from dpo_core.training.adapter import AdapterSettings
from dpo_core.training.denoiser import Rows

SMALL = DemoSettings(pairs=4, steps=3, judged=4)


def quiet(stage: str, done: int, total: int) -> None:
    """No progress bar."""


@pytest.fixture(scope="module")
def network() -> FlowNetwork:
    return load_base()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield run_demo(taste("warm"), tmp_path_factory.mktemp("demo"), SMALL, quiet)


def test_everything_it_promises_is_in_one_folder(outcome: Any) -> None:
    names = {path.name for path in outcome.folder.iterdir()}
    assert {
        "before_and_after.png", "curves.png", "lora.safetensors", "metrics.jsonl", "report.html",
        "result.json", "settings.json",
    } <= names
    assert not [name for name in names if name.endswith(".part")]
    tensors, metadata = read_lora(outcome.folder / "lora.safetensors")
    assert any(bool(t.any()) for name, t in tensors.items() if "lora_B" in name)
    assert metadata["ss_steps"] == "3"
    rows = (outcome.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]
    assert json.loads(rows[0])["dpo/raw_loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_the_report_needs_nothing_from_elsewhere(outcome: Any) -> None:
    page = (outcome.folder / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page


def test_base_and_lora_stand_one_above_the_other(outcome: Any) -> None:
    sheet = Image.open(outcome.folder / "before_and_after.png")
    assert sheet.width > 128 * 4 and sheet.height > 2 * 128


def test_a_finished_demo_is_found_again(outcome: Any) -> None:
    before = (outcome.folder / "report.html").stat().st_mtime_ns
    again = run_demo(taste("warm"), outcome.folder.parent, SMALL, quiet)
    assert again.result == outcome.result
    assert (outcome.folder / "report.html").stat().st_mtime_ns == before


def test_an_interrupted_demo_goes_on_and_ends_the_same(outcome: Any, tmp_path: Path) -> None:
    def stop_after_checkpoint(stage: str, done: int, total: int) -> None:
        if stage == "comparing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(taste("warm"), tmp_path, SMALL, stop_after_checkpoint)
    trained: list[int] = []

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "training":
            trained.append(done)

    again = run_demo(taste("warm"), tmp_path, SMALL, watch)
    assert trained == []  # all steps were on disk
    assert again.result == outcome.result
    ours, _ = read_lora(again.folder / "lora.safetensors")
    theirs, _ = read_lora(outcome.folder / "lora.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_network_is_the_base_again_once_the_adapter_is_off(network: FlowNetwork) -> None:
    words = torch.tensor([encode("a tree")])
    noise, level = seeded_noise([1]), torch.tensor([0.5])
    before = network(noise, level, words)
    adapter = build_adapter(network, AdapterSettings(4, 4.0), 0)
    with attached(network, adapter):
        torch.testing.assert_close(network(noise, level, words), before)  # up is zero
        for parameter in adapter.parameters().values():
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))
        assert not torch.allclose(network(noise, level, words), before)
    assert torch.equal(network(noise, level, words), before)


def test_the_denoisers_residual_is_velocity_minus_noise_plus_picture(network: FlowNetwork) -> None:
    picture, noise = seeded_noise([1]).tanh(), seeded_noise([2])
    words = encode("a tree by day")
    residual, power = DemoDenoiser(network).predict(
        Rows(picture, (words,), torch.tensor([0.25]), noise)
    )
    velocity = network(0.75 * picture + 0.25 * noise, torch.tensor([0.25]), torch.tensor([words]))
    torch.testing.assert_close(residual, velocity - (noise - picture))
    torch.testing.assert_close(power, velocity.square().mean().reshape(1))


def test_training_and_held_out_questions_share_no_prompt_and_no_seed() -> None:
    training, held_out = questions(200, 0, False), questions(200, 0, True)
    assert not {q.prompt for q in training} & {q.prompt for q in held_out}
    seeds = [s for q in training + held_out for s in q.seeds]
    assert len(set(seeds)) == len(seeds)
    assert questions(200, 0, False) == training != questions(200, 1, False)


def test_the_liked_picture_is_chosen_but_for_wrong_picks(network: FlowNetwork) -> None:
    asked = questions(4, 0, False)
    pictures = drawn(network, asked)
    warm = TASTES["warm"]

    def gaps(flipped: float) -> list[float]:
        return [
            float((p.chosen[0] - p.chosen[2]).mean() - (p.rejected[0] - p.rejected[2]).mean())
            for p in picked_pairs(asked, pictures, warm, flipped)
        ]

    assert all(gap > 0 for gap in gaps(0.0))
    assert sum(gap < 0 for gap in gaps(0.25)) == 1
    assert all(gap < 0 for gap in gaps(1.0))


def test_a_lora_that_changes_nothing_ties(network: FlowNetwork) -> None:
    adapter = build_adapter(network, AdapterSettings(4, 4.0), 0)
    asked = questions(4, 0, True)
    judged = judge(
        network, adapter, TASTES["warm"], [q.prompt for q in asked], [q.seeds[0] for q in asked]
    )
    assert judged.win_rate.value == 0.5
    assert judged.reward == pytest.approx(0.0, abs=1e-5)
    assert judged.drift == pytest.approx(1.0, abs=1e-4)
    pairs = picked_pairs(asked, drawn(network, asked), TASTES["warm"])
    assert held_out_accuracy(network, adapter, pairs).value == 0.5


def test_a_few_steps_lean_towards_the_picks(network: FlowNetwork) -> None:
    asked = questions(8, 0, False)
    pairs = picked_pairs(asked, drawn(network, asked), TASTES["warm"])
    adapter = build_adapter(network, AdapterSettings(8, 8.0), 0)
    with attached(network, adapter):
        *_, report = train(DemoDenoiser(network), adapter, pairs, train_settings(0), 12)
    assert report.metrics["dpo/accuracy"] >= 0.75
    assert held_out_accuracy(network, adapter, pairs).value >= 0.75


def test_an_unknown_taste_is_one_clear_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["demo", "--taste", "salty"]) == 1
    said = capsys.readouterr().err
    assert "no taste named 'salty'" in said and "warm" in said and "Traceback" not in said


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert command.main(["demo", "--out", str(tmp_path / "file" / "below")]) == 1
    said = capsys.readouterr().err
    assert "cannot be written" in said and "--out" in said and said.count("\n") == 1


def test_numbers_out_of_range_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["demo", "--pairs", "0", "--steps", "0"]) == 1
    assert "--pairs and --steps" in capsys.readouterr().err


def test_a_torch_too_old_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.1.0")
    assert command.main(["demo"]) == 1
    assert "2.1.0 is too old" in capsys.readouterr().err
