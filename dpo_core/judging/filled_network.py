"""A network all of whose weights come from a file: none is left as it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .judge import JudgeError

SHOWN = 5
"""Weights of one kind named in an error."""

_POSITIONS = "position_ids"


def filled_network(
    build: Callable[[], nn.Module],
    tensors: Mapping[str, Tensor],
    source: str,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A network of `transformers` for inference, on the CPU, no larger in memory than its weights.

    Args:
        build: makes the network; it is called where making a tensor takes no memory.
        tensors: every weight by its name in the network. Tables of positions may be among them,
            which older files hold.
        source: how messages call where they are from.
        dtype: of the weights.

    Raises:
        JudgeError: the network cannot be built, a weight is missing, left over, or of another
            shape.
    """
    given = {
        name: tensor for name, tensor in tensors.items() if name.split(".")[-1] != _POSITIONS
    }
    with torch.device("meta"):
        try:
            network = build()
        except Exception as error:  # whatever the library makes of sizes that make no sense
            raise JudgeError(f"No network can be made of the sizes of {source}: {error}") from error
    wanted = network.state_dict()
    given = {name: _shaped(tensor, wanted.get(name)) for name, tensor in given.items()}
    if problems := _mismatches(wanted, given):
        raise JudgeError(
            f"The weights of {source} are not those of the architecture it says it has:\n"
            + "\n".join(f"  - {one}" for one in problems)
            + "\nGet the file again, or choose the kind of judge it was made for."
        )
    network.load_state_dict(
        {name: tensor.to(dtype) for name, tensor in given.items()}, strict=True, assign=True
    )
    _count_positions(network)
    return network.eval().requires_grad_(False)


def _shaped(tensor: Tensor, wanted: Tensor | None) -> Tensor:
    """A single number may be saved as one of any number of dimensions."""
    single = wanted is not None and tensor.numel() == wanted.numel() == 1
    return tensor.reshape(wanted.shape) if single and wanted is not None else tensor


def _mismatches(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    shapes = [
        f"{name} is {_size(given[name])}, not {_size(wanted[name])}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    kinds = (
        ("missing", [name for name in wanted if name not in given]),
        ("unknown", [name for name in given if name not in wanted]),
        ("of another shape", shapes),
    )
    return [f"{kind}: {_listed(found)}" for kind, found in kinds if found]


def _listed(found: list[str]) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _count_positions(network: nn.Module) -> None:
    """The tables 0, 1, 2, ... are in no file."""
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta and name == _POSITIONS:
                counted = torch.arange(buffer.shape[-1]).expand(buffer.shape)
                module.register_buffer(name, counted, persistent=False)
    made = (tensor for one in (network.buffers(), network.parameters()) for tensor in one)
    if any(tensor.is_meta for tensor in made):
        raise JudgeError(
            "This version of the package transformers builds its networks in a way that is not "
            "known here. Install another version."
        )
