"""Priors by name or path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import klvi
from klvi.errors import UserError
from klvi.notebook import priors
from klvi.policy.tiny import tiny_path


def test_the_embedded_ones() -> None:
    tiny = klvi.load_prior("tiny")
    assert (tiny.name, tiny.max_new_tokens, tiny.max_prompt_tokens) == ("tiny", 48, 256)
    listed = klvi.load_prior("enumerable", letters=3, length=4, max_prompt_tokens=7)
    assert (listed.max_new_tokens, listed.max_prompt_tokens) == (4, 7)
    assert listed.stop_token_ids == (3,)


def test_a_folder_has_the_name_of_its_last_part() -> None:
    prior = klvi.load_prior(str(tiny_path()), max_new_tokens=5, kernels="none")
    assert (prior.name, prior.max_new_tokens, prior.kernels) == (tiny_path().name, 5, "none")


def test_a_models_config_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(priors, "load", lambda config, *_: seen.append(config) or 1 / 0)
    for arguments in ({"name": "qwen3-0.6b", "dtype": "float32"}, {"name": "me/mine"}):
        with pytest.raises(ZeroDivisionError):
            klvi.load_prior(**arguments)
    qwen, hub = seen
    assert (qwen.path, qwen.start_token) == ("Qwen/Qwen3-0.6B-Base", "<|endoftext|>")
    assert qwen.dtype == "float32"
    assert (hub.name, hub.path, hub.dtype) == ("mine", "me/mine", None)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"name": "enumerable", "letters": 1}, "letters=1: must be a whole number, at least 2"),
        ({"name": "tiny", "letters": 3}, "letters: not for the prior tiny; leave it out"),
        ({"name": "tiny", "model_seed": 3}, "^model_seed: not for the prior tiny; leave it out"),
        ({"name": "enumerable", "model_seed": -1}, "^model_seed=-1: must be a whole number"),
        ({"name": "tiny", "max_prompt_tokens": 0}, "^max_prompt_tokens=0: must be a whole number"),
        ({"name": "enumerable", "dtype": "bfloat16"}, "dtype: not for the prior enumerable"),
        ({"name": "tiny", "max_new_tokens": 0}, "max_new_tokens=0: must be a whole number"),
        ({"name": "tiny", "device": "gpu"}, "device=gpu: must be one of auto, cpu"),
        ({"name": "tiny", "dtype": "int8"}, "dtype=int8: must be one of auto, float32"),
        ({"name": 3}, "name: is int; give a model's name, hub id or folder"),
        ({"name": " "}, "name: is ' '; give a model's name"),
        ({"name": Path("/no/such/folder")}, "model.path=/no/such/folder: "),
        ({"name": "/no/such/folder"}, "model.path=/no/such/folder: "),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        klvi.load_prior(**arguments)
