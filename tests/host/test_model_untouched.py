"""Whatever ends a run, the host's model is as it was: nothing is left on it, in it or of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from hostkit.load_states import LOAD_STATES, load_state, sample, with_upstream_loras
from hostkit.tiny_models import diffusion_state_dict
from hostkit.training import Training, random_pairs, steps, training

Interrupted = comfy.model_management.InterruptProcessingException

# Calls of a layer inside a checkpointed block, in sequential mode: the reference's two, the
# rejected image without a graph, the chosen with one, its recomputation in backward, ...
PHASES = {"reference": 1, "rejected policy": 3, "chosen policy": 4, "backward": 5, "second": 6}
LAYER = {
    "sd15": "input_blocks.1.1.transformer_blocks.0.ff.net.2",
    "sd3": "joint_blocks.0.x_block.mlp.fc1",
    "flux": "double_blocks.1.img_mlp.0",
}


def stop() -> None:
    """What the Stop button does; the layer that is about to compute raises."""
    comfy.model_management.interrupt_current_processing()


def fail() -> None:
    raise ArithmeticError("in a layer")


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("in a layer")


ENDS: dict[Callable[[], None], type[BaseException]] = {
    stop: Interrupted,
    fail: ArithmeticError,
    run_out_of_memory: torch.OutOfMemoryError,
}


@contextmanager
def at_call(layer: torch.nn.Module, number: int, end: Callable[[], None]) -> Iterator[None]:
    """`end` is called as the layer is, the `number`th time."""
    calls = iter(range(1, 1000))
    handle = layer.register_forward_pre_hook(lambda *_: end() if next(calls) == number else None)
    try:
        yield
    finally:
        handle.remove()


def train(run: Training, kind: str, count: int = 2) -> None:
    for _ in steps(run, random_pairs(kind), count):
        pass


def state_of(patcher: ModelPatcher) -> dict[str, Any]:
    """Everything a run could leave behind, besides the weights' values."""
    model, management = patcher.model, comfy.model_management
    return {
        "keys": list(model.state_dict()),
        "forwards": [n for n, m in model.named_modules() if "forward" in m.__dict__],
        "modules": {name: id(module) for name, module in model.named_modules()},
        "graph": [n for n, p in model.named_parameters() if p.requires_grad or p.grad is not None],
        "functions": {
            name: [len(module.weight_function), len(module.bias_function)]
            for name, module in model.named_modules()
            if hasattr(module, "weight_function")
        },
        "injected": [patcher.is_injected, dict(patcher.injections)],
        "patches": {key: len(patches) for key, patches in patcher.patches.items()},
        "options": dict(patcher.model_options["transformer_options"]),
        "flags": [management.in_training, torch.is_grad_enabled()],
    }


def assert_as_loaded(patcher: ModelPatcher, kind: str) -> None:
    """Unloaded, the weights are those of the file, bit for bit."""
    with torch.inference_mode():
        comfy.model_management.unload_all_models()
    weights = patcher.model.diffusion_model.state_dict()
    file = diffusion_state_dict(kind)
    assert weights.keys() == file.keys()
    assert [name for name in file if not torch.equal(weights[name], file[name])] == []


@pytest.mark.parametrize(
    ("kind", "state"),
    [(kind, state) for kind in ("sd3", "flux") for state in LOAD_STATES]
    + [("sd15", "half_resident")],
)
def test_after_a_run(kind: str, state: str) -> None:
    with load_state(state, kind, with_upstream_loras(kind)) as (patcher, _):
        picture = sample(patcher, kind)
        before = state_of(patcher)
        with training(patcher, filled=False) as run:
            train(run, kind, count=1)
            assert not torch.equal(sample(run.trained.patcher, kind), picture)
        assert not run.trained.patcher.is_injected and not run.trained.patcher.injections
        assert state_of(patcher) == before
        assert torch.equal(sample(patcher, kind), picture)
        assert_as_loaded(patcher, kind)


