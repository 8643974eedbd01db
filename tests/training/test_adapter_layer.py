from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F
from toykit.flow import CPU, PROMPT, ToyFlow, stir, toy_adapter, toy_lora, widen

from dpo_core.training import adapter_layer
from dpo_core.training.adapter import Adapter, AdapterSettings, Target
from dpo_core.training.adapter_layer import KINDS, LOW_RANK
from dpo_core.training.batch import Batch
from dpo_core.training.denoiser import Rows
from dpo_core.training.four_passes import SCHEDULES
from dpo_core.training.objectives import FRESH, Labels, Objective

RANK, ALPHA = 2, 3.0
EPSILON = 2.0**-23


class Case:
    """A layer with an adapter in fp64, and the same function of a weight worked out as a whole."""

    def __init__(self, kind: str, make: Callable[[], Any], shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        self.kind, self.layer = kind, make().double().requires_grad_(False)
        target = Target("x", self.layer, self.layer.forward)
        self.adapter = Adapter([target], AdapterSettings(RANK, ALPHA, kind), CPU, seed=1)
        widen(self.adapter)
        self.adapter.initialise()
        self.at_start = self.adapter.forward("x", x := torch.randn(shape).double())
        self.x = x.requires_grad_()
        stir(self.adapter, size=0.4)
        self.parts = {
            name.removeprefix("x."): parameter
            for name, parameter in self.adapter.parameters().items()
        }

    def whole(self, parts: dict[str, Tensor]) -> Tensor:
        """The adapted weight, written out."""
        weight, change = self.layer.weight, self._change(parts)
        merged = weight + change.reshape(weight.shape)
        if self.kind != "dora":
            return merged
        axes = [axis for axis in range(weight.ndim) if axis != 1]
        norm = merged.detach().square().sum(axes, keepdim=True).sqrt() + EPSILON
        return merged * (parts["dora_scale"] / norm)

    def _change(self, parts: dict[str, Tensor]) -> Tensor:
        if self.kind == "loha":
            one = parts["hada_w1_a"] @ parts["hada_w1_b"]
            return ALPHA / RANK * one * (parts["hada_w2_a"] @ parts["hada_w2_b"])
        if self.kind == "lokr" and "lokr_w2" in parts:
            return torch.kron(parts["lokr_w1"], parts["lokr_w2"])
        if self.kind == "lokr":
            second = parts["lokr_w2_a"] @ parts["lokr_w2_b"]
            return ALPHA / RANK * torch.kron(parts["lokr_w1"], second)
        scale = ALPHA / RANK**0.5 if self.kind == "rslora" else ALPHA / RANK
        return scale * parts["lora_B.weight"].flatten(1) @ parts["lora_A.weight"].flatten(1)

    def applied(self, x: Tensor, weight: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        function = {1: F.conv1d, 2: F.conv2d}[len(layer.kernel_size)]
        return function(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation)


GEOMETRIES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 30), (2, 3, 12)),
    "linear of primes": (lambda: nn.Linear(7, 5), (3, 7)),
    "convolution": (lambda: nn.Conv2d(12, 6, (3, 2), stride=(2, 1), padding=1), (2, 12, 7, 5)),
    "dilated": (lambda: nn.Conv1d(4, 12, 3, padding=2, dilation=2), (2, 4, 9)),
    "1x1": (lambda: nn.Conv2d(4, 8, 1, bias=False), (2, 4, 3, 3)),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_those_of_the_weight_written_out(
    kind: str, geometry: str
) -> None:
    case = Case(kind, *GEOMETRIES[geometry])
    ours = case.adapter.forward("x", case.x)
    leaves = {name: part.detach().clone().requires_grad_() for name, part in case.parts.items()}
    x = case.x.detach().clone().requires_grad_()
    truth = case.applied(x, case.whole(leaves))
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)
    direction = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2)).double()
    (ours * direction).sum().backward()
    (truth * direction).sum().backward()
    torch.testing.assert_close(case.x.grad, x.grad, rtol=1e-10, atol=1e-10)
    for name, leaf in leaves.items():
        assert leaf.grad is not None and leaf.grad.any(), name
        torch.testing.assert_close(case.parts[name].grad, leaf.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_starts_as_the_frozen_layer_bit_for_bit(kind: str, geometry: str) -> None:
    case = Case(kind, *GEOMETRIES[geometry])
    assert torch.equal(case.at_start, case.layer(case.x))


def peft_change(kind: str, layer: nn.Module, parts: dict[str, Tensor]) -> Tensor:
    """What PEFT's own layer adds to the weight."""
    root = nn.Module()
    root.add_module("x", layer)
    make: Any = {"loha": LoHaConfig, "lokr": LoKrConfig}[kind]
    config = make(r=RANK, alpha=ALPHA, target_modules=["x"])
    inject_adapter_in_model(config, root, adapter_name="a")
    made: Any = root.get_submodule("x")
    for name, part in parts.items():
        getattr(made, name)["a"].data = part.detach().reshape(getattr(made, name)["a"].shape)
    return made.get_delta_weight("a")


@pytest.mark.parametrize("kind", ["loha", "lokr"])
@pytest.mark.parametrize("geometry", ["linear", "linear of primes", "1x1"])
def test_it_is_what_peft_means_by_that_type(kind: str, geometry: str) -> None:
    make, shape = GEOMETRIES[geometry]
    case = Case(kind, make, shape)
    ours = case.adapter.forward("x", case.x) - case.layer(case.x)
    change = peft_change(kind, make().double(), case.parts)
    if kind == "lokr" and "lokr_w2" in case.parts:
        change = change / (ALPHA / RANK)  # loaders know no scale where no matrix has a rank
    bare = case.applied(case.x, torch.zeros_like(case.layer.weight))
    theirs = case.applied(case.x, change.reshape(case.layer.weight.shape)) - bare
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_kronecker_factors_are_as_equal_as_can_be_and_the_second_low_rank_where_that_is_less(
) -> None:
    # 30 = 5 x 6 and 12 = 3 x 4; rank 2 is below 6 / 2, not below 5 / 2 for the prime 7 = 1 x 7.
    parts = Case("lokr", lambda: nn.Linear(12, 30), (1, 12)).parts
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        "lokr_w1": (5, 3), "lokr_w2_a": (6, 2), "lokr_w2_b": (2, 4),
    }
    parts = Case("lokr", lambda: nn.Linear(4, 6), (1, 4)).parts
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        "lokr_w1": (2, 2), "lokr_w2": (3, 2),
    }


