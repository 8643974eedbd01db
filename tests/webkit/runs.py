"""The Runs panel on the page, and runs on the disk for it to show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_core.run import TrainSettings
from dpo_core.runs.run_record import RunRecord, SavedLora, write_record
from dpo_core.saving.filmstrip import BASE, Filmstrip
from dpo_core.saving.run_folder import RunFolder
from dpo_core.training.adapter import AdapterSettings
from webkit.front_end import FrontEnd
from webkit.pictures import landscape

if TYPE_CHECKING:
    from playwright.sync_api import Locator

STARTED = 1_700_000_000.0


def write_run(
    output: Path,
    name: str,
    settings: TrainSettings | None = None,
    steps: int = 40,
    pictures: bool = False,
    record: RunRecord | None = None,
    **content: Any,
) -> RunFolder:
    """A run of `steps` steps whose LoRA is called `name`, as training leaves it behind."""
    run = RunFolder(
        output / "dpo" / "runs",
        {
            "base": {"kind": "SD15"},
            "name": name,
            "settings": asdict(settings or TrainSettings()),
            "adapter": asdict(AdapterSettings(rank=8, alpha=4.0)),
            "held_out": "",
            "continues": None,
        }
        | content,
    )
    run.open()
    before = content["continues"][1] if content.get("continues") else 0
    for step in range(before + 1, before + steps + 1):
        run.append_metrics(step, _row(step, len(name)))
    (run.path / f"step_{before + steps:08d}.safetensors").write_bytes(b"x" * 300_000)
    (run.path / "model_card.md").write_text(f"# {name}\n\nNo licence is set.")
    lora = output / "loras" / "panel" / f"{name}_00001_.safetensors"
    lora.parent.mkdir(parents=True, exist_ok=True)
    lora.write_bytes(b"weights")
    usual = RunRecord(
        model="dreams_v8.safetensors", pairs=24, held_out=6, target=before + steps, started=STARTED,
        ended=STARTED + 90, end="finished", execution_mode="policy_concurrent",
    )  # fmt: skip
    file = lora.relative_to(output).as_posix()
    loras = (SavedLora(file, before + steps, STARTED + 91),)
    write_record(run.path, replace(record or usual, loras=loras))
    if pictures:
        write_pictures(run, (BASE, before + steps // 2, before + steps))
    return run


def write_pictures(run: RunFolder, steps: Sequence[int]) -> None:
    """Previews of two prompts at each of the steps."""
    strip = Filmstrip(run.path / "previews", ["hills at dusk", "a <b>lake</b>"], {})
    for i, step in enumerate(steps):
        strip.add(step, [landscape(2 * i, 96, 96), landscape(2 * i + 1, 96, 96)])


def _row(step: int, wild: int) -> dict[str, float]:
    wave = math.sin(step * (1 + wild / 7))
    row = {
        "loss/dpo": 0.69 * math.exp(-step / 60) + 0.03 * wave,
        "dpo/accuracy": min(1.0, 0.5 + step / 90 + 0.1 * wave),
        "dpo/reward_margin": 1e-4 * step + 2e-4 * wave,
        "dpo/chosen_reward": 6e-5 * step,
        "dpo/rejected_reward": -4e-5 * step,
        "learning_rate": 5e-5,
    }
    if step % 10 == 0:
        share = 0.5 + step / 120
        row |= {
            "dpo/val_accuracy": share, "dpo/val_accuracy_low": share - 0.2,
            "dpo/val_accuracy_high": min(1.0, share + 0.15), "dpo/val_loss": 0.6,
        }  # fmt: skip
    return row


class RunsTab:
    """The panel, as a person uses it."""

    def __init__(self, front_end: FrontEnd) -> None:
        self.front_end, self.page = front_end, front_end.page
        self.element: Locator = self.page.locator(".dpo-runs")
        # One front end names it by a class, the next by a test id.
        self._switch = self.page.locator(".dpo-runs-tab-button, [data-testid=dpo-runs-tab-button]")

    def open(self) -> None:
        """Show the tab anew, with all runs."""
        self.close()
        self._switch.click()
        self.element.wait_for()
        # Without waiting until it can be seen: of a run that is gone the page goes back by itself.
        self.detail.locator("> .dpo-button").evaluate("button => button.click()")
        self.element.get_by_role("searchbox").fill("")
        self.element.get_by_label("Show runs of one status").select_option("")

    def close(self) -> None:
        if self.element.count():
            self._switch.click()
            self.element.wait_for(state="detached")

    def titles(self) -> list[str]:
        return self.element.locator(".dpo-runs-items .dpo-run-title").all_text_contents()

    def row(self, title: str) -> Locator:
        return self.element.locator(".dpo-run").filter(has_text=title)

    @property
    def detail(self) -> Locator:
        return self.element.locator(".dpo-run-detail")

    def button(self, name: str) -> Locator:
        return self.element.get_by_role("button", name=name, exact=True)

    def ink(self) -> int:
        """How bright the brightest letter at the head of the curves is, 0 to 255."""
        brightest: int = self.element.locator(".dpo-plot-canvas").evaluate(
            """canvas => {
                const { data } = canvas.getContext('2d').getImageData(0, 0, 60, 14);
                const seen = data.filter((_, i) => i % 4 === 0 && data[i + 3] > 200);
                return Math.max(...seen) }"""
        )
        return brightest

    def said(self) -> str:
        return self.element.locator(".dpo-run-said").inner_text()
