"""What types and ranges cannot say: files that must exist, and combinations that make no sense."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from klvi.config.keys import spelled
from klvi.config.reward_rules import Values, broken_reward_rules, missing_folder
from klvi.engine.schema import VLLM_NEEDS
from klvi.evaluation.plan import SAMPLES, SAMPLES_PER_PROMPT
from klvi.evaluation.schema import MAX_LENGTH, MAX_SEQUENCES
from klvi.schema import Choice, section_of
from klvi.spelling import suggestion

# What a chat template is given with the messages, and how it is run.
CHAT_OF_KLVI = {
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "sanitize_control_tokens", "tokenizer_kwargs"),
    *("bos_token", "eos_token", "pad_token"),
}

# Metrics of scores that are known once reward and target are.
OF_SCORES, PASS_AT = ("eval/score/", "eval/feature/"), "eval/pass_at_"


def broken_rules(command: str, raw: Mapping[str, Any], wrong: Set[str]) -> Iterator[str]:
    """A line per broken rule; rules about the dotted keys in `wrong` are left out."""
    values = {key: _as_text(key, value) for key, value in flat(raw) if key not in wrong}
    yield from _run_folder(values)
    yield from _model(values)
    yield from _targets(values)
    yield from _policy(values)
    yield from _engine(values)
    yield from _float64(values)
    if command in {"train", "eval", "verify"}:
        yield from _enumeration(values)
    yield from broken_reward_rules(values)
    yield from _features(values)
    yield from _prompts(values)
    yield from _sizes(values)
    yield from _best(values)


def unmet_needs(schema: type[BaseModel], raw: Mapping[str, Any]) -> Iterator[str]:
    """A line where a choice needs what the choice of another group does not provide.

    Of several reasons against the same choice, the first is given.
    """
    chosen = {
        key: section
        for key, field in schema.model_fields.items()
        if isinstance(section := section_of(field.annotation, raw.get(key)), type)
        and issubclass(section, Choice)
    }
    provided = {key: section.capabilities(raw[key]) for key, section in chosen.items()}
    for key, section in chosen.items():
        refused: set[str] = set()
        for need in section.needs:
            lacking = need.capability not in provided.get(need.group, {need.capability})
            if lacking and need.group not in refused:
                refused.add(need.group)
                names = f"{key}={raw[key]['name']} with {need.group}={raw[need.group]['name']}"
                yield f"{names}: {need.why}"


def _as_text(key: str, value: Any) -> Any:
    """Hydra reads a text such as `reward.text=3` as a number."""
    textual = key.rpartition(".")[2] in {"run", "out", "path", "function", "text"}
    return str(value) if textual and value is not None else value


def flat(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration with their dotted keys."""
    for key, value in raw.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _run_folder(values: Values) -> Iterator[str]:
    run = values.get("run")
    if run is not None:
        problem = run_folder_problem(Path(run).expanduser())
        if problem:
            yield f"run={run}: {problem}"


def run_folder_problem(folder: Path) -> str | None:
    """Why `folder` is not a run's; None where it is one."""
    if not folder.is_dir():
        return "no such folder"
    if (folder / "config.yaml").is_file():
        return None
    jobs = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
    if jobs:
        return f"not a run but a folder of runs: {', '.join(jobs)}"
    return "not the folder of a run: it has no config.yaml"


def _model(values: Values) -> Iterator[str]:
    yield from missing_folder("model.path", values.get("model.path"))


def _targets(values: Values) -> Iterator[str]:
    """Of every target, those in a product included."""
    for key in [key for key in values if re.search(r"(^|\.)target\.name$", key)]:
        path_key = f"{key.removesuffix('name')}path"
        path = values.get(path_key)
        if values[key] == "model":
            yield from missing_folder(path_key, path)
        elif values[key] == "empirical" and path and not Path(path).expanduser().is_file():
            yield f"{path_key}={path}: no such file"


def _policy(values: Values) -> Iterator[str]:
    path = values.get("policy.path")
    if path is None:
        return
    yield from missing_folder("policy.path", path)
    if values.get("run") is not None:
        yield "policy.path and run= exclude each other: a run has its own policy; leave one out"
    if values.get("engine.name") == "vllm":
        yield "engine=vllm with policy.path: it decodes adapters of klvi alone; use engine=auto"


