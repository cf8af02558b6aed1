"""The files in deploy/runpod say what RunPod's API, its Hub and this program understand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load
from gateway.runpod.jobs import job_call
from gateway.settings.model import SPECS

FOLDER = Path(__file__).parents[2] / "deploy" / "runpod"
# Bodies of "create a serverless endpoint" and the Hub's files, as the vendor documents them.
ENDPOINT = {
    "name": str, "type": str, "image": str, "disk": int, "ports": list, "env": dict, "gpu": dict,
    "workers": dict, "scaling": dict, "flashboot": str, "networkVolumes": list, "timeout": int,
}  # fmt: skip
HUB = {
    "title": str, "description": str, "type": str, "category": str, "iconUrl": str, "config": dict,
}  # fmt: skip
INPUT_TYPES = {"string", "number", "boolean", "huggingface"}


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def check_types(found: dict[str, Any], types: dict[str, type]) -> None:
    unknown = found.keys() - types.keys()
    assert not unknown
    assert all(type(value) is types[name] for name, value in found.items())


@pytest.mark.parametrize("name", ["endpoint-lb.json", "endpoint-queue.json"])
def test_endpoint_has_the_fields_and_types_of_the_api(name: str) -> None:
    body = read(name)
    check_types(body, ENDPOINT)
    assert {"name", "type", "image", "gpu", "workers", "scaling"} <= body.keys()
    assert set(body["workers"]) == {"min", "max", "idleTimeout"}
    assert 0 <= body["workers"]["min"] <= body["workers"]["max"]
    assert 1 <= body["workers"]["idleTimeout"] <= 3600
    assert all(type(value) is str for value in body["env"].values())
    assert body["gpu"]["count"] >= 1


@pytest.mark.parametrize("name", ["endpoint-lb.json", "endpoint-queue.json"])
def test_endpoints_settings_are_ours_and_good(name: str) -> None:
    env = read(name)["env"]
    assert env.keys() <= {spec.env for spec in SPECS.values()}
    load({**env, "RUNPOD_ENDPOINT_ID": "e"}, is_dir=lambda path: False)


def test_load_balancer_scales_by_requests_and_both_its_ports_are_exposed() -> None:
    body = read("endpoint-lb.json")
    assert (body["type"], body["scaling"]["type"]) == ("LOAD_BALANCER", "REQUEST_COUNT")
    assert body["scaling"]["requestCount"] == int(body["env"]["PARALLEL"])
    ports = {f"{body['env'][name]}/http" for name in ("PORT", "PORT_HEALTH")}
    assert ports == set(body["ports"])
    assert all(int(port.partition("/")[0]) > 1023 for port in ports), "the image is not root"


def test_queue_scales_by_delay_and_exposes_nothing() -> None:
    body = read("endpoint-queue.json")
    assert (body["type"], body["scaling"]["type"]) == ("QUEUE", "QUEUE_DELAY")
    assert "ports" not in body


def test_hub_listing_is_a_queue_with_settings_of_ours() -> None:
    hub = read("hub/hub.json")
    check_types(hub, HUB)
    assert hub["type"] == "serverless"
    assert "endpointType" not in hub["config"]
    keys = {each["key"] for each in hub["config"]["env"]}
    assert keys <= {spec.env for spec in SPECS.values()}
    for each in hub["config"]["env"]:
        assert ("value" in each) != ("input" in each)
        if given := each.get("input"):
            assert given["type"] in INPUT_TYPES
            if given["type"] == "number":
                assert given["min"] <= given["default"] <= given["max"]
            if "options" in given:
                assert given["default"] in [option["value"] for option in given["options"]]
                assert all(option.keys() == {"label", "value"} for option in given["options"])
    for preset in hub["config"]["presets"]:
        assert preset["defaults"].keys() <= keys


def test_hub_defaults_are_good_settings() -> None:
    inputs = (each for each in read("hub/hub.json")["config"]["env"] if "input" in each)
    env = {e["key"]: str(e["input"]["default"]) for e in inputs if "default" in e["input"]}
    load(env, is_dir=lambda path: False)


def test_hub_tests_are_jobs_that_the_worker_takes() -> None:
    tests = read("hub/tests.json")
    assert tests.keys() == {"tests", "config"}
    assert len({each["name"] for each in tests["tests"]}) == len(tests["tests"])
    for each in tests["tests"]:
        assert type(each["timeout"]) is int
        job_call(each["input"])
    assert {e["key"] for e in tests["config"]["env"]} <= {spec.env for spec in SPECS.values()}
