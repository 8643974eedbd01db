"""The rooms of the project import each other in one direction, and nothing they should not."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

HOST = {
    "comfy", "comfy_aimdo", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras",
    "comfy_kitchen", "comfyui_version", "execution", "folder_paths", "latent_preview",
    "node_helpers", "server",
}
CORE_LIBRARIES = {"PIL", "numpy", "peft", "safetensors", "torch"}
OPTIMIZERS = {"bitsandbytes", "prodigyopt"}
"""May be missing: imported where they are used, and only by the optimiser."""
TRANSFORMERS = Path("dpo_core/judging")
"""The room with judges of that library, which PEFT brings along. It takes seconds to import: that
is done where a judge is loaded."""
TABLES = Path("dpo_core/exchange/arrow.py")
"""The one file that imports pyarrow, which may be missing."""
TORCH_FREE_LIBRARIES = {"PIL", "numpy"}
TORCH_FREE_MODULES = {("safetensors",), ("safetensors", "numpy")}
# Nothing runs other programs or talks to the internet; the host serves our routes.
CLOSED = {"ftplib", "http", "multiprocessing", "socket", "subprocess", "urllib", "webbrowser"}
QUOTING = ("urllib", "parse")
"""The part of a closed module that only writes addresses, for pages to ask for."""
PAGE = Path("dpo_core/demo/pick")
"""Serves a page to the person at this machine, and to nobody else."""
FOR_A_PAGE = {"http", "urllib", "webbrowser"}
FORBIDDEN_CALLS = {"__import__", "eval", "exec", "import_module", "popen", "system"}

# Which rooms of the core a room may import. The demo stands on all of them, and only the command
# line on it.
MAY_IMPORT = {
    "request": set(),
    "metadata": set(),
    "pairs": {"metadata"},
    "ranking": {"metadata", "pairs", "request"},
    "curation": {"metadata", "pairs", "ranking", "request"},
    "exchange": {"metadata", "pairs"},
    "training": {"pairs"},
    "evaluation": {"pairs", "training"},
    "judging": {"pairs", "ranking"},
    "comparison": {"evaluation", "judging", "metadata", "pairs", "ranking", "request"},
    "online": {"evaluation", "judging", "pairs", "ranking", "saving"},
    "run": {"pairs", "training", "evaluation"},
    "saving": {"pairs", "training", "evaluation", "run"},
    "runs": {"request", "pairs", "training", "evaluation", "run", "saving"},
    "demo": {
        "comparison", "evaluation", "judging", "online", "pairs", "ranking", "request", "run",
        "saving", "training",
    },
    "__main__": {"demo"},
}
TORCH_FREE = {"comparison", "curation", "exchange", "metadata", "pairs", "ranking"}


@dataclass(frozen=True)
class Import:
    """One imported module, as a file names it."""

    file: Path
    """From the project's root."""
    line: int
    module: tuple[str, ...]
    """A relative import's path from the project's root, else the absolute one."""
    relative: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {'.'.join(self.module)}"


def sources(root: Path, *rooms: str) -> list[Path]:
    return sorted(file for room in rooms for file in (root / room).rglob("*.py"))


def imports(root: Path, files: Iterable[Path]) -> Iterator[Import]:
    for file in files:
        where = file.relative_to(root)
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(where, node.lineno, tuple(alias.name.split(".")), False)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield Import(where, node.lineno, tuple(str(node.module).split(".")), False)
            elif isinstance(node, ast.ImportFrom):
                above = where.parts[: -node.level]
                if node.level >= len(where.parts) + 1:
                    yield Import(where, node.lineno, ("..",), True)
                elif node.module:
                    yield Import(where, node.lineno, (*above, *node.module.split(".")), True)
                else:  # from . import x: x is a module, or a name of the package
                    for alias in node.names:
                        yield Import(where, node.lineno, (*above, alias.name), True)


def room_of(path: tuple[str, ...]) -> str | None:
    """The room of the core a module lies in, None outside the core and for the core itself."""
    return Path(path[1]).stem if path[0] == "dpo_core" and len(path) > 1 else None


