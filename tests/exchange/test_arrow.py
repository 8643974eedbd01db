from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from dpo_core.exchange.arrow import load_arrow
from dpo_core.exchange.image_folder import ImageFolder
from dpo_core.exchange.preference_export import export_preferences
from dpo_core.exchange.preference_import import import_preferences
from dpo_core.pairs.problem import PairError
from dpo_core.pairs.record import PairSet


def test_without_pyarrow_one_sentence_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for call in (
        lambda: export_preferences(PairSet(), tmp_path / "out"),
        lambda: import_preferences(tmp_path, ImageFolder(tmp_path / "images")),
    ):
        with pytest.raises(PairError, match="pyarrow, which is missing") as error:
            call()
        assert 'python -m pip install "pyarrow>=15"' in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_pyarrow_that_runs_what_files_carry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, is_safe in {"14.0.0": False, "9.0": False, "15.0.0": True, "26.0.1": True}.items():
        old, parquet = ModuleType("pyarrow"), ModuleType("pyarrow.parquet")
        old.__version__ = version  # type: ignore[attr-defined]
        old.parquet = parquet  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pyarrow", old)
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
        if is_safe:
            assert load_arrow().parquet is parquet
            continue
        with pytest.raises(PairError, match=f"pyarrow is {version}, which is too old"):
            load_arrow()
