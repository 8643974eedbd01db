"""A step beside its bare passes, here and by the loop of diffusers' DPO script.

The script is no package, so its loop is written here anew from what it does: one forward pass of
both images' rows with the LoRA, one without it and without a graph, the sigmoid loss of both
errors' difference, backward, clipping, AdamW, and what it then reads for its log.
Latents and text embeddings are ready in both. Each is compared with the same passes through its
own network, both LoRAs being on the attention layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from .measure import in_turn
from .model import RANK, TOKENS, opened, random_pairs
from .table import Table

SIZE = 16
CONFIG: dict[str, Any] = {
    "sample_size": SIZE, "layers_per_block": 1, "block_out_channels": (320, 320),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 768,
}
ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]


def tables(rounds: int = 10) -> list[Table]:
    table = Table("dpo_script", ("loop", "pairs", "step", "its bare passes", "step over passes"))
    try:
        from diffusers import DDPMScheduler, UNet2DConditionModel
    except ImportError:
        table.note("diffusers is not installed here, so its script's loop was not run.")
        return [table]
    for pairs in (1, 4):
        unet = UNet2DConditionModel(**CONFIG).requires_grad_(False)
        theirs = _Theirs(unet, DDPMScheduler(), pairs)
        with opened("sd15", targets="attention") as run:
            both, alone = run.both(2 * pairs, SIZE), run.forward(2 * pairs, SIZE)

            def passes(both: Any = both, alone: Any = alone) -> None:
                alone()
                both()

            times = in_turn({
                "diffusers": theirs.step, "diffusers' passes": theirs.passes,
                "this": run.step(
                    random_pairs("sd15", pairs, SIZE), batch_size=pairs,
                    execution_mode="full_concurrent",
                ),
                "this passes": passes,
            }, rounds)  # fmt: skip
        for name, base in (("diffusers", "diffusers' passes"), ("this", "this passes")):
            table.add(
                f"{name} pack" if name == "this" else f"{name} script", pairs,
                f"{times[name]:.3f} s", f"{times[base]:.3f} s", times.ratio(name, base),
            )
    return [table]


class _Theirs:
    def __init__(self, unet: Any, scheduler: Any, pairs: int) -> None:
        from peft import LoraConfig

        unet.add_adapter(LoraConfig(
            r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=ATTENTION
        ))
        unet.train()
        self._unet, self._scheduler, self._pairs = unet, scheduler, pairs
        self._parameters = [p for p in unet.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=1e-6)
        self._latents = torch.randn(2 * pairs, 4, SIZE, SIZE)
        self._texts = torch.randn(pairs, TOKENS, 768).repeat(2, 1, 1)
        self._at = self._noised()

    def _noised(self) -> tuple[Any, Any, Any]:
        noise = torch.randn(self._pairs, 4, SIZE, SIZE).repeat(2, 1, 1, 1)
        times = torch.randint(0, 1000, (self._pairs,)).repeat(2)
        return self._scheduler.add_noise(self._latents, noise, times), times, noise

    def passes(self) -> None:
        noisy, times, _ = self._at
        self._unet.disable_adapters()
        with torch.no_grad():
            self._unet(noisy, times, self._texts)
        self._unet.enable_adapters()
        self._unet(noisy, times, self._texts).sample.square().mean().backward()
        self._optimizer.zero_grad()

    def step(self) -> dict[str, float]:
        noisy, times, noise = self._noised()

        def errors() -> torch.Tensor:
            answer = self._unet(noisy, times, self._texts).sample
            return F.mse_loss(answer.float(), noise.float(), reduction="none").flatten(1).mean(1)

        policy = errors()
        self._unet.disable_adapters()
        with torch.no_grad():
            reference = errors()
        self._unet.enable_adapters()
        margin = _difference(reference) - _difference(policy)
        loss = -F.logsigmoid(5000 * margin).mean()
        right = (margin > 0).float().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        read: dict[str, Callable[[], float]] = {
            "loss": loss.item, "policy": policy.mean().item, "reference": reference.mean().item,
            "accuracy": right.item,
        }
        return {name: get() for name, get in read.items()}


def _difference(errors: torch.Tensor) -> torch.Tensor:
    chosen, rejected = errors.chunk(2)
    return chosen - rejected