def the_core_imports_its_libraries(root: Path) -> list[str]:
    allowed = (CORE_LIBRARIES | sys.stdlib_module_names) - CLOSED
    here = [allowed, allowed | FOR_A_PAGE]
    return [
        str(found)
        for found in imports(root, sources(root, "dpo_core"))
        if (
            found.module[0] != "dpo_core"
            if found.relative
            else found.module[0] not in here[PAGE in found.file.parents]
            or (found.module[0] == "urllib" and found.module[:2] != QUOTING)
        )
        and not (found.module[0] in OPTIMIZERS and found.file.name == "optimizer.py")
        and not (found.module[0] == "transformers" and found.file.parent == TRANSFORMERS)
        and not (found.module[0] == "pyarrow" and found.file == TABLES)
    ]


def these_rooms_need_no_torch(root: Path) -> list[str]:
    allowed = TORCH_FREE_LIBRARIES | sys.stdlib_module_names
    return [
        str(found)
        for found in imports(root, sources(root, *(f"dpo_core/{room}" for room in TORCH_FREE)))
        if not found.relative
        and found.module[0] not in allowed
        and found.module not in TORCH_FREE_MODULES
        and not (found.module[0] == "pyarrow" and found.file == TABLES)
    ]


def rooms_import_in_one_direction(root: Path) -> list[str]:
    found = []
    for each in imports(root, sources(root, "dpo_core")):
        importer, imported = room_of(each.file.parts), room_of(each.module)
        if not each.relative or importer in (None, "__init__", imported):
            continue
        if imported not in MAY_IMPORT.get(str(importer), set()):
            found.append(str(each))
    return found


def nodes_import_the_core_and_the_host_alone(root: Path) -> list[str]:
    allowed = (CORE_LIBRARIES | HOST | {"aiohttp"} | sys.stdlib_module_names) - CLOSED
    return [
        str(found)
        for found in imports(root, [*sources(root, "nodes"), *root.glob("*.py")])
        if (
            found.module[0] not in ("dpo_core", "nodes")
            if found.relative
            else found.module[0] not in allowed and found.module[:2] != QUOTING
        )
    ]


def the_host_bridge_imports_no_node(root: Path) -> list[str]:
    return [
        str(found)
        for found in imports(root, sources(root, "nodes/host"))
        if found.relative and found.module[:1] == ("nodes",) and found.module[1:2] != ("host",)
    ]


def plain_tests_import_no_host(root: Path) -> list[str]:
    hosted = {root / "tests" / name for name in ("host", "hostkit", "web")}
    files = [file for file in sources(root, "tests") if not hosted & set(file.parents)]
    return [str(found) for found in imports(root, files) if found.module[0] in HOST | {"nodes"}]


def nothing_runs_other_code(root: Path) -> list[str]:
    return [
        f"{where} calls {name}"
        for where, name in calls(root, sources(root, "dpo_core", "nodes"))
        if name in FORBIDDEN_CALLS
    ]


def nodes_speak_through_the_host(root: Path) -> list[str]:
    return [
        f"{where} calls print"
        for where, name in calls(root, sources(root, "nodes"))
        if name == "print"
    ]


