"""What the start says about the machine, and which defaults follow from it."""

import logging

import pytest

from backend import Gpu
from gateway.config import load
from gateway.preparation import _say_how_gpus_are_used
from gateway.wiring import automatic_context, engine_settings, model_alias


def gpu(index: int) -> Gpu:
    return Gpu(index, "Test GPU", 1 << 30, 0, 0)


@pytest.mark.parametrize(
    ("count", "env", "level"),
    [
        (0, {}, None),
        (1, {}, logging.INFO),
        (2, {}, logging.WARNING),
        (2, {"TENSOR_SPLIT": "3,1"}, logging.INFO),
        (2, {"SPLIT_MODE": "none"}, logging.INFO),
    ],
)
def test_split_over_gpus_that_nobody_chose_is_a_warning(
    caplog: pytest.LogCaptureFixture, count: int, env: dict[str, str], level: int | None
) -> None:
    caplog.set_level(logging.INFO)
    _say_how_gpus_are_used(load(env).settings, tuple(gpu(i) for i in range(count)))
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])


def test_context_that_nobody_chose_is_the_same_at_every_start() -> None:
    assert automatic_context(None, 4) == 16384
    assert automatic_context(131072, 4) == 16384
    assert automatic_context(2048, 2) == 4096


def test_model_is_named_before_it_is_there() -> None:
    assert model_alias(load({}).settings) == "smollm2-135m-instruct"
    assert model_alias(load({"MODEL_PATH": "/m/Qwen3-8B-Q4_K_M.gguf"}).settings) == (
        "Qwen3-8B-Q4_K_M"
    )
    assert model_alias(load({"MODEL_ALIAS": "mine"}).settings) == "mine"
    assert model_alias(load({"USE_MOCK_MODEL": "true"}).settings) == "mock"


def test_engine_gets_what_the_operator_said() -> None:
    env = {"NGL": "all", "TENSOR_SPLIT": "3,1", "THREADS": "2", "EXTRA_ARGS": "--mlock"}
    engine = engine_settings(load(env).settings, None, None)
    assert (engine.ngl, engine.tensor_split, engine.threads) == ("all", "3,1", 2)
    assert engine.extra_args == ("--mlock",)
