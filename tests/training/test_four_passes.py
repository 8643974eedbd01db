from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from toykit.flow import PROMPT, ToyFlow, stir, toy_adapter, toy_lora, widen
from toykit.oracle import Answer, Lora, Side, dpo

from dpo_core.training.adapter import Adapter
from dpo_core.training.batch import Batch
from dpo_core.training.denoiser import Prediction, Rows
from dpo_core.training.four_passes import SCHEDULES, PassResult
from dpo_core.training.objectives import Labels, Objective

MODES = list(SCHEDULES)
SHAPE = (2, 5, 4)


def normal(generator: torch.Generator, *size: int) -> Tensor:
    return torch.randn(size, generator=generator, dtype=torch.float64)


def batch_of(
    pairs: int, shared: bool, certainty: float = 1.0, shape: tuple[int, ...] = SHAPE
) -> Batch:
    """B random pairs. Not shared: the rejected images have noise and sigma of their own."""
    g = torch.Generator().manual_seed(pairs)
    prompts = tuple(normal(g, PROMPT) for _ in range(pairs))

    def rows(noise: Tensor, sigma: Tensor) -> Rows:
        return Rows(normal(g, pairs, *shape), prompts, sigma, noise)

    def draw() -> tuple[Tensor, Tensor]:
        return normal(g, pairs, *shape).float(), torch.rand(pairs, generator=g) * 0.8 + 0.1

    noise, sigma = draw()
    chosen = rows(noise, sigma)
    rejected = rows(noise.clone(), sigma.clone()) if shared else rows(*draw())
    steps = torch.arange(pairs, dtype=torch.float64) / 20  # no two pairs equally sure
    probability = certainty - steps if certainty < 1 else 1 + 0 * steps
    return Batch((chosen, rejected), Labels(probability))


def sides(rows: Rows) -> list[Side]:
    return [
        Side(rows.latents[i], rows.conditioning[i], rows.sigma[i], rows.noise[i])
        for i in range(len(rows))
    ]


def merged_lora(weights: dict[str, Tensor], adapter: Adapter) -> Lora:
    found = {}
    for name, alpha in adapter.alphas().items():
        down = weights[f"{name}.lora_A.weight"].detach().double()
        up = weights[f"{name}.lora_B.weight"].detach().double()
        found[name] = (down, up, alpha / down.shape[0])
    return found


def ask_oracle(
    model: ToyFlow, adapter: Adapter, batch: Batch, objective: Objective, smoothing: float
) -> Answer:
    frozen = adapter.frozen_reference()
    # A label is wrong if exactly one of the two doubts is right.
    wrong = [
        (1 - p) * (1 - smoothing) + p * smoothing for p in batch.labels.chosen_probability.tolist()
    ]
    return dpo(
        {name: (layer.weight, layer.bias) for name, layer in model.layers.items()},  # type: ignore
        merged_lora(dict(adapter.parameters()), adapter),
        {} if frozen is None else merged_lora(frozen, adapter),
        list(zip(*map(sides, batch.images), strict=True)),
        objective.beta,
        wrong,
        objective.supervised_mix,
    )


def policy_and_reference(
    existing: bool, dtype: torch.dtype = torch.float64
) -> tuple[ToyFlow, Adapter]:
    model = ToyFlow(dtype)
    adapter = toy_adapter(model, existing=toy_lora(model) if existing else None)
    if dtype == torch.float64:
        widen(adapter)
    stir(adapter)
    return model, adapter


def close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).norm() <= 1e-9 * theirs.norm()) and ours.dtype == torch.float64


def agree(result: PassResult, adapter: Adapter, answer: Answer) -> None:
    assert close(result.losses.total, answer.loss)
    assert close(result.losses.preference, answer.preference)
    ours = dict(zip(("chosen", "rejected"), result.errors.policy, strict=True))
    assert result.errors.reference is not None
    for kind, error in zip(("chosen", "rejected"), result.errors.reference, strict=True):
        ours[f"reference_{kind}"] = error
    for name, error in answer.errors.items():
        assert close(ours[name], error), name
    assert close(result.change, answer.change)
    assert close(result.power, answer.power)
    parameters = adapter.parameters()
    assert parameters.keys() == answer.gradients.keys()
    for name, gradient in answer.gradients.items():
        assert gradient.norm() > 1e-6, "a gradient of nothing proves nothing"
        assert close(parameters[name].grad, gradient), name  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("existing", [False, True], ids=["new adapter", "existing adapter"])
