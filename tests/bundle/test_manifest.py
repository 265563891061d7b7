"""The manifest: the same after a round trip, and refused where it does not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import cdal_sdk
from bundle.conftest import MANIFEST
from cdal_sdk.bundle import (
    Manifest,
    bundled_models,
    manifest_from_data,
    manifest_from_json,
    manifest_to_json,
    read_manifest,
)
from cdal_sdk.bundle.manifest import seal
from cdal_sdk.errors import ModelError


def refusal(change: Callable[[dict[str, Any]], Any]) -> str:
    data = json.loads(manifest_to_json(MANIFEST))
    change(data)
    with pytest.raises(ModelError) as caught:
        manifest_from_json(json.dumps(seal(data)), "here/manifest.json")
    assert str(caught.value).startswith("here/manifest.json: ")
    return str(caught.value)


def test_round_trip():
    text = manifest_to_json(MANIFEST)
    assert manifest_from_json(text, "here") == MANIFEST
    assert manifest_from_json(text.encode(), "here") == MANIFEST
    assert manifest_to_json(manifest_from_json(text, "here")) == text


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(polarity=-1),
        lambda data: data["betas"].reverse(),
        lambda data: data["plan"].update(spacing_mm=[1.0, 1.0, 1.1]),
        lambda data: data["labels"][0].update(value=3),
        lambda data: data.update(sha256="0" * 64),
        lambda data: data.update(sha256=None),
    ],
)
def test_a_manifest_changed_by_hand_is_refused(change):
    data = json.loads(manifest_to_json(MANIFEST))
    change(data)
    with pytest.raises(ModelError, match=r"changed by hand, or is damaged.*make the model again"):
        manifest_from_json(json.dumps(data), "here")


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_manifests_are_sealed(name):
    path = Path(cdal_sdk.__file__).parent / "models" / name / "manifest.json"
    assert path.read_text(encoding="utf-8") == manifest_to_json(read_manifest(name))
    assert "sha256" in json.loads(path.read_text(encoding="utf-8"))


def test_layout_and_order_do_not_matter_and_older_manifests_have_no_seal():
    data = json.loads(manifest_to_json(MANIFEST))
    assert manifest_from_json(json.dumps(dict(reversed(data.items()))), "here") == MANIFEST
    del data["sha256"]
    assert manifest_from_json(json.dumps(data), "here") == MANIFEST
    assert manifest_from_data(msgspec.to_builtins(MANIFEST), "here") == MANIFEST


def test_it_is_json_that_a_person_reads():
    text = manifest_to_json(MANIFEST)
    assert "Täil" in text
    assert '\n  "votes": 3,\n' in text
    assert next(iter(json.loads(text))) == "name"


def test_betas_survive_to_the_last_bit():
    assert manifest_from_json(manifest_to_json(MANIFEST), "here").schedule.betas == MANIFEST.betas


@pytest.mark.parametrize("text", ["", "{", "not json", b"\xff\xfe"], ids=repr)
def test_no_json_is_refused(text):
    with pytest.raises(ModelError, match=r"here: this is no JSON.*restore the model folder"):
        manifest_from_json(text, "here")


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}"])
def test_json_that_is_no_manifest_is_refused(text):
    with pytest.raises(ModelError, match="schema None"):
        manifest_from_json(text, "here")


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_refused_and_says_what_to_do(schema):
    message = refusal(lambda data: data.update(schema=schema))
    assert f"schema {schema}, this version of cdal-sdk reads 1" in message
    assert "upgrade" in message


@pytest.mark.parametrize("key", ["name", "labels", "network", "plan", "betas", "votes", "decision"])
def test_a_missing_entry_is_named(key):
    assert f"`{key}`" in refusal(lambda data: data.pop(key))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (lambda data: data, "surprise"),
        (lambda data: data["network"], "network.surprise"),
        (lambda data: data["plan"]["domain"], "plan.domain.surprise"),
        (lambda data: data["labels"][1]["type"], "labels.1.type.surprise"),
    ],
)
def test_an_unknown_entry_is_named_at_any_depth(place, name):
    assert f"'{name}' is unknown" in refusal(lambda data: place(data).update(surprise=1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: data.update(votes="three"), "votes"),
        (lambda data: data.update(decision="coin"), "decision"),
        (lambda data: data.update(polarity=0), "polarity"),
        (lambda data: data["plan"].update(canvas=[16]), "canvas"),
        (lambda data: data["network"].update(width=7), "width is 7"),
        (lambda data: data["plan"].update(divisor=0), "divisor is 0"),
        (lambda data: data.update(betas=[]), "no schedule"),
        (lambda data: data.update(betas=[0.5, 1.5]), "no schedule"),
    ],
)
def test_an_unusable_entry_is_named(change, named):
    assert named in refusal(change)


HEAD, TAIL = MANIFEST.labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": (HEAD,)}, r"1 label\(s\) do not match 3 channel"),
        ({"decision": "threshold"}, r"2 label\(s\) do not match 3 channel"),
        ({"labels": (HEAD, replace(TAIL, value=1))}, "different numbers"),
        ({"labels": (HEAD, replace(TAIL, value=256))}, "from 1 to 255"),
        ({"labels": (HEAD, replace(TAIL, value=0))}, "from 1 to 255"),
        ({"labels": (HEAD, replace(TAIL, name="Head"))}, "the same name"),
        ({"plan": replace(MANIFEST.plan, context=0)}, "image channels"),
        ({"plan": replace(MANIFEST.plan, divisor=1)}, "sizes"),
        ({"votes": 0}, "votes"),
        ({"seed": -1}, "seed"),
    ],
    ids=str,
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        replace(MANIFEST, **changes)


def test_one_label_is_thresholded_in_one_channel():
    network = replace(MANIFEST.network, label_channels=1)
    binary = replace(MANIFEST, labels=(HEAD,), network=network, decision="threshold", polarity=-1)
    assert manifest_from_json(manifest_to_json(binary), "here") == binary
    assert isinstance(binary, Manifest)
