"""Loading a causal language model as its folder has it, or saying why it cannot be.

What transformers makes up where a folder lacks something (random weights, a base model without its
adapter) would be another model than the one that was saved.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import find_adapter_config_file

from klvi.engine.memory import is_out_of_memory
from klvi.engine.views import embeddings_are_tied, untie
from klvi.errors import UserError, first_line
from klvi.policy.files import file_problems

# Of many missing weights, how many are named.
NAMED = 3
CLASSIFIER = "ForSequenceClassification"


def load_pretrained(
    path: str, *, dtype: Any, key: str = "model.path", **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer of a folder or hub id; of an adapter's folder, merged into its base.

    Args:
        dtype: as `from_pretrained` takes it.
        key: the configuration's key of `path`, for messages.
        options: `revision`, `trust_remote_code`.

    Raises UserError where something is missing, cut off, not finite or of another kind.
    """
    if Path(path).is_dir() and (problems := file_problems(Path(path))):
        raise UserError(*[f"{key}={path}: {problem}" for problem in problems])
    with explained(path, key):
        adapter = find_adapter_config_file(path, revision=options.get("revision"))
    if adapter is not None:
        return _load_adapted(path, Path(adapter), dtype=dtype, key=key, **options)
    with explained(path, key):
        AutoConfig.from_pretrained(path, **options)
    with explained(path, key, "no tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    return load_model(path, dtype=dtype, key=key, **options), tokenizer


def load_model(path: str, *, dtype: Any, key: str, **options: Any) -> PreTrainedModel:
    """The model of a folder or hub id that is no adapter; raises as `load_pretrained`."""
    with explained(path, key):
        model, loading = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which are refused below, by name
            **options,
        )
    _check_loading(path, key, model, loading)
    check_finite(model, f"{key}={path}")
    loaded: PreTrainedModel = model
    return loaded


def check_finite(model: nn.Module, culprit: str) -> None:
    """Raises UserError where a weight is NaN or infinite."""
    found = infinite_weight(model)
    if found is not None:
        name, dtype = found
        raise UserError(
            f"{culprit}: weight {name} is not finite (NaN or infinite): it was saved broken, or "
            f"overflows {str(dtype).removeprefix('torch.')}; use another checkpoint or dtype"
        )


def infinite_weight(model: nn.Module) -> tuple[str, torch.dtype] | None:
    """The first weight with a NaN or infinity, and its type; None where all are finite.

    Buffers may hold infinities on purpose, as masks do.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            return name, weight.dtype
    return None


def check_vocabulary(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError where the tokenizer has ordinary tokens that the model does not know."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(
            f"model {name}: {type(model).__name__} has no output embedding that klvi could read; "
            "take another model"
        )
    outputs = int(head.weight.shape[0])
    if outputs > rows:
        raise UserError(
            f"model {name}: it can draw {outputs:,} tokens but embeds only {rows:,}: its "
            "vocabulary sizes disagree; resize its embeddings and save it again"
        )
    added = set(getattr(tokenizer, "added_tokens_decoder", {}))
    beyond = [t for t, i in tokenizer.get_vocab().items() if i >= rows and i not in added]
    if beyond:
        raise UserError(
            f"model {name}: its tokenizer has {len(beyond):,} tokens, such as {beyond[0]!r}, "
            f"beyond the {rows:,} that the model embeds: it is another model's; save model and "
            "tokenizer together"
        )


def _check_loading(path: str, key: str, model: PreTrainedModel, loading: Any) -> None:
    """Raises UserError where weights came from nowhere, or had to be left out."""
    # One with tied embeddings lacks nothing that a language model has.
    saved = str((model.config.architectures or [""])[0])
    if saved.endswith(CLASSIFIER):
        raise UserError(f"{key}={path}: is a classifier, {saved}, not a causal language model")
    missing = sorted(loading["missing_keys"])
    if missing:
        raise UserError(
            f"{key}={path}: no weights for {listed(missing)} of {type(model).__name__}, which "
            "would be random: it is an incomplete checkpoint or one of another model class"
        )
    mismatched = sorted(str(entry[0]) for entry in loading["mismatched_keys"])
    if mismatched:
        raise UserError(
            f"{key}={path}: weights of another shape than config.json says: {listed(mismatched)}"
        )


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _load_adapted(
    path: str, adapter: Path, *, dtype: Any, key: str, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model of an adapter, with the adapter in its weights."""
    with explained(path, key):
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        base, task = settings.get("base_model_name_or_path"), settings.get("task_type")
    if not base:
        raise UserError(f"{key}={path}: an adapter that names no base model (adapter_config.json)")
    if task not in {None, "CAUSAL_LM"}:
        raise UserError(f"{key}={path}: an adapter for {task}, not for a causal language model")
    if Path(path).is_dir() and Path(base).is_dir() and Path(base).samefile(path):
        raise UserError(f"{key}={path}: an adapter that names itself as its base model")
    trust = {"trust_remote_code": options.get("trust_remote_code", False)}
    model, tokenizer = load_pretrained(
        base, dtype=dtype, key=f"{key}={path}: base_model_name_or_path", **trust
    )
    own = (Path(path) / "tokenizer_config.json").is_file()
    with explained(path, key), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tokenizer = AutoTokenizer.from_pretrained(path, **options) if own else tokenizer
        adapted = PeftModel.from_pretrained(model, path, revision=options.get("revision"))
        _untie_adapted(adapted, model)
        merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    absent = [str(w.message) for w in told if "missing adapter keys" in str(w.message)]
    if absent:
        raise UserError(f"{key}={path}: {absent[0].splitlines()[0]}")
    check_finite(merged, f"{key}={path}")
    return merged, tokenizer


def _untie_adapted(adapted: PeftModel, model: PreTrainedModel) -> None:
    """Give an adapted embedding weights of its own, which merging then does not change twice."""
    if not embeddings_are_tied(model):
        return
    shared: nn.Parameter = model.get_input_embeddings().weight
    for module in adapted.modules():
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else None
        if isinstance(base, nn.Module) and getattr(base, "weight", None) is shared:
            base.weight = nn.Parameter(shared.detach().clone(), requires_grad=False)
            untie(model.config)


@contextlib.contextmanager
def explained(path: str, key: str, what: str = "no causal language model") -> Iterator[None]:
    """Whatever the libraries raise while loading, as one line that names the path."""
    try:
        with quiet_transformers():
            yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{key}={path}: a package is missing: {first_line(error)}") from error
    except Exception as error:  # whatever a checkpoint makes them raise
        if is_out_of_memory(error):
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{key}={path}: it runs code of its own, which comes with the checkpoint: set "
                f"{key.partition('.path')[0]}.trust_remote_code=true where you trust it, or take "
                "another model"
            ) from error
        where = "the folder" if Path(path).exists() else "the Hugging Face hub"
        raise UserError(
            f"{key}={path}: {what} could be loaded from {where} ({first_line(error)})"
        ) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the libraries' progress bars, advice and deprecations; failures still raise."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
