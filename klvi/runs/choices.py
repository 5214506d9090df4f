"""Defaults that follow what is loaded: keys that are null until the model is known.

Rules on plain numbers alone; `klvi.runs.defaults` reads the numbers off a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from klvi.runs.schema import ProblemConfig, TrainConfig

C = TypeVar("C", bound=ProblemConfig)

# The keys that may be null until a model is loaded; in the run's config.yaml none of them is.
CHOSEN = ("model.dtype", "optim.lr", "engine.batch_size", "samples_per_prompt")
# LoRA at rank 16: 2e-3 for `tiny`, and for 7 to 8 billion parameters the 1e-4 to 2e-4 of common
# practice (Hu et al. 2021, arXiv 2106.09685, table 12; Dettmers et al. 2023, arXiv 2305.14314,
# section B.2; with the same fall of the optimum as the model grows).
HIGHEST_LR, HIGHEST_LR_PARAMETERS = 2e-3, 1e6
# Completions decoded at once: at most so many; so many next-token probabilities in a step, which
# take about 20 bytes each; so many bytes of keys and values.
MAX_AT_ONCE = 512
STEP_LOGITS = {"cpu": 2**25, "gpu": 2**26}
CACHE_BYTES = {"cpu": 2**31, "gpu": 2**32}


@dataclass(frozen=True)
class Facts:
    """What the rules know of a loaded model.

    Attributes:
        parameters: of the model, without the adapter.
        vocabulary: size of the output embedding.
        cache_bytes: that one token takes in the key-value cache.
        dtype: of the weights, as torch spells it without "torch.".
        device: such as "cpu" or "cuda:1".
    """

    parameters: int
    vocabulary: int
    cache_bytes: int
    dtype: str
    device: str


def learning_rate(parameters: int) -> float:
    """Learning rate of a LoRA adapter: 2e-3·(parameters/10⁶)^(−1/3), to one digit, 2e-3 at most.

    A million parameters or fewer: 2e-3; 124 million: 4e-4; a billion: 2e-4; 8 billion: 1e-4.
    """
    scale = max(parameters / HIGHEST_LR_PARAMETERS, 1.0)
    return float(f"{HIGHEST_LR * scale ** (-1 / 3):.0e}")


def completions_at_once(facts: Facts, tokens: int) -> int:
    """Completions of `tokens` tokens, their prompts included, to decode at once: a power of two.

    Falls with the vocabulary, the length and the size of the key-value cache; at most 512.
    """
    kind = "cpu" if facts.device == "cpu" else "gpu"
    most = min(
        MAX_AT_ONCE,
        STEP_LOGITS[kind] // facts.vocabulary,
        CACHE_BYTES[kind] // (max(facts.cache_bytes, 1) * tokens),
    )
    return 1 << (max(most, 1).bit_length() - 1)


def choose(config: C, facts: Facts, tokens: int) -> C:
    """The configuration with a value for every key of `CHOSEN` that is null; others stay.

    Args:
        tokens: of the longest prompt and its completion.
    """
    model, engine = config.model, config.engine
    if model.dtype is None:
        model = model.model_copy(update={"dtype": _spelled(facts.dtype)})
    if engine.batch_size is None:
        size = completions_at_once(facts, tokens)
        engine = engine.model_copy(update={"batch_size": size})
    changes: dict[str, Any] = {"model": model, "engine": engine}
    if isinstance(config, TrainConfig) and config.optim.lr is None:
        lr = learning_rate(facts.parameters)
        changes["optim"] = config.optim.model_copy(update={"lr": lr})
    return config.model_copy(update=changes)


def _spelled(dtype: str) -> str:
    return dtype if dtype in {"float32", "bfloat16", "float16"} else "auto"


def chosen(before: ProblemConfig, after: ProblemConfig) -> dict[str, Any]:
    """The keys of `CHOSEN` that were null in `before`, with their values in `after`."""
    old, new = before.model_dump(), after.model_dump()
    values = {key: _value(new, key) for key in CHOSEN if _value(old, key) is None}
    # One completion of a prompt is what anybody expects.
    single = "samples_per_prompt", 1
    return {
        key: value for key, value in values.items() if value is not None and (key, value) != single
    }


def same_run(config: TrainConfig, stored: TrainConfig) -> bool:
    """Whether `config` asks for the run that `stored` is, what was chosen for that run included."""
    asked, held = config.model_dump(), stored.model_dump()
    for key in CHOSEN:
        section, _, name = key.rpartition(".")
        mine, theirs = (asked[section], held[section]) if section else (asked, held)
        if mine.get(name) is None and name in theirs:
            mine[name] = theirs[name]
    return asked == held


def _value(values: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.rpartition(".")
    return (values.get(section, {}) if section else values).get(name)


def described(facts: Facts, name: str, values: Mapping[str, Any]) -> str:
    """A line that says what was chosen for the model called `name`."""
    settings = " ".join(f"{key}={_short(value)}" for key, value in values.items())
    size = f"{_rounded(facts.parameters)} parameters"
    return f"chosen for {name} ({size}, {facts.dtype}, {facts.device}): {settings}"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rounded(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
