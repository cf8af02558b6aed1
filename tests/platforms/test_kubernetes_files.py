"""The numbers in deploy/kubernetes, docker-compose.yml and the Dockerfile fit the service's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import load
from gateway.settings.model import SPECS, Settings
from health import HEALTH_PATHS

ROOT = Path(__file__).parents[2]
STOP_S = 15
"""What a stop takes at most beyond DRAIN_TIMEOUT."""


def documents() -> dict[str, dict[str, Any]]:
    text = (ROOT / "deploy" / "kubernetes" / "gateway.yaml").read_text(encoding="utf-8")
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


@pytest.fixture
def pod() -> dict[str, Any]:
    found = documents()["Deployment"]["spec"]["template"]["spec"]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


@pytest.fixture
def settings(container: dict[str, Any]) -> Settings:
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env.keys() <= {spec.env for spec in SPECS.values()}
    env |= {"MODEL_URL": "https://host.example/m.gguf", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    return load(env, is_dir=lambda path: False).settings


def test_grace_is_long_enough_for_the_whole_stop(
    pod: dict[str, Any], container: dict[str, Any], settings: Settings
) -> None:
    sleep_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace_s = pod["terminationGracePeriodSeconds"]
    assert grace_s >= sleep_s + settings.drain_timeout + STOP_S
    assert settings.drain_delay == 0


def test_startup_probe_outlasts_both_loads_and_the_rollout_outlasts_it(
    container: dict[str, Any], settings: Settings
) -> None:
    probe = container["startupProbe"]
    startup_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert startup_s >= 2 * settings.load_timeout
    assert documents()["Deployment"]["spec"]["progressDeadlineSeconds"] >= startup_s


def test_probes_and_service_ask_where_the_service_answers(
    container: dict[str, Any], settings: Settings
) -> None:
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": settings.port, "health": settings.port_health}
    paths = {
        name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")
    }
    assert {name: each["path"] for name, each in paths.items()} == {
        "startup": "/startupz",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    assert all(each["path"] in HEALTH_PATHS and each["port"] == "health" for each in paths.values())
    service = documents()["Service"]["spec"]
    assert {each["name"]: each["targetPort"] for each in service["ports"]} == {p: p for p in ports}
    template = documents()["Deployment"]["spec"]["template"]
    assert service["selector"].items() <= template["metadata"]["labels"].items()


def test_no_second_gpu_is_needed_for_an_update() -> None:
    spec = documents()["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_compose_gives_the_service_its_time_to_stop() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    for service in compose["services"].values():
        grace_s = int(service["stop_grace_period"].removesuffix("s"))
        assert grace_s >= int(service["environment"]["DRAIN_TIMEOUT"]) + STOP_S
        # With exit code 0 it has ended as it was asked, or as IDLE_ACTION=exit says.
        assert service["restart"] == "on-failure"


def test_container_may_load_for_as_long_as_the_service_lets_it() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"HEALTHCHECK .*--start-period=(\d+)m", text)
    assert found is not None
    assert int(found[1]) * 60 >= Settings().load_timeout