def test_a_loader_that_divides_by_the_rank_reads_alphas_that_give_the_scale_trained() -> None:
    def alphas(kind: str, pattern: str = "") -> dict[str, float]:
        return toy_adapter(ToyFlow(), rank=4, alpha=3.0, kind=kind, pattern=pattern).alphas()

    assert set(alphas("lora").values()) == set(alphas("dora").values()) == {3.0}
    assert set(alphas("rslora").values()) == {6.0}
    ranked = alphas("rslora", "*prompt = 9")
    assert [ranked[name] for name in sorted(ranked)] == [6.0, 9.0, 6.0]
    assert set(alphas("loha").values()) == {3.0}
    # 4 x 2, 4 x 3 and 2 x 4 channels: every second factor is whole at rank 4.
    assert alphas("lokr") == {}


def test_a_pattern_gives_layers_their_rank() -> None:
    adapter = toy_adapter(ToyFlow(), rank=4, pattern="*.0.* = 2\n*prompt = 3")
    ranks = {name: p.shape[0] for name, p in adapter.parameters().items() if "lora_A" in name}
    assert ranks == {
        "blocks.0.enter.lora_A.weight": 2,
        "blocks.0.prompt.lora_A.weight": 3,
        "blocks.1.leave.lora_A.weight": 4,
    }


def test_dora_begins_with_the_lengths_of_the_frozen_columns() -> None:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[3.0, 0.0], [4.0, 2.0]]), requires_grad=False)
    adapter = Adapter(
        [Target("x", layer, layer.forward)], AdapterSettings(1, 1.0, "dora"), CPU, seed=0
    )
    assert adapter.parameters()["x.dora_scale"].isnan().all()
    adapter.initialise()
    assert adapter.parameters()["x.dora_scale"].tolist() == [[5.0, 2.0]]


def test_dora_reads_a_lent_weight_in_parts_and_gives_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter_layer, "_MOST_NUMBERS", 20)
    layer, lent = nn.Linear(8, 7), []
    mine = torch.randn(7, 8).bfloat16()

    class Lending(nullcontext[Tensor]):
        def __enter__(self) -> Tensor:
            lent.append("lent")
            return mine

        def __exit__(self, *_: object) -> None:
            lent.append("back")

    target = Target("x", layer, lambda x: F.linear(x, mine.float()), Lending)
    adapter = Adapter([target], AdapterSettings(2, 2.0, "dora"), CPU, seed=0)
    adapter.initialise()
    assert lent == ["lent", "back"]
    expected = mine.float().norm(dim=0, keepdim=True)
    torch.testing.assert_close(adapter.parameters()["x.dora_scale"].data, expected)
    stir(adapter)
    with adapter.steady():
        for _ in range(3):
            adapter.forward("x", torch.randn(1, 8))
    assert lent == ["lent", "back"] * 2, "once while nothing changes"


def directions(dropout: float, rank: int = 64, kind: str = "lora") -> Adapter:
    """Adapters whose output shows what is kept of every direction."""
    layers = {name: nn.Linear(rank, rank, bias=False) for name in ("a", "b")}
    adapter = Adapter(
        [Target(name, layer, torch.zeros_like) for name, layer in layers.items()],
        AdapterSettings(rank, float(rank), kind, dropout=dropout), CPU, seed=0,
    )
    adapter.load({name: torch.eye(rank) for name in adapter.parameters()})
    return adapter


