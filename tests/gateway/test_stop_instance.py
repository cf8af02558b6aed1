"""How a platform is asked to stop this machine."""

from __future__ import annotations

from gateway.stop_instance import StopRequest, stop_request

POD = {"RUNPOD_POD_ID": "p0d", "RUNPOD_API_KEY": "rp-secret"}
INSTANCE = {"CONTAINER_ID": "4711", "CONTAINER_API_KEY": "vast-secret"}


def test_runpod_pod_is_stopped_with_its_own_key() -> None:
    assert stop_request("runpod-pod", None, POD) == StopRequest(
        "POST",
        "https://rest.runpod.io/v1/pods/p0d/stop",
        {"Authorization": "Bearer rp-secret"},
    )


def test_vast_instance_is_stopped_with_its_own_key() -> None:
    assert stop_request("vast", None, INSTANCE) == StopRequest(
        "PUT",
        "https://console.vast.ai/api/v0/instances/4711/",
        {"Authorization": "Bearer vast-secret"},
        {"state": "stopped"},
    )


def test_own_address_wins_and_gets_no_key() -> None:
    for platform, environ in (("runpod-pod", POD), ("vast", INSTANCE), ("generic", {})):
        request = stop_request(platform, "http://stop.example/now", environ)
        assert request == StopRequest("POST", "http://stop.example/now")


def test_without_a_variable_it_is_not_known_how() -> None:
    for platform, environ in (("runpod-pod", POD), ("vast", INSTANCE)):
        for missing in environ:
            rest = {name: value for name, value in environ.items() if name != missing}
            assert stop_request(platform, None, rest) is None
        assert stop_request(platform, None, dict.fromkeys(environ, "")) is None


def test_variables_of_another_platform_do_not_count() -> None:
    assert stop_request("generic", None, {**POD, **INSTANCE}) is None
    assert stop_request("runpod-serverless", None, POD) is None
    assert stop_request("runpod-pod", None, INSTANCE) is None


def test_key_is_not_in_the_repr() -> None:
    assert "secret" not in repr(stop_request("runpod-pod", None, POD))
    assert "secret" not in repr(stop_request("vast", None, INSTANCE))
