"""``python -m dpo_core demo``: see a taste being learned, without ComfyUI."""

from __future__ import annotations

import argparse
import sys

OLDEST_TORCH = (2, 6)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 0 if it went well."""
    if problem := _torch_problem():
        return _refuse(problem)
    # Imported only now: everything below needs torch.
    from .demo import command

    parser = argparse.ArgumentParser(prog="python -m dpo_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command.add_arguments(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. Run the same command again to go on from here.\n")
        return 130
    except ValueError as error:
        return _refuse(str(error))
    except OSError as error:
        if error.strerror is None:  # says all there is to say
            return _refuse(str(error))
        return _refuse(
            f"{options.out} cannot be written ({error.strerror}). Choose another folder with --out."
        )
    return 0


def _torch_problem() -> str | None:
    advice = 'Install it with:  pip install -e ".[standalone]"'
    try:
        import torch
    except ImportError:
        return f"PyTorch is not installed. {advice}"
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        return f"PyTorch {torch.__version__} is too old; {oldest} or newer is needed. {advice}"
    return None


def _refuse(problem: str) -> int:
    sys.stderr.write(f"{problem}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
