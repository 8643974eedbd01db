"""What the person sees while training: the host's progress bar and a line on the node."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer


class Progress:
    """Reports steps of one node.

    Args:
        total: steps in all.
        node_id: the node's execution id.
        workflow: id of the workflow that the node is in; empty if not known.
    """

    def __init__(self, total: int, node_id: str | None, workflow: str = "") -> None:
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)
        self.total, self._node = total, node_id
        context = get_executing_context()
        self.place = {
            "node": node_id or "",
            "prompt_id": "" if context is None else context.prompt_id,
            "workflow": workflow,
        }
        """What the page knows the node by: node ids alone are the same in many workflows."""

    def step(self, done: int, metrics: Mapping[str, float]) -> None:
        self._bar.update_absolute(done, self.total)
        self.say(
            f"{done}/{self.total}  loss {metrics['loss/dpo']:.4f}  accuracy "
            f"{metrics['dpo/accuracy']:.2f}  margin {metrics['dpo/reward_margin']:.2e}"
        )

    def show(self, preview: tuple[str, Image.Image, int | None] | None) -> None:
        """Shows a picture on the node while it runs, and obeys Stop.

        Args:
            preview: as the host's samplers have it: format, picture, longest side in pixels or
                None to leave it as it is.
        """
        self._bar.update_absolute(self._bar.current, self.total, preview)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def tick(self) -> None:
        """One more of ``total`` is done."""
        self._bar.update(1)

    def warn(self, text: str, serious: bool) -> None:
        """Tells the person in a corner of the page, and in the console."""
        logging.warning("DPO: %s", text)
        self.send("dpo.warning", {"node": self._node, "text": text, "serious": serious})

    def send(self, event: str, data: dict[str, Any]) -> None:
        """Sends an event to the page that asked for this training. Never waits for it."""
        server = getattr(PromptServer, "instance", None)
        if server is not None and server.client_id is not None:
            server.send_sync(event, data, server.client_id)

    def say(self, text: str, log: bool = False) -> None:
        """Shows a line on the node; with ``log`` also in the console."""
        say(text, self._node, log)


def say(text: str, node_id: str | None, log: bool = False) -> None:
    """Shows text on a node, in both renderers; with ``log`` also in the console."""
    if log:
        logging.info("DPO: %s", text)
    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id, server.client_id)