def _engine(values: Values) -> Iterator[str]:
    engine, device = values.get("engine.name"), str(values.get("device"))
    if engine == "vllm" and find_spec("vllm") is None:
        yield (
            "engine=vllm: vLLM is not installed; pip install 'klvi[vllm]' without "
            f"-c constraints.txt ({VLLM_NEEDS}), or use engine=torch"
        )
    if engine in {"graph", "vllm"} and device in {"cpu", "mps"}:
        yield (f"engine={engine} with device={device}: it needs CUDA; use engine=torch")
    elif engine == "vllm" and device.startswith("cuda:") and device != "cuda:0":
        index = device.removeprefix("cuda:")
        yield (
            f"engine=vllm with device={device}: vLLM takes the first GPU it sees; set "
            f"CUDA_VISIBLE_DEVICES={index} and device=cuda"
        )


def _float64(values: Values) -> Iterator[str]:
    """Metal has no float64."""
    if values.get("device") != "mps":
        return
    if values.get("model.name") == "enumerable":
        yield "model=enumerable with device=mps: exact values need float64; use device=cpu"
    if values.get("objective.name") == "gdc":
        yield "objective=gdc with device=mps: its weights need float64; use device=cpu"


def _enumeration(values: Values) -> Iterator[str]:
    if values.get("model.name") != "enumerable":
        return
    letters, length = values.get("model.letters"), values.get("max_new_tokens")
    # What is longer does not fit the model's context either, which says so itself.
    if letters is None or length is None or length > MAX_LENGTH:
        return
    count = sum(letters**k for k in range(length + 1))
    if count > MAX_SEQUENCES:
        yield (
            f"model.letters={letters} max_new_tokens={length}: these are {count:,} "
            f"sequences, and exact evaluation lists at most {MAX_SEQUENCES:,}; take fewer letters "
            "or a smaller model.length"
        )


def _prompts(values: Values) -> Iterator[str]:
    if values.get("prompts.name") != "file":
        return
    path = values.get("prompts.path")
    if path and Path(path).expanduser().is_dir():
        yield f"prompts.path={path}: is a folder; give one of its files"
    elif path and not Path(path).expanduser().exists():
        yield f"prompts.path={path}: no such file"
    for key in values:
        if key.startswith("prompts.chat.") and key.removeprefix("prompts.chat.") in CHAT_OF_KLVI:
            yield f"{key}: klvi sets it itself; leave it out"


def _sizes(values: Values) -> Iterator[str]:
    groups = values.get("prompts.name", "none") != "none"
    samples = ("evaluation.samples", None if groups else SAMPLES)
    if groups and values.get("evaluation.samples") is None:
        samples = ("evaluation.samples_per_prompt", SAMPLES_PER_PROMPT)
    for small, large, default in (
        ("objective.minibatches", "batch_size", None),
        ("samples_per_prompt", "batch_size", None),
        ("evaluation.ess_floor", *samples),
    ):
        low, high = values.get(small), values.get(large)
        if large in values and high is None:
            high = default
        if low is not None and high is not None and low > high:
            yield f"{small}={spelled(low)}: must be at most {large}={spelled(high)}"
    totals = ("evaluation.samples", "evaluation.prompts", "evaluation.samples_per_prompt")
    given = [f"{key}={spelled(values[key])}" for key in totals if values.get(key) is not None]
    if groups and len(given) == len(totals):
        yield f"{' '.join(given)}: any two of them give the third; leave one null"


def _features(values: Values) -> Iterator[str]:
    if values.get("target.name") == "moments" and not any(
        key.startswith("target.features.") for key in values
    ):
        yield "target.features: has no feature; add one, as in " + (
            "'target.features.she={reward: {name: contains, text: she}, mean: 0.5}'"
        )


def _best(values: Values) -> Iterator[str]:
    name = values.get("checkpoint.best")
    # Which scores and features there are is known once reward and target are.
    if name is None or str(name).startswith(OF_SCORES):
        return
    if str(name).startswith(PASS_AT):
        k = str(name).removeprefix(PASS_AT)
        if k not in map(str, values.get("evaluation.pass_k") or ()):
            yield f"checkpoint.best={name}: is not measured; set evaluation.pass_k=[{k}]"
        return
    # Not for a command without such a key: it is slow.
    from klvi.metrics.catalogue import metrics_of

    scores = {"reward", "gold"} if values.get("gold.name") else {"reward"}
    found = metrics_of(scores)
    # log Z belongs to the target as well, though it is estimated from the policy's samples too.
    known = [
        n
        for n, spec in found.items()
        if spec.estimated and not spec.of_target and n != "eval/log_z"
    ]
    if name == "eval/gold" and name not in known:
        yield f"checkpoint.best={name}: gold= is not set; add gold=contains gold.text=…, or another"
        return
    if name not in known:
        near = suggestion(name if "/" in str(name) else f"eval/{name}", known)
        yield f"checkpoint.best={spelled(name)}: must be a metric of a policy's evaluation{near}"
