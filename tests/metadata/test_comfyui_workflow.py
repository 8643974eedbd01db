"""Workflows as the page draws them; what the page itself saved is in the corpus."""

from __future__ import annotations

import json
from typing import Any

import pytest
from metadatakit.corpus import comfyui_texts

from dpo_core.metadata.image_metadata import ImageMetadata
from dpo_core.metadata.reading import metadata_of_texts

FILE = "comfyui/subgraph_with_its_text_outside.json"


def drawn(workflow: dict[str, Any]) -> ImageMetadata:
    return metadata_of_texts({"workflow": json.dumps(workflow)})


def with_subgraph() -> tuple[dict[str, Any], dict[str, Any]]:
    """A workflow with two encoders in a subgraph, and the subgraph's node.

    The text on the node is "a photo of two cats", inside it is "a photo of a cat on a mat".
    """
    workflow = json.loads(comfyui_texts(FILE)["workflow"])
    (subgraph,) = workflow["definitions"]["subgraphs"]
    (node,) = (one for one in workflow["nodes"] if one["type"] == subgraph["id"])
    return workflow, node


def test_the_value_on_the_node_of_a_subgraph_counts() -> None:
    workflow, _ = with_subgraph()
    assert drawn(workflow).prompt == "a photo of two cats"


def test_a_page_that_saved_values_inside_the_subgraph() -> None:
    workflow, node = with_subgraph()
    del node["widgets_values_named"]
    node["widgets_values"] = []
    assert drawn(workflow).prompt == "a photo of a cat on a mat"


def test_values_that_do_not_fit_the_inputs_are_not_guessed_at() -> None:
    workflow, node = with_subgraph()
    del node["widgets_values_named"]
    node["widgets_values"] = ["another_model.safetensors", *node["widgets_values"]]
    found = drawn(workflow)
    assert found.prompt is None
    assert {"prompt", "negative"} <= set(found.ambiguous)


def node(
    number: int, kind: str, inputs: Any = (), outputs: Any = (), **more: Any
) -> dict[str, Any]:
    return {
        "id": number, "type": kind, "mode": 0,
        "inputs": [{"name": name, "type": type_, "link": link} for name, type_, link in inputs],
        "outputs": [{"name": name, "type": name} for name in outputs], **more,
    }  # fmt: skip


def chain(*between: dict[str, Any], links: list[list[Any]]) -> dict[str, Any]:
    """"a cat" (1), what is between, and a sampler (9) whose positive side is link 90."""
    encoder = node(1, "CLIPTextEncode", outputs=["CONDITIONING"], widgets_values=["a cat"])
    sampler = node(
        9, "KSampler", [("positive", "CONDITIONING", 90)], ["LATENT"],
        widgets_values=[5, "randomize", 20, 7.0, "euler", "normal", 1.0],
    )  # fmt: skip
    return {"nodes": [encoder, *between, sampler], "links": links}


def test_widgets_of_a_page_that_named_none() -> None:
    found = drawn(chain(links=[[90, 1, 0, 9, 1, "CONDITIONING"]]))
    assert (found.prompt, found.seed) == ("a cat", 5)


def passing(kind: str, mode: int = 0, type_: str = "CONDITIONING") -> dict[str, Any]:
    middle = node(2, kind, [("in", type_, 80)], ["CONDITIONING"])
    links = [[80, 1, 0, 2, 0, type_], [90, 2, 0, 9, 1, "CONDITIONING"]]
    return chain({**middle, "mode": mode}, links=links)


@pytest.mark.parametrize(
    ("workflow", "prompt"),
    [
        (passing("Reroute"), "a cat"),
        (passing("Reroute (rgthree)"), "a cat"),
        (passing("AnyNode", mode=4), "a cat"),
        (passing("AnyNode", mode=4, type_="IMAGE"), None),
        (passing("AnyNode", mode=2), None),
        (passing("workflow>my sampler"), None),
    ],
    ids=["reroute", "pack's reroute", "bypassed", "bypassed, other type", "muted", "group"],
)
def test_nodes_that_only_the_page_knows(workflow: dict[str, Any], prompt: str | None) -> None:
    assert drawn(workflow).prompt == prompt


def test_a_get_node_brings_what_its_set_node_was_given() -> None:
    given = node(2, "SetNode", [("CONDITIONING", "*", 80)], ["*"], widgets_values=["cat"])
    taken = node(3, "GetNode", outputs=["CONDITIONING"], widgets_values=["cat"])
    links = [[80, 1, 0, 2, 0, "CONDITIONING"], [90, 3, 0, 9, 1, "CONDITIONING"]]
    assert drawn(chain(given, taken, links=links)).prompt == "a cat"
    again = {**given, "id": 4}
    assert drawn(chain(given, again, taken, links=links)).prompt is None


@pytest.mark.parametrize("text", ["a {cat|dog}", "a cat // not said", "a /* big */ cat"])
def test_a_text_that_the_page_changes_before_it_runs_is_not_known(text: str) -> None:
    workflow = chain(links=[[90, 1, 0, 9, 1, "CONDITIONING"]])
    workflow["nodes"][0]["widgets_values"] = [text]
    found = drawn(workflow)
    assert (found.prompt, found.ambiguous) == (None, ("prompt",))
