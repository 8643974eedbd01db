from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toykit.flow import ToyFlow, stir, toy_adapter, toy_lora

from dpo_core.saving.lora_file import (
    lora_layers,
    lora_metadata,
    lora_ranks,
    lora_tensors,
    read_lora,
    save_lora,
)


def trained_lora() -> dict[str, Tensor]:
    model = ToyFlow()
    adapter = toy_adapter(model, existing=toy_lora(model))
    stir(adapter)
    return lora_tensors(adapter.parameters(), adapter.alphas())


def metadata(tensors: dict[str, Tensor], **changes: object) -> dict[str, str]:
    options: dict[str, object] = {
        "title": "my taste", "architecture": "flux-1-dev", "rank": 3, "alpha": 4.0,
        "settings": {"beta": 5000.0, "seed": 1}, "metrics": {"loss/dpo": 0.5}, "steps": 200,
        "pairs": 12,
    }
    return lora_metadata(tensors, **(options | changes))  # type: ignore[arg-type]


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """The operating system itself refuses to let any file grow past ``size`` bytes."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_every_layer_has_down_up_and_alpha() -> None:
    tensors = trained_lora()
    layers = list(ToyFlow().layers)
    assert set(tensors) == {
        f"{layer}.{part}"
        for layer in layers for part in ("lora_A.weight", "lora_B.weight", "alpha")
    }
    # toy_lora gives ranks 1, 2, 3 and alphas 2, 3, 4.
    assert [tensors[f"{layer}.lora_A.weight"].shape[0] for layer in layers] == [1, 2, 3]
    assert [tensors[f"{layer}.alpha"].item() for layer in layers] == [2.0, 3.0, 4.0]
    for tensor in tensors.values():
        assert tensor.device.type == "cpu" and tensor.is_contiguous()
        assert tensor.dtype == torch.float32 and not tensor.requires_grad


def test_layers_and_ranks_of_every_type_are_known_by_the_names_of_their_tensors() -> None:
    ones = torch.ones
    tensors = {
        "a.b.lora_A.weight": ones(2, 5), "a.b.lora_B.weight": ones(4, 2), "a.b.alpha": ones(()),
        "d.lora_A.weight": ones(3, 5), "d.lora_B.weight": ones(4, 3), "d.dora_scale": ones(1, 5),
        "h.hada_w1_a": ones(4, 6), "h.hada_w1_b": ones(6, 5),
        "h.hada_w2_a": ones(4, 6), "h.hada_w2_b": ones(6, 5),
        "k.lokr_w1": ones(2, 2), "k.lokr_w2": ones(2, 2),
        "r.lokr_w1": ones(2, 2), "r.lokr_w2_a": ones(8, 7), "r.lokr_w2_b": ones(7, 8),
        "lora_te_x.lora_up.weight": ones(1, 1),
    }
    assert lora_ranks(tensors) == {"a.b": 2, "d": 3, "h": 6, "r": 7}
    layers = lora_layers(tensors)
    assert list(layers) == ["a.b", "d", "h", "k", "r"]
    assert set(layers["d"]) == {"lora_A.weight", "lora_B.weight", "dora_scale"}
    assert layers["k"]["lokr_w2"] is tensors["k.lokr_w2"]


def test_metadata_says_what_kind_of_lora_it_is() -> None:
    def named(**options: object) -> tuple[str, dict[str, str]]:
        found = metadata(trained_lora(), **options)
        return found["ss_network_module"], json.loads(found["ss_network_args"])

    assert named() == named(kind="lora") == named(kind="rslora") == ("networks.lora", {})
    dropped = {"rank_dropout": "0.1"}
    assert named(kind="lora", dropout=0.1) == ("networks.lora", dropped)
    dora = {"algo": "lora", "dora_wd": "True", "wd_on_output": "False"}
    assert named(kind="dora") == ("lycoris.kohya", dora)
    assert named(kind="dora", dropout=0.1) == ("lycoris.kohya", dora | dropped)
    assert named(kind="loha") == ("lycoris.kohya", {"algo": "loha"})
    assert named(kind="lokr") == ("lycoris.kohya", {"algo": "lokr"})
    assert named() == ("networks.lora", {}), "nothing stays behind"


def test_what_is_read_back_is_what_was_saved(tmp_path: Path) -> None:
    tensors = trained_lora() | {"half": torch.randn(3, 4).bfloat16()}
    path = tmp_path / "folder" / "lora.safetensors"
    save_lora(path, tensors, {"format": "pt", "title": "näme ✓"})
    found, meta = read_lora(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], tensors[k]) for k in tensors)
    assert all(found[k].dtype == tensors[k].dtype for k in tensors)
    assert meta == {"format": "pt", "title": "näme ✓"}


def test_views_are_saved_as_what_they_show(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    path = tmp_path / "lora.safetensors"
    save_lora(path, {"turned": whole.T, "column": whole[:, 1], "leaf": whole.requires_grad_()}, {})
    found, meta = read_lora(path)
    assert found["turned"].tolist() == whole.T.tolist()
    assert found["column"].tolist() == [1, 5, 9]
    assert meta == {}


def test_the_hash_is_that_of_the_bytes_after_the_files_header(tmp_path: Path) -> None:
    tensors = trained_lora()
    meta = metadata(tensors)
    path = tmp_path / "lora.safetensors"
    save_lora(path, tensors, meta)
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little")
    assert json.loads(data[8 : 8 + header])["__metadata__"] == meta
    assert meta["modelspec.hash_sha256"] == "0x" + sha256(data[8 + header :]).hexdigest()
    # And it sees every weight.
    name = "blocks.1.leave.lora_B.weight"
    changed = metadata(tensors | {name: tensors[name] + 1e-3})
    assert changed["modelspec.hash_sha256"] != meta["modelspec.hash_sha256"]


def test_metadata_has_the_names_other_tools_read() -> None:
    meta = metadata(trained_lora())
    assert all(isinstance(value, str) for value in meta.values())
    expected = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": "my taste",
        "modelspec.architecture": "flux-1-dev/lora",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "4.0",
        "ss_steps": "200",
        "ss_output_name": "my taste",
        "dpo.pairs": "12",
    }
    assert meta.items() >= expected.items()
    assert {"modelspec.implementation", "modelspec.date", "modelspec.description"} <= set(meta)
    assert json.loads(meta["dpo.settings"]) == {"beta": 5000.0, "seed": 1}
    written = datetime.fromisoformat(meta["modelspec.date"])
    assert timedelta(0) <= datetime.now(timezone.utc) - written < timedelta(minutes=5)


def strict(text: str) -> object:
    """JSON as the standard has it: NaN and Infinity are no numbers there."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def test_metrics_that_are_no_numbers_are_left_out() -> None:
    metrics = {"loss/dpo": 0.5, "rho": float("nan"), "grad_norm": float("inf")}
    assert strict(metadata(trained_lora(), metrics=metrics)["dpo.metrics"]) == {"loss/dpo": 0.5}


@pytest.mark.parametrize("content", [b"", b"12345", b"\xff" * 64, b'{"not": "safetensors"}' * 9])
def test_a_file_that_is_no_lora_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.safetensors is not a readable"):
        read_lora(path)


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    save_lora(path, trained_lora(), {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"short\.safetensors"):
        read_lora(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.safetensors"):
        read_lora(tmp_path / "gone.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="sets a POSIX limit on file size")
def test_no_room_is_an_os_error_and_leaves_the_old_lora_and_no_remains(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_lora(path, {"a": torch.ones(4)}, {})
    with no_room_beyond(1000), pytest.raises(OSError):
        save_lora(path, {"a": torch.zeros(1000)}, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["lora.safetensors"]
    assert read_lora(path)[0]["a"].tolist() == [1.0] * 4


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_lora_may_be_read_like_any_other_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save_lora(tmp_path / "lora.safetensors", {"a": torch.ones(4)}, {})
    modes = {stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    assert len(modes) == 1
