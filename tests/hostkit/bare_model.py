"""Whether the user's model is what it was."""

from __future__ import annotations

from safetensors.torch import load_file
from torch import Tensor

from hostkit.server import ComfyServer
from hostkit.workflows import Prompt, node, sampled


def bare_latents(server: ComfyServer, checkpoint: str, detour: int) -> Tensor:
    """Sampled from the user's model as it is now."""
    load: Prompt = {"checkpoint": node("CheckpointLoaderSimple", ckpt_name=checkpoint)}
    result = server.queue(load | sampled(["checkpoint", 0], "bare", detour))
    assert result.status == "success", result.error
    assert "bare_sampler" in result.executed
    (record,) = result.outputs["bare_save"]["latents"]
    path = server.base_dir / "output" / record["subfolder"] / record["filename"]
    return load_file(path)["latent_tensor"]
