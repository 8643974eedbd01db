"""Every node of the pack is drawn by ComfyUI's page, with its widgets and their explanations."""

from __future__ import annotations

from typing import Any

from webkit.front_end import FrontEnd


def _schemas(front_end: FrontEnd) -> dict[str, dict[str, Any]]:
    every = front_end.server.get("/object_info").json()
    # Those with a ranking in them are taller than the page, and have tests of their own.
    return {
        name: one
        for name, one in every.items()
        if name.startswith("DPO") and not any("ranking" in kind for kind in one["input"].values())
    }


def test_every_node_is_drawn_with_widgets_and_tooltips(front_end: FrontEnd) -> None:
    schemas = _schemas(front_end)
    assert len(schemas) >= 10
    front_end.clear()
    for name, schema in schemas.items():
        # Far enough that no element of a tall node lies over the next one.
        node = front_end.add(name, y=2000 * len(front_end.nodes()))
        # With the inputs that Nodes 2.0 folds away.
        node.evaluate("node => { node.showAdvanced = true }")
        node.show()
        tooltips = {
            input_name: options[1].get("tooltip")
            for kind in ("required", "optional")
            for input_name, options in schema["input"].get(kind, {}).items()
        }
        assert node.title == schema["display_name"]
        for widget in node.widgets():
            shown = " ".join(node.tooltip(widget).split())
            # Nodes 2.0 may add the value that the field cuts off.
            assert shown.startswith(tooltips[widget]), f"{name}.{widget}: {shown}"
        front_end.screenshot(f"node_{name}")
    assert front_end.errors == []