@pytest.mark.parametrize("state", ["half_resident", "partial"])
@pytest.mark.parametrize("adapter", ["dora", "loha", "lokr"])
def test_after_a_run_and_a_stop_with_every_type_of_adapter(adapter: str, state: str) -> None:
    kind = "sd3"
    with load_state(state, kind, with_upstream_loras(kind)) as (patcher, _):
        picture = sample(patcher, kind)
        before = state_of(patcher)
        with training(patcher, filled=False, kind=adapter) as run:
            train(run, kind, count=1)
        assert state_of(patcher) == before
        assert torch.equal(sample(patcher, kind), picture)
        layer = patcher.model.diffusion_model.get_submodule(LAYER[kind])
        with (
            pytest.raises(Interrupted),
            training(patcher, filled=False, kind=adapter) as run,
            at_call(layer, PHASES["backward"], stop),
        ):
            train(run, kind)
        assert state_of(patcher) == before
        assert torch.equal(sample(patcher, kind), picture)
        assert_as_loaded(patcher, kind)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("state", "end"),
    [(state, stop) for state in LOAD_STATES]
    + [("half_resident", fail), ("half_resident", run_out_of_memory)],
)
def test_after_an_end_in_any_phase(state: str, phase: str, end: Callable[[], None]) -> None:
    kind = "sd3"
    with load_state(state, kind, with_upstream_loras(kind)) as (patcher, _):
        picture = sample(patcher, kind)
        before = state_of(patcher)
        layer = patcher.model.diffusion_model.get_submodule(LAYER[kind])
        with (
            pytest.raises(ENDS[end]),
            training(patcher, filled=False) as run,
            at_call(layer, PHASES[phase], end),
        ):
            train(run, kind)
        assert not run.trained.patcher.is_injected
        assert state_of(patcher) == before
        assert torch.equal(sample(patcher, kind), picture)
        assert_as_loaded(patcher, kind)


@pytest.mark.parametrize("kind", ["sd15", "flux"])
@pytest.mark.parametrize("phase", ["reference", "backward"])
def test_after_stop_in_other_families(kind: str, phase: str) -> None:
    with load_state("half_resident", kind) as (patcher, _):
        picture = sample(patcher, kind)
        before = state_of(patcher)
        layer = patcher.model.diffusion_model.get_submodule(LAYER[kind])
        with (
            pytest.raises(Interrupted),
            training(patcher, filled=False) as run,
            at_call(layer, PHASES[phase], stop),
        ):
            train(run, kind)
        assert state_of(patcher) == before
        assert torch.equal(sample(patcher, kind), picture)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("state", ["plain", "half_resident", "partial"])
def test_after_an_exception_from_within_autograd(state: str, checkpointing: bool) -> None:
    with load_state(state, "sd3") as (patcher, _):
        picture = sample(patcher, "sd3")
        before = state_of(patcher)
        with (
            pytest.raises(ArithmeticError),
            training(patcher, filled=False, checkpointing=checkpointing) as run,
        ):
            parameter = run.adapter.parameters()[f"{run.adapter.names[0]}.lora_B.weight"]
            parameter.register_hook(lambda grad: fail())
            train(run, "sd3")
        assert state_of(patcher) == before
        assert torch.equal(sample(patcher, "sd3"), picture)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_after_an_end_between_steps(end: Callable[[], None]) -> None:
    with load_state("resident", "sd3") as (patcher, _):
        picture = sample(patcher, "sd3")
        before = state_of(patcher)
        with pytest.raises(ENDS[end]), training(patcher, filled=False) as run:
            for _ in steps(run, random_pairs("sd3"), 2):
                end()
        assert state_of(patcher) == before
        assert torch.equal(sample(patcher, "sd3"), picture)


def test_a_fully_loaded_model_keeps_the_very_same_tensors() -> None:
    with load_state("plain", "flux") as (patcher, _):
        sample(patcher, "flux")
        tensors = dict(patcher.model.state_dict(keep_vars=True))
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        with training(patcher, filled=False) as run:
            train(run, "flux", count=1)
        after = dict(patcher.model.state_dict(keep_vars=True))
        assert all(after[name] is tensor for name, tensor in tensors.items())
        assert {name: tensor.data_ptr() for name, tensor in after.items()} == addresses
        assert all(tensor.is_inference() for tensor in after.values())


def test_a_failing_injection_leaves_nothing_behind() -> None:
    with load_state("plain", "sd3") as (patcher, _):
        picture = sample(patcher, "sd3")
        before = state_of(patcher)
        with pytest.raises(ZeroDivisionError), training(patcher) as run:
            # A second injection after ours, as another extension might have it.
            injection = comfy.patcher_extension.PatcherInjection(lambda _: 1 / 0, lambda _: None)
            run.trained.patcher.set_injections("other", [injection])
            run.denoiser.load()
        assert state_of(patcher) == before
        assert torch.equal(sample(patcher, "sd3"), picture)
