"""Where the ComfyUI under test lies, and how a test process imports it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

PACK_ROOT = Path(__file__).resolve().parents[2]
# Of ComfyUI's requirements, some that this project does not bring along itself.
_HOST_PACKAGES = ("aiohttp", "comfy_aimdo", "torchsde")


def find_checkout() -> Path | None:
    """The ComfyUI checkout, if this Python can run it.

    It is `COMFYUI_PATH`, else the one whose custom_nodes holds this pack.
    """
    candidate = _candidate()
    return None if candidate is None or _obstacle(candidate) else candidate


def missing_reason() -> str:
    """Why the tests of this folder do not run, for the skip line."""
    candidate = _candidate()
    if candidate is None:
        return "no ComfyUI found: set COMFYUI_PATH to a checkout to run the host's tests"
    return _obstacle(candidate)


def _candidate() -> Path | None:
    configured = os.environ.get("COMFYUI_PATH")
    if configured:
        return Path(configured).expanduser()
    return PACK_ROOT.parent.parent if PACK_ROOT.parent.name == "custom_nodes" else None


def _obstacle(checkout: Path) -> str:
    """What keeps the checkout from being used, empty if nothing does."""
    if not (checkout / "comfy" / "model_management.py").is_file():
        return f"{checkout} is not a ComfyUI checkout"
    absent = [name for name in _HOST_PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        return (
            f"this Python lacks what ComfyUI needs ({', '.join(absent)}): run the host's tests "
            "with the Python that runs ComfyUI"
        )
    return ""


def enter_checkout(checkout: Path) -> None:
    """Make `import comfy` work in this process, on the CPU.

    The checkout goes first on the path: its `nodes.py` must win over the pack's own `nodes`
    folder, exactly as in a running ComfyUI. Use `load_pack` to reach the pack's nodes.
    """
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    args = importlib.import_module("comfy.cli_args").args
    # Read once, when comfy.model_management is first imported.
    args.cpu = True


def load_pack(name: str = "/custom_nodes/comfyui-dpo.test") -> ModuleType:
    """Import the pack the way ComfyUI does: by file location, under a name Python cannot spell.

    Submodules follow with `importlib.import_module(pack.__name__ + ".nodes.host...")`.
    """
    # A dot in a module name would mean a parent package; ComfyUI replaces it, too.
    module_name = name.replace(".", "_x_")
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(
        module_name, PACK_ROOT / "__init__.py", submodule_search_locations=[str(PACK_ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module
