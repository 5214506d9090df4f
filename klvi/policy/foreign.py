"""Anybody's policy: a whole model, or a peft adapter of any kind on the prior, by any trainer."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import find_adapter_config_file

from klvi.errors import UserError
from klvi.files import CONFIG as RUN_CONFIG
from klvi.policy.files import file_problems
from klvi.policy.fingerprint import check_fingerprint
from klvi.policy.loading import check_finite, explained, listed, load_model
from klvi.policy.prior import Prior, most_tokens
from klvi.policy.schema import name_of_path
from klvi.quoting import typed

KEY = "policy.path"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
CONFIGS = ("config.json", "adapter_config.json")
CAUSAL_LM = (None, "CAUSAL_LM")


def load_foreign(prior: Prior, path: str, longest: int) -> PreTrainedModel:
    """The model of a folder or hub id, on the prior's device and in its dtype, in eval mode.

    An adapter stays beside the weights of a copy of the prior, as peft puts it.

    Args:
        longest: tokens of a sequence that it will see.

    Raises UserError where it is incomplete, or belongs to another tokenizer or another prior.
    """
    folder = Path(path)
    if folder.is_dir() and (problems := file_problems(folder)):
        raise UserError(*[f"{KEY}={path}: {problem}" for problem in problems])
    if folder.is_dir() and not any((folder / name).is_file() for name in CONFIGS):
        if (folder / RUN_CONFIG).is_file():
            raise UserError(
                f"{KEY}={path}: is a run of klvi; give {typed('run', path)} in its place"
            )
        raise UserError(
            f"{KEY}={path}: is neither a model nor a peft adapter: it has no {' or '.join(CONFIGS)}"
        )
    with explained(path, KEY):
        adapter = find_adapter_config_file(path)
    if adapter is None:
        model = load_model(path, dtype=prior.plain.dtype, key=KEY)
    else:
        model = _adapted(prior, path, Path(adapter))
    _check_tokens(prior, path, model)
    limit = most_tokens(model)
    if limit is not None and limit < longest:
        raise UserError(
            f"{KEY}={path}: has {limit} positions, and prompt and completion take up to {longest}; "
            "lower max_new_tokens"
        )
    return model.to(prior.device).eval().requires_grad_(False)


def _adapted(prior: Prior, path: str, file: Path) -> PreTrainedModel:
    with explained(path, KEY):
        settings = json.loads(file.read_text(encoding="utf-8"))
    if settings.get("task_type") not in CAUSAL_LM:
        raise UserError(
            f"{KEY}={path}: an adapter for {settings['task_type']}, not for a causal language model"
        )
    _check_base(prior, path, settings.get("base_model_name_or_path"))
    with warnings.catch_warnings(), explained(path, KEY, f"no adapter of model {prior.name}"):
        warnings.simplefilter("ignore")  # what is missing is told below
        saved = load_peft_weights(path, device="cpu")
        try:
            adapted: Any = PeftModel.from_pretrained(copy.deepcopy(prior.plain), path)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            raise _other_base(prior, path, "its weights have other shapes") from error
        if adapted.active_peft_config.is_prompt_learning:
            raise UserError(
                f"{KEY}={path}: an adapter of learned prompts ({settings.get('peft_type')}) is "
                "unsupported; give one that changes weights"
            )
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    # Of adapted embeddings and heads peft saves the base weights as well.
    base = {f"base_model.model.{name}" for name in prior.plain.state_dict()}
    extra = saved.keys() - expected.keys()
    unknown = sorted(name for name in extra if name.replace(".base_layer.", ".") not in base)
    if unknown:
        raise _other_base(prior, path, f"there is no place for {listed(unknown)}")
    lacking = sorted(expected.keys() - saved.keys())
    if lacking:
        raise _other_base(prior, path, f"there are no weights for {listed(lacking)}")
    model: PreTrainedModel = adapted.get_base_model()
    check_finite(model, f"{KEY}={path}")
    return model


def _other_base(prior: Prior, path: str, why: str) -> UserError:
    return UserError(
        f"{KEY}={path}: is no adapter of model {prior.name} ({why}); set model.path to its base"
    )


def _check_base(prior: Prior, path: str, base: str | None) -> None:
    """Raises UserError where an adapter says that it belongs to another model."""
    if Path(path).is_dir():
        check_fingerprint(prior, Path(path))
    own = str(prior.plain.config._name_or_path)
    if base and own and name_of_path(base) not in {name_of_path(own), prior.name}:
        raise UserError(
            f"{KEY}={path}: is an adapter of {base}, not of model {prior.name} ({own}); set "
            f"model.path={base}, or, where it is the same model under another name, correct "
            "base_model_name_or_path in its adapter_config.json"
        )


def _check_tokens(prior: Prior, path: str, model: PreTrainedModel) -> None:
    """Raises UserError where a token's number means another token than the prior's."""
    sizes = [int(m.get_output_embeddings().weight.shape[0]) for m in (model, prior.plain)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{KEY}={path}: has another vocabulary than model {prior.name}: it tells probabilities "
            f"of {sizes[0]:,} tokens, the prior of {sizes[1]:,}; set model.path to the prior that "
            "it was trained from"
        )
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return
    with explained(path, KEY, "no tokenizer"):
        own = AutoTokenizer.from_pretrained(path).get_vocab()
    known = prior.tokenizer.get_vocab()
    # Tokens beyond the model's, as a padding token that was added, are never drawn.
    other = [t for t in (*known, *own) if known.get(t) != own.get(t) and _is_drawn(t, own, sizes)]
    if other:
        raise UserError(
            f"{KEY}={path}: has another tokenizer than model {prior.name} ({len(set(other)):,} "
            f"tokens differ, such as {other[0]!r}); set model.path to the prior that it was "
            "trained from"
        )


def _is_drawn(token: str, vocabulary: dict[str, int], sizes: list[int]) -> bool:
    return vocabulary.get(token, 0) < sizes[0]
