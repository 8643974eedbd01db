"""Ranking in a real ComfyUI: what the nodes give before and after a choice, and what runs again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostkit.ranking import (
    get_set,
    image_ids,
    noise,
    pick,
    post_vote,
    rank,
    ranking,
    shown_set,
    widget_value,
)
from hostkit.server import ComfyServer, RunResult
from hostkit.workflows import Prompt, encoding, node, text_to_image, train_steps, trainer
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file


def stored(server: ComfyServer, session: str, image_id: str) -> Path:
    folder = server.base_dir / "output" / "dpo" / "sessions" / session / "images"
    return folder / f"{image_id}.png"


def saved(server: ComfyServer, result: RunResult, node_id: str) -> list[np.ndarray]:
    records = result.outputs[node_id]["images"]
    folder = server.base_dir / "output"
    paths = [folder / record["subfolder"] / record["filename"] for record in records]
    return [np.asarray(Image.open(path)) for path in paths]


def cached(result: RunResult) -> set[str]:
    message = result.message("execution_cached")
    assert message is not None
    return set(message["nodes"])


def test_before_a_choice_everything_after_the_node_is_blocked_quietly(
    comfy_server: ComfyServer,
) -> None:
    result = comfy_server.queue(ranking("unranked"))
    shown = shown_set(result)
    assert result.message("execution_error") is None
    assert shown == {
        "v": 1, "session": "unranked", "set_id": shown["set_id"], "mode": "best_worst",
        "pairs_per_group": 1, "wait": False, "node": "rank", "prompt_id": result.prompt_id,
    }  # fmt: skip
    assert {"best", "ranked", "pairs"}.isdisjoint(result.outputs)
    view = get_set(comfy_server, "unranked", shown["set_id"])
    assert (view["votes"], view["pairs"]) == ([], [])
    assert view["seed"] == int(shown["set_id"][:8], 16)
    assert view["totals"] == {"pairs": 0, "votes": 0, "sets": 1}
    for image in view["images"]:
        assert stored(comfy_server, "unranked", image["id"]).is_file()
        assert comfy_server.get(image["url"]).status == 200
        assert comfy_server.get("/api" + image["url"] + "&preview=webp;75").status == 200


def test_a_choice_gives_pairs_and_the_images_in_order(comfy_server: ComfyServer) -> None:
    shown = shown_set(comfy_server.queue(ranking("chosen", seed=1)))
    value = pick(comfy_server, shown, best=2, worst=1)
    result = comfy_server.queue(ranking("chosen", seed=1, ranking=value))
    ids = image_ids(get_set(comfy_server, "chosen", shown["set_id"]))
    expected = [
        np.asarray(Image.open(stored(comfy_server, "chosen", ids[i]))) for i in (2, 0, 3, 1)
    ]
    ranked = saved(comfy_server, result, "ranked")
    assert all(np.array_equal(a, b) for a, b in zip(ranked, expected, strict=True))
    (best,) = saved(comfy_server, result, "best")
    assert np.array_equal(best, expected[0])
    export = comfy_server.base_dir / "output" / "chosen"
    chosen, rejected = export / "chosen/0001.png", export / "rejected/0001.png"
    assert np.array_equal(np.asarray(Image.open(chosen)), expected[0])
    assert np.array_equal(np.asarray(Image.open(rejected)), expected[3])
    (line,) = (export / "preferences.jsonl").read_text().splitlines()
    assert json.loads(line)["chosen_probability"] == 1  # picked directly: certain


def test_a_choice_runs_only_this_node_and_what_follows(comfy_server: ComfyServer) -> None:
    prompt = ranking("again", seed=2)
    shown = shown_set(comfy_server.queue(prompt))
    untouched = comfy_server.queue(prompt)
    assert untouched.executed == [] and shown_set(untouched)["set_id"] == shown["set_id"]
    prompt["rank"]["inputs"]["ranking"] = pick(comfy_server, shown)
    result = comfy_server.queue(prompt)
    assert cached(result) == {"images"}
    assert set(result.executed) == {"rank", "pairs", "best", "ranked"}
    assert comfy_server.queue(prompt).executed == []


def test_a_vote_over_http_alone_makes_the_node_run_again(comfy_server: ComfyServer) -> None:
    prompt = ranking("http", seed=3)
    shown = shown_set(comfy_server.queue(prompt))
    pick(comfy_server, shown)
    result = comfy_server.queue(prompt)
    assert cached(result) == {"images"} and "best" in result.outputs


def test_a_choice_stays_valid_when_other_images_are_made(comfy_server: ComfyServer) -> None:
    shown = shown_set(comfy_server.queue(ranking("random", seed=4)))
    value = pick(comfy_server, shown, best=3, worst=0)
    result = comfy_server.queue(ranking("random", seed=5, ranking=value, use="this_batch"))
    assert shown_set(result)["set_id"] != shown["set_id"]
    ids = image_ids(get_set(comfy_server, "random", shown["set_id"]))
    (best,) = saved(comfy_server, result, "best")
    best_file = stored(comfy_server, "random", ids[3])
    assert np.array_equal(best, np.asarray(Image.open(best_file)))
    assert len(list((comfy_server.base_dir / "output/random/chosen").glob("*.png"))) == 1
    # Once the new images are ranked, they are the batch.
    other = pick(comfy_server, shown_set(result), best=1, worst=2)
    result = comfy_server.queue(ranking("random", seed=5, ranking=other, use="this_batch"))
    ids = image_ids(get_set(comfy_server, "random", shown_set(result)["set_id"]))
    (best,) = saved(comfy_server, result, "best")
    best_file = stored(comfy_server, "random", ids[1])
    assert np.array_equal(best, np.asarray(Image.open(best_file)))
    everything = comfy_server.queue(ranking("random", seed=5, ranking=other))
    assert everything.status == "success"
    assert len(list((comfy_server.base_dir / "output/random/chosen").glob("*.png"))) == 2


def test_sessions_do_not_mix(comfy_server: ComfyServer) -> None:
    value = pick(comfy_server, shown_set(comfy_server.queue(ranking("one", seed=6))))
    result = comfy_server.queue(ranking("two", seed=6, ranking=value))
    assert shown_set(result)["set_id"] == value["set_id"]  # the same images
    assert {"best", "ranked", "pairs"}.isdisjoint(result.outputs)
    listed = {one["name"]: one for one in comfy_server.get("/dpo/sessions").json()["sessions"]}
    assert listed["one"] == {"name": "one", "sets": 1, "votes": 1, "pairs": 1}
    assert listed["two"] == {"name": "two", "sets": 1, "votes": 0, "pairs": 0}


def test_two_nodes_on_the_same_images_each_run_and_show_their_set(
    comfy_server: ComfyServer,
) -> None:
    prompt = {"images": noise(7), "a": rank(["images", 0], "a"), "b": rank(["images", 0], "b")}
    result = comfy_server.queue(prompt)
    assert shown_set(result, "a")["session"] == "a" and shown_set(result, "b")["session"] == "b"
    assert shown_set(result, "a")["node"] == "a"


@pytest.mark.parametrize("kind", ["ranking", "comparison"])
def test_a_tie_alone_is_no_preference_and_blocks_quietly(
    comfy_server: ComfyServer, kind: str
) -> None:
    session = f"tie {kind}"
    prompt = ranking(session, seed=8, batch=2, mode="rank")
    shown = shown_set(comfy_server.queue(prompt))
    left, right = image_ids(get_set(comfy_server, session, shown["set_id"]))
    said: dict[str, Any] = {"left": left, "right": right, "result": "tie"}
    if kind == "ranking":
        said = {"order": [[left, right]]}
    view = post_vote(comfy_server, session, {"kind": kind, "set": shown["set_id"], **said})
    prompt["rank"]["inputs"]["ranking"] = widget_value(view, "rank")
    result = comfy_server.queue(prompt)
    assert result.status == "success" and result.message("execution_error") is None
    assert {"best", "ranked", "pairs"}.isdisjoint(result.outputs)


def test_thumbs_give_labelled_images(comfy_server: ComfyServer) -> None:
    prompt = ranking("thumbs", seed=9, batch=3, mode="thumbs")
    shown = shown_set(comfy_server.queue(prompt))
    ids = image_ids(get_set(comfy_server, "thumbs", shown["set_id"]))
    labels = {ids[0]: "bad", ids[1]: "good"}
    post_vote(comfy_server, "thumbs", {"kind": "thumbs", "set": shown["set_id"], "labels": labels})
    comfy_server.queue(prompt)
    export = comfy_server.base_dir / "output" / "thumbs"
    assert [len(list((export / side).glob("*.png"))) for side in ("liked", "disliked")] == [1, 1]
    folders = {"liked": "thumbs/liked", "disliked": "thumbs/disliked"}
    read = {
        "read": node("DPOLoadLabelledFolder", **folders, on_problem="error"),
        "report": node("PreviewAny", source=["read", 1]),
    }
    (report,) = comfy_server.queue(read).outputs["report"]["text"]
    assert "2 labelled images: 1 liked, 1 disliked" in report


def test_a_list_of_two_sizes_is_one_set_and_makes_pairs_of_one_size(
    comfy_server: ComfyServer,
) -> None:
    prompt = ranking("sizes", ranking={"votes": [{"kind": "ranking", "order": [[2], [0], [1]]}]})
    prompt["small"], prompt["large"] = noise(10, 2, 16, 16), noise(11, 1, 24, 32)
    prompt["images"] = node("TestListedImages", first=["small", 0], second=["large", 0])
    result = comfy_server.queue(prompt)
    view = get_set(comfy_server, "sizes", shown_set(result)["set_id"])
    sizes = [(image["width"], image["height"]) for image in view["images"]]
    assert sizes == [(16, 16), (16, 16), (32, 24)]
    ids = image_ids(view)
    assert [(pair["chosen"], pair["rejected"]) for pair in view["pairs"]] == [(ids[0], ids[1])]
    ranked = saved(comfy_server, result, "ranked")
    assert [image.shape for image in ranked] == [(24, 32, 3)] * 3
    small = np.asarray(Image.open(stored(comfy_server, "sizes", ids[0])))
    assert np.array_equal(ranked[1][4:20, 8:24], small)
    assert not ranked[1][:4].any() and not ranked[1][:, 24:].any()


@pytest.mark.parametrize(
    ("batch", "said"),
    [(1, "There is only one image. Set batch_size to 2 or more."), (200, "at most 64")],
)
def test_too_few_and_too_many_images_are_refused(
    comfy_server: ComfyServer, batch: int, said: str
) -> None:
    prompt = {"images": noise(12, batch, 8, 8), "rank": rank(["images", 0], f"size {batch}")}
    result = comfy_server.queue(prompt)
    assert result.status == "error" and said in result.error
    assert not (comfy_server.base_dir / "output/dpo/sessions" / f"size {batch}").exists()


def test_64_images_are_stored_and_shown(comfy_server: ComfyServer) -> None:
    prompt = {"images": noise(13, 64, 8, 8), "rank": rank(["images", 0], "many")}
    view = get_set(comfy_server, "many", shown_set(comfy_server.queue(prompt))["set_id"])
    assert len(set(image_ids(view))) == 64


def test_equal_images_are_refused_when_nothing_is_left_to_compare(
    comfy_server: ComfyServer,
) -> None:
    black = node("EmptyImage", width=8, height=8, batch_size=3, color=0)
    result = comfy_server.queue({"images": black, "rank": rank(["images", 0], "equal")})
    assert result.status == "error" and "all of them are the same" in result.error


@pytest.mark.parametrize(
    "session", ["", "../up", "a/b", "a\\b", "/etc", "con", ".hidden", "a\u202eb", "x" * 81]
)
def test_a_session_name_that_is_no_folders_name_is_refused(
    comfy_server: ComfyServer, session: str
) -> None:
    before = sorted((comfy_server.base_dir / "output").rglob("*"))
    result = comfy_server.queue({"images": noise(14), "rank": rank(["images", 0], session)})
    assert result.status == "error" and "The session name" in result.error
    assert sorted((comfy_server.base_dir / "output").rglob("*")) == before


def test_a_session_that_is_a_link_elsewhere_is_refused(
    comfy_server: ComfyServer, tmp_path: Path
) -> None:
    sessions = comfy_server.base_dir / "output" / "dpo" / "sessions"
    sessions.mkdir(parents=True, exist_ok=True)
    (sessions / "linked").symlink_to(tmp_path)
    result = comfy_server.queue({"images": noise(15), "rank": rank(["images", 0], "linked")})
    assert result.status == "error" and "a link that leads out of" in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"votes": 3}, "`votes` must be a list of objects."),
        ({"votes": [{"kind": "best_worst", "best": 0, "worst": 9}]}, "no image number 9"),
        ({"votes": [{"kind": "best_worst", "best": 0, "worst": 0}]}, "are the same image"),
        ({"votes": [{"kind": "nonsense"}]}, "`kind` is 'nonsense'"),
        ("text", "`ranking` must be an object"),
    ],
)
def test_a_wrong_ranking_is_told(comfy_server: ComfyServer, value: Any, said: str) -> None:
    images = noise(16)
    result = comfy_server.queue(
        {"images": images, "rank": rank(["images", 0], "wrong", ranking=value)}
    )
    assert result.status == "error" and said in result.error


@pytest.mark.parametrize(
    "value",
    [{"set_id": 7}, {"set_id": ["a"], "session": "stale"}, {"session": "stale", "set_id": "ab"}],
)
def test_a_widgets_value_that_means_nothing_here_is_passed_over(
    comfy_server: ComfyServer, value: Any
) -> None:
    result = comfy_server.queue(ranking("stale", seed=17, ranking=value))
    assert result.status == "success" and "best" not in result.outputs


def test_votes_of_a_script_count_once_and_need_no_page(comfy_server: ComfyServer) -> None:
    votes = [{"kind": "best_worst", "best": 2, "worst": 0}]
    prompt = ranking("script", seed=18, wait=True, ranking={"votes": votes})
    body = {"prompt": prompt}  # no client
    reply = comfy_server.post("/prompt", body)
    result = comfy_server.wait(reply.json()["prompt_id"], 60, heard=False)
    assert "best" in result.outputs
    assert comfy_server.queue(prompt).status == "success"
    (listed,) = comfy_server.get("/dpo/sessions/script/sets").json()["sets"]
    assert (listed["votes"], listed["images"]) == (1, 4)


def test_load_preferences_reads_again_when_the_log_changed(comfy_server: ComfyServer) -> None:
    shown = shown_set(comfy_server.queue(ranking("loaded", seed=19)))
    prompt: Prompt = {
        "load": node("DPOLoadPreferences", session="loaded"),
        "report": node("PreviewAny", source=["load", 1]),
        "export": node("DPOExportPairFolder", pairs=["load", 0], folder="from_log"),
    }
    empty = comfy_server.queue(prompt)
    assert empty.status == "success" and "export" not in empty.outputs
    pick(comfy_server, shown)
    result = comfy_server.queue(prompt)
    assert "session loaded: 1 vote on 1 set" in result.outputs["report"]["text"][0]
    assert (comfy_server.base_dir / "output/from_log/chosen/0001.png").is_file()
    assert comfy_server.queue(prompt).executed == []
    info = comfy_server.object_info("DPOLoadPreferences")["input"]["required"]["session"][1]
    assert "loaded" in info["options"]


@pytest.mark.parametrize("folder", ["", "../up", ".", "dpo/../../up", "a\0b"])
def test_pairs_are_not_written_outside_the_open_folders(
    comfy_server: ComfyServer, folder: str
) -> None:
    prompt = ranking("export", seed=20)
    pick(comfy_server, shown_set(comfy_server.queue(prompt)))
    prompt["pairs"]["inputs"]["folder"] = folder
    result = comfy_server.queue(prompt)
    assert result.status == "error"
    assert "may not be written" in result.error or "No folder" in result.error or (
        "is no folder's name" in result.error
    )


def test_an_export_leaves_a_folder_that_is_not_its_own_as_it_is(
    comfy_server: ComfyServer,
) -> None:
    mine = comfy_server.base_dir / "output" / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    prompt = ranking("mine", seed=21)
    pick(comfy_server, shown_set(comfy_server.queue(prompt)))
    result = comfy_server.queue(prompt)
    assert result.status == "error" and "no earlier export" in result.error
    assert [entry.name for entry in mine.iterdir()] == ["notes.txt"]


def _loop(checkpoint: str, seed: int, size: int, value: dict[str, Any]) -> Prompt:
    prompt = text_to_image(checkpoint, "a warm sky", seed=seed, batch=4, size=size)
    prompt["rank"] = rank(["decode", 0], "loop", ranking=value)
    prompt["dataset"] = encoding(["rank", 0])
    prompt["trainer"] = trainer()
    prompt["steps"] = train_steps("trainer", 2)
    prompt["lora"] = node("DPOSaveLoRA", lora=["steps", 1], filename_prefix="loras/loop")
    return prompt


def test_generate_rank_train_with_a_new_seed_every_time(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    name, value = sd15_checkpoint.name, {}
    pairs = []
    # The second batch has another size than the first.
    for seed, size in ((1, 64), (2, 96), (3, 64)):
        result = comfy_server.queue(_loop(name, seed, size, value))
        shown = shown_set(result)
        if value:
            (said,) = result.outputs["trainer"]["text"]
            pairs.append(said.splitlines()[-1].split(",")[0])
            assert "lora" in result.outputs
        else:
            assert "trainer" not in result.outputs
        value = pick(comfy_server, shown, best=1, worst=3)
    assert [line.split()[0] for line in pairs] == ["1", "2"]
    view = get_set(comfy_server, "loop", shown["set_id"])
    assert view["prompt"] == "a warm sky"
    with Image.open(stored(comfy_server, "loop", image_ids(view)[0])) as image:
        made = json.loads(image.info["dpo_generation"])
        assert "sampler" in json.loads(image.info["prompt"])
    assert made == {
        "seed": 3, "steps": 2, "cfg": 2.0, "sampler": "euler", "scheduler": "normal",
        "denoise": 1.0, "checkpoint": name,
    }  # fmt: skip


def test_a_given_prompt_goes_before_the_graphs_and_none_is_told(
    comfy_server: ComfyServer,
) -> None:
    prompt = {"images": noise(22), "rank": rank(["images", 0], "prompts", prompt="a red\nfox")}
    result = comfy_server.queue(prompt)
    assert get_set(comfy_server, "prompts", shown_set(result)["set_id"])["prompt"] == "a red fox"
    del prompt["rank"]["inputs"]["prompt"]
    result = comfy_server.queue(prompt)
    assert get_set(comfy_server, "prompts", shown_set(result)["set_id"])["prompt"] == ""
    (said,) = result.outputs["rank"]["text"]
    assert "cannot be told from the graph" in said


def _with_latents(checkpoint: str, session: str, seed: int = 0, **inputs: Any) -> Prompt:
    """Images that are ranked with their latents, and trained on with a VAE that cannot encode."""
    prompt = text_to_image(checkpoint, "a warm sky", seed=seed, batch=3)
    votes = [{"kind": "best_worst", "best": 2, "worst": 0}]
    prompt["rank"] = rank(
        ["decode", 0], session, ranking={"votes": votes}, latents=["sampler", 0], **inputs
    )
    prompt["vae"] = node("TestVAEWithoutEncoder", vae=["checkpoint", 2])
    prompt["dataset"] = encoding(["rank", 0])
    prompt["dataset"]["inputs"]["vae"] = ["vae", 0]
    prompt["trainer"] = trainer()
    prompt["steps"] = train_steps("trainer", 1)
    prompt["lora"] = node("DPOSaveLoRA", lora=["steps", 1], filename_prefix="loras/latents")
    return prompt


def test_connected_latents_are_trained_on_without_the_vae(
    comfy_server: ComfyServer, sd15_checkpoint: Path
) -> None:
    prompt = _with_latents(sd15_checkpoint.name, "latents")
    prompt["keep"] = node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/ranked")
    result = comfy_server.queue(prompt)
    assert result.status == "success", result.error
    assert "lora" in result.outputs
    (record,) = result.outputs["keep"]["latents"]
    folder = comfy_server.base_dir / "output"
    sampled = load_file(folder / record["subfolder"] / record["filename"])["latent_tensor"]
    ids = image_ids(get_set(comfy_server, "latents", shown_set(result)["set_id"]))
    for image_id, latent in zip(ids, sampled, strict=True):
        path = folder / "dpo/sessions/latents/latents" / f"{image_id}.safetensors"
        with safe_open(path, framework="np") as file:
            assert np.array_equal(file.get_tensor("latent"), latent)
            assert file.metadata() == {"vae": sd15_checkpoint.name}
    without = _with_latents(sd15_checkpoint.name, "no latents", seed=1)
    del without["rank"]["inputs"]["latents"]
    result = comfy_server.queue(without)
    assert result.status == "error" and "asked to encode" in result.error


@pytest.mark.parametrize(
    ("kind", "sizes", "said"),
    [
        ("TestRandomLatents", {"batch": 2}, "There are 3 images but 2 latents."),
        ("EmptyHunyuanLatentVideo", {"batch_size": 3, "length": 9}, "a video of 3 latent frames"),
        ("EmptyLatentAudio", {"batch_size": 3, "seconds": 1.0}, "A latent is not one of images."),
    ],
)
def test_latents_of_something_else_are_refused(
    comfy_server: ComfyServer, kind: str, sizes: dict[str, Any], said: str
) -> None:
    shape = {"channels": 4, "height": 16, "width": 16, "seed": 1} | sizes
    prompt = {
        "images": noise(23, 3),
        "latents": node(kind, **shape),
        "rank": rank(["images", 0], "wrong latents", latents=["latents", 0]),
    }
    result = comfy_server.queue(prompt)
    assert result.status == "error" and said in result.error
    assert not (comfy_server.base_dir / "output/dpo/sessions/wrong latents").exists()


def test_large_images_come_with_thumbnails(comfy_server: ComfyServer) -> None:
    prompt = {"images": noise(24, 2, 400, 500), "rank": rank(["images", 0], "large")}
    view = get_set(comfy_server, "large", shown_set(comfy_server.queue(prompt))["set_id"])
    for image in view["images"]:
        reply = comfy_server.get(image["thumbnail"])
        assert reply.status == 200 and reply.body[8:12] == b"WEBP"
        with Image.open(io.BytesIO(reply.body)) as thumbnail:
            assert thumbnail.size == (384, 307)