@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("shared", [True, False], ids=["shared noise", "own noise"])
@pytest.mark.parametrize(
    ("smoothing", "certainty", "mix"),
    [(0.0, 1.0, 0.0), (0.1, 1.0, 0.0), (0.0, 0.8, 0.0), (0.0, 1.0, 0.7), (0.2, 0.7, 0.3)],
    ids=["plain", "label smoothing", "soft labels", "supervised mix", "all"],
)
def test_loss_errors_and_gradients_are_those_of_the_formula(
    mode: str, existing: bool, pairs: int, shared: bool,
    smoothing: float, certainty: float, mix: float,
) -> None:
    model, adapter = policy_and_reference(existing)
    batch = batch_of(pairs, shared, certainty)
    objective = Objective(beta=3.0, label_smoothing=smoothing, supervised_mix=mix)
    result = SCHEDULES[mode](model, adapter, batch, objective, 1 / pairs)
    agree(result, adapter, ask_oracle(model, adapter, batch, objective, smoothing))
    assert not result.losses.total.requires_grad
    assert not any(value.requires_grad for value in vars(result.errors).values())
    assert not result.logit.requires_grad and not result.change.requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_gradients_add_up_scaled_over_calls(mode: str) -> None:
    model, adapter = policy_and_reference(existing=True)
    batch, objective = batch_of(2, shared=True), Objective(beta=3.0)
    answer = ask_oracle(model, adapter, batch, objective, 0.0)
    for _ in range(2):
        SCHEDULES[mode](model, adapter, batch, objective, 4.0)
    for name, gradient in answer.gradients.items():
        # Two calls, scale 4, and the oracle has the mean of 2 pairs where this sums.
        assert close(adapter.parameters()[name].grad, 2 * 4 * 2 * gradient)  # type: ignore


@pytest.mark.parametrize("existing", [False, True], ids=["new adapter", "existing adapter"])
@pytest.mark.parametrize("mode", MODES)
def test_before_training_every_margin_is_exactly_zero(mode: str, existing: bool) -> None:
    model = ToyFlow(torch.float64)
    adapter = toy_adapter(model, existing=toy_lora(model) if existing else None)
    widen(adapter)
    result = SCHEDULES[mode](model, adapter, batch_of(3, shared=True), Objective(), 1.0)
    assert result.errors.margin.tolist() == [0.0, 0.0, 0.0]
    assert result.change.tolist() == [0.0, 0.0, 0.0]
    assert result.losses.total.tolist() == pytest.approx([0.6931471805599453] * 3, abs=1e-15)


def test_rejected_row_i_is_scored_with_the_draw_of_its_own_pair() -> None:
    model, adapter = policy_and_reference(existing=False)
    batch = batch_of(3, shared=False)
    SCHEDULES["full_concurrent"](model, adapter, batch, Objective(beta=3.0), 1.0)
    assert len(model.calls) == 2
    for rows, _ in model.calls:
        for i in range(3):
            for row, side in ((i, batch.images[0]), (3 + i, batch.images[1])):
                assert torch.equal(rows.latents[row], side.latents[i])
                assert torch.equal(rows.noise[row], side.noise[i])
                assert rows.sigma[row] == side.sigma[i]
                assert rows.conditioning[row] is side.conditioning[i]


def scored_rows(model: ToyFlow) -> dict[str, list[tuple[float, Tensor, bool]]]:
    """(sigma, noise, graph) of every scored image; a latent's first value tells which it is."""
    found: dict[str, list[tuple[float, Tensor, bool]]] = {}
    for rows, graph in model.calls:
        for side in sides(rows):
            name = f"{side.latent.flatten()[0].item()}"
            found.setdefault(name, []).append((side.sigma.item(), side.noise, graph))
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shared", [True, False], ids=["shared noise", "own noise"])
def test_all_passes_of_an_image_use_one_draw_and_both_images_only_if_shared(
    mode: str, shared: bool
) -> None:
    model, adapter = policy_and_reference(existing=False)
    batch = batch_of(2, shared)
    SCHEDULES[mode](model, adapter, batch, Objective(beta=3.0), 1.0)
    seen = scored_rows(model)
    for i in range(2):
        chosen = seen[f"{batch.images[0].latents[i].flatten()[0].item()}"]
        rejected = seen[f"{batch.images[1].latents[i].flatten()[0].item()}"]
        assert len(chosen) == 2 and len(rejected) == (3 if mode == "sequential" else 2)
        for scored in (chosen, rejected):
            assert len({sigma for sigma, _, _ in scored}) == 1
            assert all(torch.equal(noise, scored[0][1]) for _, noise, _ in scored)
        assert (chosen[0][0] == rejected[0][0]) is shared
        assert torch.equal(chosen[0][1], rejected[0][1]) is shared