def calls(root: Path, files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Where a function is called, and its name: ``eval(x)``, ``os.system(x)``, no methods."""
    modules = {"importlib", "os"}
    for file in files:
        for node in ast.walk(ast.parse(file.read_bytes())):
            if not isinstance(node, ast.Call):
                continue
            where = f"{file.relative_to(root)}:{node.lineno}"
            match node.func:
                case ast.Name(name):
                    yield where, name
                case ast.Attribute(ast.Name(module), name) if module in modules:
                    yield where, name


RULES = [
    the_core_imports_its_libraries,
    these_rooms_need_no_torch,
    rooms_import_in_one_direction,
    nodes_import_the_core_and_the_host_alone,
    the_host_bridge_imports_no_node,
    plain_tests_import_no_host,
    nothing_runs_other_code,
    nodes_speak_through_the_host,
]
Rule = Callable[[Path], list[str]]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_holds_in_this_project(rule: Rule) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize(
    ("rule", "file", "line"),
    [
        (the_core_imports_its_libraries, "dpo_core/run.py", "import comfy.utils"),
        (the_core_imports_its_libraries, "dpo_core/training/noise.py", "import folder_paths"),
        (the_core_imports_its_libraries, "dpo_core/saving/atomic.py", "import urllib.request"),
        (the_core_imports_its_libraries, "dpo_core/demo/report.py", "import http.server"),
        (the_core_imports_its_libraries, "dpo_core/demo/pick/a.py", "import urllib.request"),
        (the_core_imports_its_libraries, "dpo_core/demo/pick/a.py", "import socket"),
        (the_core_imports_its_libraries, "dpo_core/run.py", "from ..nodes.host import session"),
        (the_core_imports_its_libraries, "dpo_core/run.py", "from dpo_core.pairs import record"),
        (the_core_imports_its_libraries, "dpo_core/exchange/a.py", "import pyarrow.parquet"),
        (the_core_imports_its_libraries, "dpo_core/training/a.py", "import transformers"),
        (these_rooms_need_no_torch, "dpo_core/pairs/record.py", "from torch import Tensor"),
        (these_rooms_need_no_torch, "dpo_core/pairs/a.py", "import safetensors.torch"),
        (rooms_import_in_one_direction, "dpo_core/pairs/a.py", "from ..saving import b"),
        (rooms_import_in_one_direction, "dpo_core/pairs/a.py", "from .. import run"),
        (rooms_import_in_one_direction, "dpo_core/training/a.py", "from ..run import b"),
        (rooms_import_in_one_direction, "dpo_core/run.py", "from .saving.a import b"),
        (rooms_import_in_one_direction, "dpo_core/saving/a.py", "from ..demo import b"),
        (rooms_import_in_one_direction, "dpo_core/__main__.py", "from .run import b"),
        (nodes_import_the_core_and_the_host_alone, "nodes/pairs.py", "from dpo_core.run import a"),
        (nodes_import_the_core_and_the_host_alone, "nodes/pairs.py", "import nodes"),
        (nodes_import_the_core_and_the_host_alone, "nodes/routes.py", "import requests"),
        (nodes_import_the_core_and_the_host_alone, "nodes/routes.py", "import urllib.request"),
        (nodes_import_the_core_and_the_host_alone, "nodes/host/a.py", "import subprocess"),
        (nodes_import_the_core_and_the_host_alone, "nodes/lora.py", "from ...elsewhere import a"),
        (nodes_import_the_core_and_the_host_alone, "__init__.py", "from .tests import hostkit"),
        (the_host_bridge_imports_no_node, "nodes/host/a.py", "from ..trainer import TrainerNode"),
        (plain_tests_import_no_host, "tests/pairs/test_a.py", "from comfy import utils"),
        (nothing_runs_other_code, "nodes/trainer.py", "eval('1')"),
        (nothing_runs_other_code, "dpo_core/saving/a.py", "import os\nos.system('ls')"),
        (nodes_speak_through_the_host, "nodes/trainer.py", "print('done')"),
    ],
)
def test_finds_a_breach(rule: Rule, file: str, line: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(f"if True:\n    {line.replace(chr(10), chr(10) + '    ')}\n")
    (breach,) = rule(tmp_path)
    assert breach.startswith(f"{file}:")


def test_imports_of_the_own_room_and_of_allowed_ones_pass(tmp_path: Path) -> None:
    for file, lines in {
        "dpo_core/saving/a.py": "from .atomic import b\nfrom ..run import c\nimport torch, json",
        "dpo_core/pairs/a.py": "from PIL import Image\nfrom . import b\nimport safetensors.numpy",
        "dpo_core/__main__.py": "from .demo import command",
        "dpo_core/judging/a.py": "def b():\n    from transformers import CLIPModel",
        "dpo_core/exchange/arrow.py": "import pyarrow.parquet\nfrom ..pairs import b",
        "dpo_core/demo/pick/a.py": "import http.server\nfrom urllib.parse import unquote",
        "nodes/quote.py": "from urllib.parse import quote",
        "nodes/a.py": "import comfy.sd\nfrom .host.b import c\nfrom ..dpo_core.run import d",
        "nodes/host/a.py": "from . import b\nfrom ...dpo_core.run import d\nb.model.eval()",
        "tests/host/test_a.py": "import comfy.sd",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(lines)
    assert [breach for rule in RULES for breach in rule(tmp_path)] == []
