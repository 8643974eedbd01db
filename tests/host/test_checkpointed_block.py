"""Checkpointed blocks have the gradients of plain ones, also where they update in place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hostkit.tiny_models import tiny_patcher
from hostkit.training import pack_module
from torch import Tensor, nn

block = pack_module("nodes.host.checkpointed_block")


class Residual(nn.Module):
    """Adds to both streams in place, as Flux's blocks do, and reads options as the host's do."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4, generator=generator))
        self.calls: list[Any] = []

    def forward(
        self, image: Tensor, text: Tensor, scale: float = 1.0, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        index = options["block_index"] if options else 0
        self.calls.append(index)
        both = torch.cat([image, text]).tanh() @ self.weight * scale
        image += (1 + index) * both[: len(image)]
        text += both[len(image) :]
        return image, text


def stack(checkpointed: bool, leaf: Tensor, blocks: list[Residual]) -> Tensor:
    forwards = [block.checkpointed_forward(b.forward) if checkpointed else b for b in blocks]
    image, text = leaf * 1, leaf[:2] * 2
    options: dict[str, Any] = {}
    for index, forward in enumerate(forwards):
        options["block_index"] = index  # the host changes one dict all the way
        image, text = forward(image, text=text, scale=0.5, options=options)
    return (image.square().sum() + text.sum()).double()


def gradients(checkpointed: bool) -> tuple[list[Tensor], list[Residual]]:
    blocks = [Residual() for _ in range(3)]
    leaf = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    # Plain autograd cannot differentiate in-place updates of what it saved; this can.
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        stack(checkpointed, leaf, blocks).backward()
    assert leaf.grad is not None
    return [leaf.grad, *(b.weight.grad for b in blocks)], blocks


def test_gradients_of_blocks_that_update_in_place() -> None:
    (plain, _), (checkpointed, blocks) = gradients(False), gradients(True)
    for expected, found in zip(plain, checkpointed, strict=True):
        assert torch.allclose(found, expected, rtol=1e-6)
    # Once forward, once again in backward, under its own index both times.
    assert [b.calls for b in blocks] == [[0, 0], [1, 1], [2, 2]]


@dataclass
class Modulation:
    shift: Tensor
    scale: Tensor


class Modulated(nn.Module):
    def forward(self, image: Tensor, modulation: tuple[Modulation, ...]) -> Tensor:
        for one in modulation:
            image = image.tanh() * one.scale + one.shift
        return image


@pytest.mark.parametrize("checkpointed", [False, True])
def test_tensors_in_records_are_inputs(checkpointed: bool) -> None:
    image, leaf = torch.ones(3, 4), torch.linspace(-1, 1, 4).requires_grad_()
    steering = leaf.exp()  # one graph steers both blocks
    forward = Modulated().forward
    if checkpointed:
        forward = block.checkpointed_forward(forward)
    for _ in range(2):
        image = forward(image, (Modulation(steering * 2, steering + 1),))
    image.sum().backward()
    # With s = exp(leaf): 2 s + (s + 1) tanh(2 s + (s + 1) tanh 1), derived by hand.
    s = steering.detach().double()
    inner = 2 * s + (s + 1) * math.tanh(1)
    expected = 2 + inner.tanh() + (s + 1) * (1 - inner.tanh() ** 2) * (2 + math.tanh(1))
    assert torch.allclose(leaf.grad.double(), 3 * s * expected, rtol=1e-5)


class Overwriting(nn.Module):
    """Overwrites values that its derivative needs, by an operation in place and by ``out``."""

    def forward(self, image: Tensor) -> Tensor:
        output = image
        scaled = image.square()
        scaled.addcmul_(scaled, image)  # x^2 + x^3
        return torch.add(scaled, image.exp(), out=output)


def test_gradients_of_a_block_that_overwrites_what_it_needs() -> None:
    leaf = torch.linspace(-1, 1, 5).requires_grad_()
    block.checkpointed_forward(Overwriting().forward, True)(leaf).sum().backward()
    x = leaf.detach()
    assert torch.allclose(leaf.grad, 2 * x + 3 * x**2 + x.exp(), rtol=1e-5)


def test_inputs_are_left_as_they_were() -> None:
    image, text = torch.ones(3, 4), torch.ones(2, 4)
    block.checkpointed_forward(Residual().forward)(image, text)
    assert torch.equal(image, torch.ones(3, 4)) and torch.equal(text, torch.ones(2, 4))


def test_a_first_block_fed_with_data_alone_is_recorded() -> None:
    residual = Residual()
    image, _ = block.checkpointed_forward(residual.forward)(torch.ones(3, 4), torch.ones(2, 4))
    image.sum().backward()  # the text's result is not used
    assert residual.weight.grad is not None and residual.weight.grad.norm() > 0


def test_without_gradients_the_block_just_runs() -> None:
    residual = Residual()
    with torch.no_grad():
        image, _ = block.checkpointed_forward(residual.forward)(torch.ones(3, 4), torch.ones(2, 4))
    assert not image.requires_grad and residual.calls == [0]


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
def test_the_repeated_blocks_of_each_family(kind: str) -> None:
    model = tiny_patcher(kind).model.diffusion_model
    found = [type(module).__name__ for module in block.repeated_blocks(model)]
    assert {name: found.count(name) for name in found} == {
        # Up and down one level with a residual block each, two in the middle-less output.
        "sd15": {"ResBlock": 7, "BasicTransformerBlock": 2, "Downsample": 1, "Upsample": 1},
        "sd3": {"JointBlock": 2},
        "flux": {"DoubleStreamBlock": 2, "SingleStreamBlock": 2},
    }[kind]
    inside = [id(m) for b in block.repeated_blocks(model) for m in b.modules()]
    assert len(inside) == len(set(inside))  # no block within a block


def test_nothing_of_a_block_is_kept_but_its_inputs() -> None:
    saved: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    image = torch.ones(3, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        block.checkpointed_forward(Residual().forward)(image, torch.ones(2, 4))
    assert sorted(saved) == [(2, 4), (3, 4)]
