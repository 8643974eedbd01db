"""Which folders may be read, and where the pack's own files go."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from pathlib import Path

import folder_paths
from comfy.cli_args import args

READABLE = (
    "A folder below ComfyUI's input, output or datasets folder, written relative to one of them "
    "or in full. If ComfyUI only listens to this computer, any folder of it, written in full."
)


class FolderNotAllowed(ValueError):
    """The folder may not be read from here."""


def runs_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / "dpo" / "runs"


def online_folder() -> Path:
    """Of what is known of rounds of online training."""
    return Path(folder_paths.get_output_directory()) / "dpo" / "online"


def encodings_folder() -> Path:
    """Of encoded images and prompts. Not `temp`, which the host empties at every start, and not
    its `user` folder, which people back up; here, beside sessions and runs, there is room."""
    return Path(folder_paths.get_output_directory()) / "dpo" / "cache"


def shown(path: Path) -> str:
    """How a person is told of a path: from the output folder on, where it lies there."""
    output = Path(folder_paths.get_output_directory())
    inside = path.is_relative_to(output)
    return str(Path("output") / path.relative_to(output) if inside else path)


def sessions_folder(user: str = "") -> Path:
    """Of everybody, or of one of several users."""
    folder = Path(folder_paths.get_output_directory()) / "dpo"
    return (folder / "users" / user if user else folder) / "sessions"


def curation_folder(user: str = "") -> Path:
    """Where what is known of scanned folders is kept, beside the sessions."""
    return sessions_folder(user).with_name("curation")


def imports_folder(folder: Path) -> Path:
    """Where the images of a dataset in this folder are laid down."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in folder.name)
    place = hashlib.blake2b(os.fsencode(folder), digest_size=4).hexdigest()
    output = Path(folder_paths.get_output_directory())
    return output / "dpo" / "imports" / f"{name[:40]}-{place}"


def listed_folder(text: str) -> Path | None:
    """A folder that a file names, not a person; None unless it lies in ComfyUI's own folders."""
    try:
        path = Path(text)
        resolved = path.resolve() if path.is_absolute() else None
        if resolved is None or not resolved.is_dir():
            return None
    except (OSError, ValueError, RuntimeError):  # a NUL in the name, a loop of links
        return None
    inside = any(resolved == root or root in resolved.parents for root in _roots())
    return resolved if inside else None


def readable_folder(text: str) -> Path:
    """The folder a person named, resolved and checked.

    Raises:
        FolderNotAllowed: it lies outside the places of :data:`READABLE`, or does not exist.
    """
    text = text.strip().strip('"')
    if not text:
        raise FolderNotAllowed(f"No folder is given. {READABLE}")
    roots = _roots()
    given = Path(text).expanduser() if _listens_only_locally() else Path(text)
    candidates = [given] if given.is_absolute() else [root / given for root in roots]
    try:
        resolved = [candidate.resolve() for candidate in candidates]
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name, a loop of links
        raise FolderNotAllowed(f"{text!r} is no folder's name: {error}.") from error
    allowed = [
        path for path in resolved
        if (given.is_absolute() and _listens_only_locally())
        or any(path == root or root in path.parents for root in roots)
    ]
    for path in allowed:
        if path.is_dir():
            return path
    if not allowed or any(path.is_dir() for path in resolved):
        raise FolderNotAllowed(
            f"{text} may not be read: it leads out of the folders that are open to this node. "
            f"Give one of these: {READABLE[0].lower()}{READABLE[1:]}"
        )
    looked = ", ".join(map(str, allowed))
    raise FolderNotAllowed(
        f"There is no folder {text}. Looked for: {looked}. Check the name, or give the folder in "
        "full."
    )


WRITABLE = (
    "A new folder: a name below ComfyUI's output folder, or in full below its output, input or "
    "datasets folder. If ComfyUI only listens to this computer, any folder of it, written in full."
)


def writable_folder(text: str) -> Path:
    """The folder a person wants written, resolved and checked; it need not exist.

    Raises:
        FolderNotAllowed: it lies outside the places of :data:`WRITABLE`, or is one of them.
    """
    text = text.strip().strip('"')
    if not text:
        raise FolderNotAllowed(f"No folder is given. {WRITABLE}")
    roots = _roots()
    given = Path(text).expanduser() if _listens_only_locally() else Path(text)
    try:
        path = (Path(folder_paths.get_output_directory()) / given).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise FolderNotAllowed(f"{text!r} is no folder's name: {error}.") from error
    inside = any(root in path.parents for root in roots)
    if path in roots or not (inside or (given.is_absolute() and _listens_only_locally())):
        raise FolderNotAllowed(
            f"{text} may not be written: it leads out of the folders that are open to this node. "
            f"Give one of these: {WRITABLE[0].lower()}{WRITABLE[1:]}"
        )
    return path


def _roots() -> list[Path]:
    names = [folder_paths.get_input_directory(), folder_paths.get_output_directory()]
    names += folder_paths.folder_names_and_paths.get("datasets", ([], set()))[0]
    return [Path(name).resolve() for name in names]


def _listens_only_locally() -> bool:
    """True if every request comes from this computer's own pages."""
    if args.enable_cors_header:
        return False
    return all(_is_loopback(host) for host in args.listen.split(","))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip()).is_loopback
    except ValueError:
        return host.strip() == "localhost"
