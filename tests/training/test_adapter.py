from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toykit.flow import CPU, ToyFlow, stir, toy_adapter, toy_lora

from dpo_core.training.adapter import Adapter, AdapterSettings, Target
from dpo_core.training.adapter_layer import KINDS
from dpo_core.training.lora_weights import LoraWeights


def one_layer(
    layer: nn.Module, rank: int = 2, alpha: float = 3.0, kind: str = "lora"
) -> Adapter:
    settings = AdapterSettings(rank, alpha, kind)
    return Adapter([Target("x", layer, layer.forward)], settings, CPU, seed=0)


def set_up(adapter: Adapter) -> tuple[Tensor, Tensor]:
    """Makes the LoRA of layer ``x`` count; returns down and up."""
    stir(adapter, size=0.5)
    parameters = adapter.parameters()
    return parameters["x.lora_A.weight"], parameters["x.lora_B.weight"]


def layer_weights(adapter: Adapter) -> dict[str, LoraWeights]:
    """What is trained, as a LoRA to go on from."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in adapter.names}
    for name, tensor in adapter.snapshot().items():
        layer = next(layer for layer in adapter.names if name.startswith(f"{layer}."))
        parts[layer][name.removeprefix(f"{layer}.")] = tensor
    return {name: LoraWeights(found, adapter.alphas().get(name)) for name, found in parts.items()}


def test_a_new_adapter_changes_nothing_until_it_is_trained() -> None:
    layer, x = nn.Linear(5, 3), torch.randn(4, 5)
    adapter = one_layer(layer)
    assert torch.equal(adapter.forward("x", x), layer(x))
    assert not adapter.parameters()["x.lora_B.weight"].any()
    assert adapter.parameters()["x.lora_A.weight"].all()
    set_up(adapter)
    assert not torch.equal(adapter.forward("x", x), layer(x))


def test_a_linear_layer_gets_alpha_over_rank_times_up_times_down() -> None:
    layer, x = nn.Linear(5, 3), torch.randn(2, 4, 5)
    adapter = one_layer(layer, rank=2, alpha=3.0)
    down, up = set_up(adapter)
    assert (tuple(down.shape), tuple(up.shape)) == ((2, 5), (3, 2))
    expected = nn.functional.linear(x, layer.weight + 3 / 2 * up @ down, layer.bias)
    torch.testing.assert_close(adapter.forward("x", x), expected)


CONVOLUTIONS: list[tuple[Callable[[], Any], tuple[int, ...], Callable[..., Tensor]]] = [
    (lambda: nn.Conv1d(4, 6, 3), (4, 9), nn.functional.conv1d),
    (lambda: nn.Conv2d(4, 6, 1), (4, 5, 6), nn.functional.conv2d),
    (lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 5, 6), nn.functional.conv2d),
    (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)), (4, 7, 6),
     nn.functional.conv2d),
    (lambda: nn.Conv2d(4, 6, 3, padding="same", bias=False), (4, 5, 6), nn.functional.conv2d),
    (lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2), (4, 7, 7), nn.functional.conv2d),
    (lambda: nn.Conv3d(4, 6, (1, 3, 3), padding=(0, 1, 1)), (4, 3, 5, 4), nn.functional.conv3d),
]


@pytest.mark.parametrize(
    ("make", "shape", "function"), CONVOLUTIONS,
    ids=["1d", "1x1", "padded", "strided", "same", "dilated", "3d"],
)
def test_a_convolution_gets_the_same_geometry_as_its_merged_weight(
    make: Callable[[], Any], shape: tuple[int, ...], function: Callable[..., Tensor]
) -> None:
    layer, x = make(), torch.randn(2, *shape)
    adapter = one_layer(layer, rank=2, alpha=3.0)
    down, up = set_up(adapter)
    assert tuple(down.shape) == (2, *layer.weight.shape[1:])
    assert tuple(up.shape) == (6, 2, *[1] * (len(shape) - 1))
    merged = layer.weight + 3 / 2 * (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)
    expected = function(x, merged, layer.bias, layer.stride, layer.padding, layer.dilation)
    torch.testing.assert_close(adapter.forward("x", x), expected, atol=1e-5, rtol=1e-5)


class HostLinear(nn.Module):
    """A host's own linear layer: not an nn.Linear, and its weight is nobody else's business."""

    in_features, out_features = 5, 3

    @property
    def weight(self) -> Tensor:
        raise AssertionError("the adapter read the host's weight")

    def compute(self, x: Tensor) -> Tensor:
        return x[..., :3] * 2


def test_a_layer_is_known_by_its_geometry_alone_and_its_weight_is_not_read() -> None:
    layer = HostLinear()
    adapter = Adapter([Target("x", layer, layer.compute)], AdapterSettings(), CPU, 0)
    x = torch.randn(2, 5)
    assert torch.equal(adapter.forward("x", x), x[:, :3] * 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_keeps_nothing_of_the_base_weights_size(kind: str) -> None:
    """Neither when it is built nor for backward, whatever it computes in between."""
    big = nn.Linear(512, 512, bias=False).requires_grad_(False)
    target = Target("x", big, lambda x: 2 * x)
    adapter = Adapter([target], AdapterSettings(1, 1.0, kind), CPU, seed=0)
    adapter.initialise()
    kept: list[Tensor] = [*adapter.parameters().values()]

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = adapter.forward("x", torch.randn(3, 512).requires_grad_())
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    assert big.weight.untyped_storage().data_ptr() not in stored
    # Of rank 1: at most eight vectors, or the 16 x 32 of both Kronecker factors; and three rows.
    assert sum(stored.values()) <= 4 * 512 * (8 + 3)
    y.sum().backward()


def test_the_owner_may_change_its_layer_at_any_time() -> None:
    layer, x = nn.Linear(5, 3), torch.randn(2, 5)
    adapter = one_layer(layer)
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.equal(adapter.forward("x", x), layer(x))


def quantised(x: Tensor) -> Tensor:
    weight = torch.linspace(-1, 1, 15).reshape(3, 5).to(torch.float8_e4m3fn)
    return nn.functional.linear(x, weight.to(x.dtype))


@pytest.mark.parametrize("base", [torch.float8_e4m3fn, torch.bfloat16, torch.float16])
def test_parameters_are_fp32_whatever_the_base_is_stored_in(base: torch.dtype) -> None:
    layer = nn.Linear(5, 3, bias=False)
    layer.weight = nn.Parameter(layer.weight.detach().to(base), requires_grad=False)
    half = torch.bfloat16 if base == torch.float8_e4m3fn else base
    adapter = Adapter([Target("x", layer, quantised)], AdapterSettings(2, 2.0), CPU, 0)
    set_up(adapter)
    x = torch.randn(4, 5).to(half).requires_grad_()
    y = adapter.forward("x", x)
    assert y.dtype == half
    y.float().square().sum().backward()
    for parameter in adapter.parameters().values():
        assert parameter.dtype == torch.float32 and parameter.device == CPU
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert parameter.grad.any()
    assert x.grad is not None and x.grad.dtype == half


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 64), lambda: nn.Conv1d(64, 64, 1)])
def test_activations_are_not_kept_wider_than_the_model_computes(
    make: Callable[[], Any], kind: str
) -> None:
    layer = make().bfloat16().requires_grad_(False)
    adapter = one_layer(layer, rank=1, kind=kind)
    adapter.initialise()
    stir(adapter, size=0.5)
    shape = (100, 64) if isinstance(layer, nn.Linear) else (100, 64, 1)
    x = torch.randn(shape).bfloat16().requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        adapter.forward("x", x)
    activations = [tensor for tensor in kept if tensor.numel() >= 100 * 64]
    assert activations and all(tensor.dtype == torch.bfloat16 for tensor in activations)


def test_ranks_and_alphas_of_an_existing_lora_are_its_own_layer_by_layer() -> None:
    model = ToyFlow()
    existing = toy_lora(model)
    adapter = toy_adapter(model, rank=7, alpha=70.0, existing=existing)
    assert [weights.rank for weights in existing.values()] == [1, 2, 3]
    assert adapter.alphas() == {name: weights.alpha for name, weights in existing.items()}
    for name, weights in existing.items():
        for part, tensor in weights.parts.items():
            assert torch.equal(adapter.parameters()[f"{name}.{part}"], tensor)
    name, weights = "blocks.0.prompt", existing["blocks.0.prompt"]
    layer: Any = model.layers[name]
    x = torch.randn(2, 3)
    change = weights.parts["lora_B.weight"] @ weights.parts["lora_A.weight"]
    merged = layer.weight + weights.alpha / weights.rank * change
    torch.testing.assert_close(
        adapter.forward(name, x), nn.functional.linear(x, merged, layer.bias)
    )


def test_more_than_ten_layers_keep_their_own_rank() -> None:
    """Layer 1 and layer 11 must not be mistaken for each other."""
    layers = {f"block.{i}": nn.Linear(4, 4) for i in range(25)}
    existing = {
        name: LoraWeights.plain(torch.zeros(i + 1, 4), torch.zeros(4, i + 1), alpha=100.0 + i)
        for i, name in enumerate(layers)
    }
    adapter = Adapter(
        [Target(name, layer, layer.forward) for name, layer in layers.items()],
        AdapterSettings(), CPU, 0, existing,
    )
    for i, name in enumerate(layers):
        assert adapter.parameters()[f"{name}.lora_A.weight"].shape == (i + 1, 4)
        assert adapter.alphas()[name] == 100.0 + i


@pytest.mark.parametrize("kind", KINDS)
def test_an_existing_lora_of_any_type_goes_on_as_what_it_is(kind: str) -> None:
    model = ToyFlow()
    before = toy_adapter(model, kind=kind)
    stir(before)
    existing = layer_weights(before)
    after = toy_adapter(model, rank=7, alpha=70.0, existing=existing)  # which initialises it
    assert {w.kind for w in existing.values()} == {"lora" if kind == "rslora" else kind}
    assert after.alphas() == before.alphas()
    start = before.snapshot()
    assert after.snapshot().keys() == start.keys()
    assert all(torch.equal(tensor, start[name]) for name, tensor in after.snapshot().items())
    shapes = {"blocks.0.prompt": (2, 3), "blocks.1.leave": (2, 4, 5, 5)}
    for name, shape in shapes.items():
        x = torch.randn(shape)
        expected = before.forward(name, x)
        assert torch.equal(after.forward(name, x), expected)
        stir(after)
        assert not torch.equal(after.forward(name, x), expected)
        with after.reference():
            assert torch.equal(after.forward(name, x), expected)
        after.load(start)


def test_an_existing_lora_may_be_of_another_type_in_every_layer() -> None:
    model = ToyFlow()
    kinds = dict(zip(model.layers, ("lokr", "loha", "dora"), strict=True))
    adapters = {kind: toy_adapter(model, kind=kind) for kind in kinds.values()}
    for adapter in adapters.values():
        stir(adapter)
    existing = {name: layer_weights(adapters[kind])[name] for name, kind in kinds.items()}
    mixed = toy_adapter(model, existing=existing)
    for name, kind in kinds.items():
        layer: Any = model.layers[name]
        shape = (2, layer.weight.shape[1], *[5] * (layer.weight.ndim - 2))
        x = torch.randn(shape)
        assert torch.equal(mixed.forward(name, x), adapters[kind].forward(name, x))


def test_layers_an_existing_lora_does_not_have_are_left_alone() -> None:
    model = ToyFlow()
    existing = toy_lora(model)
    del existing["blocks.0.prompt"]
    assert toy_adapter(model, existing=existing).names == ["blocks.0.enter", "blocks.1.leave"]


def test_half_precision_weights_of_an_existing_lora_become_fp32_unchanged() -> None:
    model = ToyFlow()
    existing = {
        name: LoraWeights({part: t.bfloat16() for part, t in w.parts.items()}, w.alpha)
        for name, w in toy_lora(model).items()
    }
    adapter = toy_adapter(model, existing=existing)
    for name, weights in existing.items():
        parameter = adapter.parameters()[f"{name}.lora_A.weight"]
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, weights.parts["lora_A.weight"].float())


def test_initial_values_depend_on_the_seed_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    first = toy_adapter(ToyFlow(seed=1), seed=5).snapshot()
    torch.manual_seed(2)
    again = toy_adapter(ToyFlow(seed=2), seed=5).snapshot()
    other = toy_adapter(ToyFlow(seed=1), seed=6).snapshot()
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in first:
        assert torch.equal(first[name], other[name]) is name.endswith("lora_B.weight")


@pytest.mark.parametrize("kind", KINDS)
def test_building_an_adapter_leaves_the_global_generators_alone(kind: str) -> None:
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    toy_adapter(ToyFlow(), seed=5, kind=kind)
    assert torch.equal(before, torch.get_rng_state())
    if torch.cuda.is_available():
        assert all(map(torch.equal, cuda, torch.cuda.get_rng_state_all()))


def output(model: ToyFlow) -> Tensor:
    x = torch.linspace(-1, 1, 32).reshape(1, 2, 4, 4)
    assert model.adapter is not None
    return model.adapter.forward("blocks.0.enter", x)


def test_the_reference_of_a_new_adapter_is_the_bare_model() -> None:
    model = ToyFlow()
    adapter = toy_adapter(model)
    bare = output(model)
    stir(adapter)
    trained = output(model)
    assert not torch.equal(bare, trained)
    with adapter.reference():
        assert torch.equal(output(model), bare)
    assert torch.equal(output(model), trained)
    assert adapter.frozen_reference() is None


def test_the_reference_of_an_existing_adapter_is_what_it_was_at_the_start() -> None:
    model = ToyFlow()
    adapter = toy_adapter(model, existing=toy_lora(model))
    at_start = output(model)
    stir(adapter)
    trained = output(model)
    with adapter.reference():
        assert torch.equal(output(model), at_start)
        with adapter.off():
            bare = output(model)
        assert torch.equal(output(model), at_start)
    assert torch.equal(output(model), trained)
    assert not torch.equal(bare, at_start)
    with adapter.off():
        assert torch.equal(output(model), bare)


@pytest.mark.parametrize("existing", [False, True], ids=["new adapter", "existing adapter"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_inside_the_reference_brings_the_policy_back(
    existing: bool, error: type[BaseException]
) -> None:
    model = ToyFlow()
    adapter = toy_adapter(model, existing=toy_lora(model) if existing else None)
    stir(adapter)
    pointers = {name: p.data_ptr() for name, p in adapter.parameters().items()}
    trained = output(model)
    with pytest.raises(error), adapter.reference():
        raise error
    assert pointers == {name: p.data_ptr() for name, p in adapter.parameters().items()}
    assert torch.equal(output(model), trained)


def test_off_inside_off_does_not_switch_on() -> None:
    model = ToyFlow()
    adapter = toy_adapter(model)
    bare = output(model)
    stir(adapter)
    with adapter.off():
        with adapter.off(), adapter.reference():
            pass
        assert torch.equal(output(model), bare)


def test_weights_frozen_as_the_reference_are_copied() -> None:
    model = ToyFlow()
    adapter = toy_adapter(model)
    stir(adapter)
    weights = adapter.snapshot()
    expected = output(model)
    adapter.freeze_reference(weights)
    stir(adapter, seed=2)
    for value in weights.values():
        value.zero_()
    with adapter.reference():
        assert torch.equal(output(model), expected)


def test_the_reference_copies_nothing() -> None:
    model = ToyFlow()
    adapter = toy_adapter(model, existing=toy_lora(model))

    def pointers() -> set[int]:
        return {parameter.data_ptr() for parameter in adapter.parameters().values()}

    live = pointers()
    with adapter.reference():
        frozen = pointers()
    with adapter.reference():
        assert pointers() == frozen
    assert not live & frozen


def test_snapshots_and_frozen_weights_are_values() -> None:
    model = ToyFlow()
    adapter = toy_adapter(model, existing=toy_lora(model))
    snapshot, frozen = adapter.snapshot(), adapter.frozen_reference()
    assert frozen is not None and snapshot.keys() == frozen.keys() == adapter.parameters().keys()
    before = {name: value.clone() for name, value in snapshot.items()}
    stir(adapter)
    for name, value in before.items():
        assert torch.equal(snapshot[name], value) and torch.equal(frozen[name], value)
        frozen[name].zero_()
    assert all(value.any() for value in (adapter.frozen_reference() or {}).values())
    adapter.load(snapshot)
    stir(adapter)
    assert torch.equal(snapshot[name], before[name]), "loading copies"


def test_weights_that_do_not_fit_are_refused_by_name_and_nothing_is_loaded() -> None:
    adapter = toy_adapter(ToyFlow())
    good = {name: torch.ones_like(value) for name, value in adapter.snapshot().items()}
    before = adapter.snapshot()
    name = "blocks.0.prompt.lora_B.weight"
    missing = {key: value for key, value in good.items() if key != name}
    for bad in (missing, good | {name: torch.ones(3, 3)}):
        with pytest.raises(ValueError, match=name):
            adapter.load(bad)
    with pytest.raises(ValueError, match="stranger"):
        adapter.load(good | {"stranger": torch.ones(1)})
    assert all(torch.equal(value, before[key]) for key, value in adapter.snapshot().items())
    adapter.load(good)
    assert all(value.eq(1).all() for value in adapter.snapshot().values())


def test_an_existing_lora_of_another_model_is_refused() -> None:
    model = ToyFlow()
    existing = toy_lora(model)
    with pytest.raises(ValueError, match="no layer"):
        toy_adapter(model, existing={"elsewhere": existing["blocks.0.prompt"]})
    with pytest.raises(ValueError, match="elsewhere"):
        toy_adapter(model, existing=existing | {"elsewhere": existing["blocks.0.prompt"]})
    wrong = LoraWeights.plain(torch.ones(2, 9), torch.ones(4, 2), 1.0)
    with pytest.raises(ValueError, match="blocks.0.prompt"):
        toy_adapter(model, existing=existing | {"blocks.0.prompt": wrong})
    with pytest.raises(ValueError, match="no layer"):
        Adapter([], AdapterSettings(), CPU, 0)


def test_good_settings_have_no_problems_and_every_bad_one_is_named() -> None:
    assert AdapterSettings().problems() == []
    for rank in (0, -1, 1025):
        (problem,) = AdapterSettings(rank=rank).problems()
        assert "rank" in problem and str(rank) in problem
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        (problem,) = AdapterSettings(alpha=alpha).problems()
        assert "alpha" in problem
    assert "'lokk'" in AdapterSettings(kind="lokk").problems()[0]
    for dropout in (-0.1, 1.0, float("nan")):
        (problem,) = AdapterSettings(dropout=dropout).problems()
        assert "dropout" in problem and str(dropout) in problem
    assert AdapterSettings(kind="dora", dropout=0.5).problems() == []
    for kind in ("loha", "lokr"):
        (problem,) = AdapterSettings(kind=kind, dropout=0.5).problems()
        assert kind in problem and "dropout" in problem
    wrong = AdapterSettings(0, 0.0, "x", "y", "", 2.0)
    assert len(wrong.problems()) == 5, "all at once"