def shown(adapter: Adapter, name: str = "a") -> Tensor:
    return adapter.forward(name, torch.ones(1, 64))[0].detach()


def test_a_dropout_holds_for_a_micro_batch_and_differs_between_layers() -> None:
    adapter = directions(0.25)
    with adapter.micro_batch(seed=0, step=1, number=0):
        first = shown(adapter)
        assert torch.equal(shown(adapter), first)
        assert not torch.equal(shown(adapter, "b"), first)
    assert (first == 0).any() and torch.equal(first, 4 / 3 * (first > 0).float())
    assert torch.equal(shown(adapter), torch.ones(64)), "none outside"


def test_a_dropout_follows_from_seed_step_and_number_alone() -> None:
    seen = []
    for key in [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)]:
        torch.manual_seed(len(seen))
        with (adapter := directions(0.5)).micro_batch(*key):
            first = shown(adapter)
        with directions(0.5).micro_batch(9, 9, 9), adapter.micro_batch(*key):
            assert torch.equal(shown(adapter), first)
        assert not any(torch.equal(first, other) for other in seen)
        seen.append(first)


def test_a_dropout_leaves_out_as_much_as_it_says_and_keeps_the_mean() -> None:
    adapter = directions(0.25)
    kept = []
    for step in range(1, 301):
        with adapter.micro_batch(0, step, 0):
            kept.append(shown(adapter))
    share = (torch.stack(kept) == 0).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.01)  # 19,200 draws: a standard error of 0.003
    assert torch.stack(kept).mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("existing", [False, True], ids=["new adapter", "existing adapter"])
def test_neither_the_reference_nor_the_first_step_knows_a_dropout(existing: bool) -> None:
    model = ToyFlow()
    adapter = toy_adapter(model, existing=toy_lora(model) if existing else None, dropout=0.5)
    x = torch.linspace(-1, 1, 32).reshape(1, 2, 4, 4)
    with adapter.reference():
        reference = adapter.forward("blocks.0.enter", x)
    stir(adapter)
    policy = adapter.forward("blocks.0.enter", x)
    with adapter.micro_batch(0, 0, 0):
        assert torch.equal(adapter.forward("blocks.0.enter", x), policy)
    with adapter.micro_batch(0, 1, 0):
        dropped = adapter.forward("blocks.0.enter", x)
        with adapter.reference():
            assert torch.equal(adapter.forward("blocks.0.enter", x), reference)
        assert torch.equal(adapter.forward("blocks.0.enter", x), dropped)
    assert not torch.equal(dropped, policy)


def test_an_interrupted_micro_batch_leaves_no_dropout_behind() -> None:
    adapter = directions(0.5)
    with pytest.raises(KeyboardInterrupt), adapter.micro_batch(0, 1, 0):
        raise KeyboardInterrupt
    assert torch.equal(shown(adapter), torch.ones(64))


def some_pairs(count: int) -> Batch:
    g = torch.Generator().manual_seed(4)
    prompts = tuple(torch.randn(PROMPT, generator=g).double() for _ in range(count))
    noise, sigma = torch.randn(count, 2, 5, 4, generator=g), torch.rand(count, generator=g)
    images = [torch.randn(count, 2, 5, 4, generator=g).double() for _ in range(2)]
    chosen, rejected = (Rows(image, prompts, sigma, noise) for image in images)
    return Batch((chosen, rejected), Labels(torch.ones(count, dtype=torch.float64)))


@pytest.mark.parametrize("kind", KINDS)
def test_all_modes_give_one_gradient_dropout_included(kind: str) -> None:
    gradients = []
    for schedule in SCHEDULES.values():
        model = ToyFlow(torch.float64)
        dropout = 0.4 if kind in LOW_RANK else 0.0
        adapter = toy_adapter(model, rank=4, kind=kind, dropout=dropout)
        widen(adapter)
        stir(adapter)
        objective = Objective(beta=3.0)
        with adapter.micro_batch(0, 1, 0):
            schedule(model, adapter, some_pairs(3), objective, 1.0, FRESH, None)
        gradients.append({name: p.grad for name, p in adapter.parameters().items()})
    for found in gradients[1:]:
        for name, gradient in gradients[0].items():
            assert gradient is not None and gradient.any(), name
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_dropped_directions_get_no_gradient() -> None:
    adapter = directions(0.5)
    with adapter.micro_batch(0, 1, 0):
        kept = shown(adapter) > 0
        adapter.forward("a", torch.ones(1, 64)).sum().backward()
    for name, axis in (("a.lora_A.weight", 1), ("a.lora_B.weight", 0)):
        gradient = adapter.parameters()[name].grad
        assert gradient is not None
        assert torch.equal(gradient.any(axis), kept)
