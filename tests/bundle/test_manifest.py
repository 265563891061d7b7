"""The manifest: the same after a round trip, and refused where it does not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bundle.conftest import MANIFEST
from cdal_sdk.bundle import Manifest, manifest_from_json, manifest_to_json
from cdal_sdk.errors import ModelError


def refusal(change: Callable[[dict[str, Any]], Any]) -> str:
    data = json.loads(manifest_to_json(MANIFEST))
    change(data)
    with pytest.raises(ModelError) as caught:
        manifest_from_json(json.dumps(data), "here/manifest.json")
    assert str(caught.value).startswith("here/manifest.json: ")
    return str(caught.value)


def test_round_trip():
    text = manifest_to_json(MANIFEST)
    assert manifest_from_json(text, "here") == MANIFEST
    assert manifest_from_json(text.encode(), "here") == MANIFEST
    assert manifest_to_json(manifest_from_json(text, "here")) == text


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
