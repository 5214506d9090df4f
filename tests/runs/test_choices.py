"""Rules for what is left to the model's size, on numbers of models that no test loads."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from support import train_config

from klvi.config.compose import composer, to_config
from klvi.policy.schema import ModelConfig, name_of_path, with_dtype
from klvi.runs.choices import (
    Facts,
    choose,
    chosen,
    completions_at_once,
    described,
    learning_rate,
    same_run,
)
from klvi.runs.schema import TrainConfig

TINY = Facts(900_000, 700, 2 * 4 * 128 * 4, "float32", "cpu")
# Qwen3-8B: 36 layers, 8 heads of keys and values of 128 numbers, in bfloat16.
QWEN_8B = Facts(8_190_000_000, 151_936, 2 * 36 * 8 * 128 * 2, "bfloat16", "cuda:0")
MODEL = {"name": "some", "path": "some/model"}


@pytest.mark.parametrize(
    ("parameters", "lr"),
    [(1_000, 2e-3), (900_000, 2e-3), (124_000_000, 4e-4), (10**9, 2e-4), (8_190_000_000, 1e-4)],
)
def test_the_learning_rate_follows_the_size(parameters: int, lr: float) -> None:
    assert learning_rate(parameters) == lr


def test_larger_models_never_get_a_higher_learning_rate() -> None:
    rates = [learning_rate(int(10 ** (k / 20))) for k in range(60, 250)]
    assert all(small >= large > 0 for small, large in pairwise(rates))


def test_rollouts_at_once_are_bounded_by_logits_and_by_the_cache() -> None:
    assert completions_at_once(TINY, 49) == 512
    assert completions_at_once(QWEN_8B, 49) == 256
    assert completions_at_once(QWEN_8B, 1024) == 16
    on_cpu = Facts(**{**vars(QWEN_8B), "device": "cpu"})
    assert completions_at_once(on_cpu, 49) * QWEN_8B.vocabulary <= 2**25
    sizes = [completions_at_once(QWEN_8B, 2**k) for k in range(24)]
    assert all(short >= long >= 1 for short, long in pairwise(sizes))


def test_only_what_is_null_is_chosen() -> None:
    asked = train_config(model=MODEL)
    config = choose(asked, QWEN_8B, 49)
    assert chosen(asked, config) == {
        "model.dtype": "bfloat16",
        "optim.lr": 1e-4,
        "engine.batch_size": 256,
    }
    assert choose(config, TINY, 9) == config
    line = described(QWEN_8B, "Qwen3-8B", chosen(asked, config))
    assert "8.19B" in line
    assert "optim.lr=0.0001" in line
    given = train_config(model=MODEL, optim={"lr": 0.0}, engine={"name": "torch", "batch_size": 3})
    config = choose(given, QWEN_8B, 49)
    assert (config.optim.lr, config.engine.batch_size) == (0.0, 3)
    assert chosen(given, config) == {"model.dtype": "bfloat16"}


def test_a_run_whose_values_were_chosen_is_the_run_that_was_asked_for() -> None:
    asked = train_config(model=MODEL)
    stored = choose(asked, QWEN_8B, 49)
    assert same_run(asked, TrainConfig.model_validate(stored.model_dump()))
    assert not same_run(train_config(model=MODEL, optim={"lr": 1e-3}), stored)
    assert not same_run(train_config(model=MODEL, seed=1), stored)


def test_half_precision_is_for_gpus() -> None:
    config = ModelConfig(name="some", path="some/model")
    assert with_dtype(config, "cpu").dtype == "float32"
    assert with_dtype(config, "cuda:1").dtype == "auto"
    assert with_dtype(config.model_copy(update={"dtype": "float16"}), "cpu").dtype == "float16"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (None, "tiny"),
        ("Qwen/Qwen3-8B", "Qwen3-8B"),
        ("runs/my model (v2)/", "my-model-v2"),
        ("~/models/../gpt2", "gpt2"),
        ("/hub/models--Qwen--Qwen3-8B/snapshots/0a1b2c", "Qwen3-8B"),
        ("/data/enumerable", "enumerable-model"),
        ("/", "model"),
        (".", os.path.basename(os.getcwd())),
        ("модель", "модель"),
    ],
)
def test_a_path_gives_the_name(path: str | None, name: str) -> None:
    assert name_of_path(path) == name


def composed(*overrides: str) -> TrainConfig:
    with composer("train") as hydra:
        config = to_config("train", hydra.compose(overrides))
    assert isinstance(config, TrainConfig)
    return config


def test_what_is_left_to_the_model_is_null_in_the_composed_configuration() -> None:
    config = composed("model.path=Qwen/Qwen3-8B")
    assert config.model.name == "Qwen3-8B"
    assert (config.model.dtype, config.optim.lr, config.engine.batch_size) == (None, None, None)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("model.path=Qwen/Qwen3-8B", "model.name=mine"), "mine"),
        (("model.path=someone/finetuned", "model=gpt2"), "gpt2"),
        (("model.path=7",), "7"),
        (("model=tiny",), "tiny"),
    ],
)
def test_a_name_that_is_given_stays(overrides: tuple[str, ...], name: str) -> None:
    assert composed(*overrides).model.name == name


@pytest.mark.parametrize(
    ("model", "lr", "batch", "rollouts"),
    [("gpt2", 3e-4, 128, 256), ("smollm2-135m", 3e-4, 128, 256), ("qwen3-0.6b", 2e-4, 64, 64)],
)
def test_shipped_models_keep_their_own_numbers(
    model: str, lr: float, batch: int, rollouts: int
) -> None:
    config = composed(f"model={model}")
    assert (config.optim.lr, config.batch_size) == (lr, batch)
    assert config.engine.batch_size == rollouts