class Watched(ToyFlow):
    """Writes down passes in order, and counts graphs that something still holds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.log: list[tuple[str, int]] = []
        self.in_reference = False
        self.graphs: weakref.WeakSet[_Graph] = weakref.WeakSet()
        self.most_graphs = 0

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Stands in front of the adapter's, as the passes' policy."""
        assert self.adapter is not None
        with self.adapter.reference():
            self.in_reference = True
            yield
            self.in_reference = False

    def predict(self, rows: Rows) -> Prediction:
        graph = torch.is_grad_enabled()
        kind = "reference" if self.in_reference else "policy with graph" if graph else "policy"
        self.log.append((kind, len(rows)))
        residual, power = super().predict(rows)
        if graph:
            residual = _Mark.apply(residual, self)
            self.most_graphs = max(self.most_graphs, len(self.graphs))
        return Prediction(residual, power)


class _Graph:
    pass


class _Mark(torch.autograd.Function):
    """Lives as long as the graph it is part of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: Watched) -> Tensor:
        ctx.graph, ctx.model = _Graph(), model
        model.graphs.add(ctx.graph)
        ctx.rows = x.shape[0]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.model.log.append(("backward", ctx.rows))
        return grad, None


PASSES = {
    "sequential": [
        ("reference", 3), ("reference", 3), ("policy", 3), ("policy with graph", 3),
        ("backward", 3), ("policy with graph", 3), ("backward", 3),
    ],
    "policy_concurrent": [
        ("reference", 3), ("reference", 3), ("policy with graph", 3), ("policy with graph", 3),
        ("backward", 3), ("backward", 3),
    ],
    "full_concurrent": [("reference", 6), ("policy with graph", 6), ("backward", 6)],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("existing", [False, True], ids=["new adapter", "existing adapter"])
def test_each_mode_runs_the_passes_it_promises(mode: str, existing: bool) -> None:
    model = Watched()
    stir(toy_adapter(model, existing=toy_lora(model) if existing else None))
    SCHEDULES[mode](model, model, batch_of(3, shared=True), Objective(), 1.0)
    assert model.log == PASSES[mode]


@pytest.mark.parametrize(
    ("mode", "graphs"), [("sequential", 1), ("policy_concurrent", 2), ("full_concurrent", 1)]
)
def test_no_more_graphs_are_alive_at_once_than_promised(mode: str, graphs: int) -> None:
    model = Watched()
    stir(toy_adapter(model))
    result = SCHEDULES[mode](model, model, batch_of(3, shared=True), Objective(), 1.0)
    assert model.most_graphs == graphs
    assert len(model.graphs) == 0, "a result must not keep a graph alive"
    assert result.change.shape == (3,)


class _Saved:
    """A tensor kept for backward; gone from the count when autograd lets go of it."""

    def __init__(self, tensor: Tensor, count: Callable[[int], None]) -> None:
        self.tensor, self._count = tensor, count
        count(tensor.nbytes)

    def __del__(self) -> None:
        self._count(-self.tensor.nbytes)


def peak_of(work: Callable[[], object]) -> int:
    """The most bytes autograd keeps for backward at any moment of ``work``."""
    alive = peak = 0

    def count(change: int) -> None:
        nonlocal alive, peak
        alive += change
        peak = max(peak, alive)

    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: _Saved(tensor, count), lambda saved: saved.tensor
    ):
        work()
    assert alive == 0
    return peak


def test_sequential_keeps_what_one_lora_step_keeps_and_the_others_twice_that() -> None:
    model, adapter = policy_and_reference(existing=False, dtype=torch.float32)
    batch = batch_of(1, shared=True, shape=(2, 32, 32))

    def ordinary_step() -> None:
        model.predict(batch.images[0]).residual.square().mean().backward()

    ordinary = peak_of(ordinary_step)
    assert ordinary > 3 * 4 * 4 * 32 * 32, "not even the hidden activations were counted"
    peaks = {
        mode: peak_of(lambda: SCHEDULES[mode](model, adapter, batch, Objective(), 1.0)) / ordinary  # noqa: B023
        for mode in MODES
    }
    assert peaks["sequential"] <= 1.05
    assert 1.9 <= peaks["policy_concurrent"] <= 2.1
    assert 1.9 <= peaks["full_concurrent"] <= 2.1
