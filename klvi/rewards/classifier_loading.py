"""A sequence classifier and its tokenizer, loaded as saved, or refused with the reason."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import find_adapter_config_file

from klvi.errors import UserError
from klvi.policy.files import file_problems
from klvi.policy.loading import infinite_weight, listed, quiet_transformers

SEQUENCE_CLASSIFICATION = "SEQ_CLS"
HEADS = ("score", "classifier")  # peft saves these beside the adapter of a classifier


@dataclass(frozen=True)
class Source:
    """Where a classifier comes from, and how it is loaded."""

    path: str
    device: torch.device
    dtype: torch.dtype | str
    trust_remote_code: bool

    @staticmethod
    def of(
        path: str, device: str | None, dtype: str | None, trust: bool, run_device: str
    ) -> Source:
        """On the run's device and in the dtype that suits it, where none is given.

        Raises `UserError` where there is no such device.
        """
        place = torch.device(device or run_device)
        _check_device(place, device)
        name = dtype or ("float32" if place.type == "cpu" else "auto")
        return Source(path, place, name if name == "auto" else getattr(torch, name), trust)

    def load(self) -> tuple[Any, Any]:
        """The model, in eval mode and frozen on its device, and the tokenizer.

        Raises `UserError` where they are absent, damaged, incomplete, or of another kind.
        """
        with quiet_transformers():
            adapter = self._adapter()
            model = self._plain(self.path) if adapter is None else self._adapted(adapter)
            tokenizer = self._tokenizer(adapter)
        _check_finite(model, self.path)
        if not getattr(model, "is_quantized", False):
            model.to(self.device)
        return model.eval().requires_grad_(False), tokenizer

    def _plain(self, path: str) -> Any:
        model, missing = self._pretrained(path)
        if missing:
            raise UserError(
                f"reward.path={self.path} is not a trained sequence classifier: it has no weights "
                f"for {listed(missing)}; give a model that was saved with its head"
            )
        return model

    def _pretrained(self, path: str, **options: Any) -> tuple[Any, list[str]]:
        """A model, and which of its weights the folder lacks, so that they would be random."""
        with self._loading(path):
            code = {"trust_remote_code": self.trust_remote_code}
            if getattr(AutoConfig.from_pretrained(path, **code), "quantization_config", None):
                options["device_map"] = {"": self.device}
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                path, output_loading_info=True, dtype=self.dtype, **code, **options
            )
        missing = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
        return model, sorted(missing)

    def _adapter(self) -> dict[str, Any] | None:
        """What an adapter's configuration says; None where the path is that of a whole model."""
        with self._loading(self.path):
            file = find_adapter_config_file(self.path)
            return None if file is None else dict(json.loads(Path(file).read_text("utf-8")))

    def _adapted(self, adapter: dict[str, Any]) -> Any:
        from peft import PeftModel, get_peft_model_state_dict
        from peft.utils import load_peft_weights

        task, base = adapter.get("task_type"), adapter.get("base_model_name_or_path")
        if task != SEQUENCE_CLASSIFICATION:
            raise UserError(
                f"reward.path={self.path} is an adapter of task_type {task}, not of "
                f"{SEQUENCE_CLASSIFICATION}: give that of a sequence classifier"
            )
        if not base:
            raise UserError(
                f"reward.path={self.path} is an adapter that names no base model: set "
                "base_model_name_or_path in its adapter_config.json"
            )
        with self._loading(self.path):
            saved = load_peft_weights(self.path, device="cpu")
        model, missing = self._pretrained(
            base, ignore_mismatched_sizes=True, **_labels(saved, adapter)
        )
        lacking = [key for key in missing if f"base_model.model.{key}" not in saved]
        try:
            with self._loading(self.path):
                adapted = PeftModel.from_pretrained(model, self.path)
        except UserError as error:
            if not isinstance(error.__cause__, KeyError):
                raise
            self._refuse_part(base, [str(error.__cause__.args[0])])
        if adapted.active_peft_config.is_prompt_learning:
            raise UserError(
                f"reward.path={self.path}: an adapter of learned prompts "
                f"({adapter.get('peft_type')}) is unsupported; give one that changes weights"
            )
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        lacking += [key for key in expected if key not in saved]
        if lacking:
            self._refuse_part(base, lacking)
        return adapted.get_base_model()

    def _refuse_part(self, base: str, lacking: list[str]) -> NoReturn:
        raise UserError(
            f"reward.path={self.path} is not a whole adapter of {base}: there are no weights "
            f"for {listed(lacking)}; save it with its head in modules_to_save"
        )

    def _tokenizer(self, adapter: dict[str, Any] | None) -> Any:
        own = adapter is None or (Path(self.path) / "tokenizer_config.json").is_file()
        path = self.path if own or adapter is None else adapter["base_model_name_or_path"]
        with self._loading(path):
            return AutoTokenizer.from_pretrained(path, trust_remote_code=self.trust_remote_code)

    @contextlib.contextmanager
    def _loading(self, path: str) -> Iterator[None]:
        """Turns whatever loading raises into one line: there are as many errors as libraries."""
        based = "" if path == self.path else f" (its base model is {path})"
        unreadable = f"reward.path={self.path}: cannot load a classifier{based}: "
        damaged = file_problems(Path(path)) if Path(path).is_dir() else []
        if damaged:
            raise UserError(unreadable + damaged[0])
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(unreadable + _reason(error)) from error


def _check_device(device: torch.device, wanted: str | None) -> None:
    if device.type == "cuda":
        present = (device.index or 0) < torch.cuda.device_count()
    else:
        present = device.type != "mps" or torch.backends.mps.is_available()
    if not present:
        raise UserError(f"reward.device={wanted}: torch sees no such device; use reward.device=cpu")


def _labels(saved: dict[str, torch.Tensor], adapter: dict[str, Any]) -> dict[str, Any]:
    """The number of labels of an adapter's head, which its configuration does not tell."""
    modules = {*HEADS, *(adapter.get("modules_to_save") or ())}
    heads = [
        (key.endswith("out_proj.weight"), weight.shape[0])
        for key, weight in saved.items()
        if weight.ndim == 2 and "lora_" not in key and modules & set(key.split("."))  # noqa: PLR2004
    ]
    return {"num_labels": max(heads, key=lambda head: head[0])[1]} if heads else {}


def _check_finite(model: Any, path: str) -> None:
    found = infinite_weight(model)
    if found is not None:
        name, dtype = found
        raise UserError(
            f"reward.path={path}: its weights {name} are not all finite numbers in {dtype}; "
            + ("set reward.dtype=float32, or " if dtype is torch.float16 else "")
            + "give a model that was saved whole"
        )


def _reason(error: Exception) -> str:
    message = " ".join(str(error).split())
    if "trust_remote_code" in message:
        return "it needs code of its own; read that code, then set reward.trust_remote_code=true"
    if isinstance(error, ImportError) or "quantiz" in message:
        return f"it needs a package that is not installed: {_first_sentence(message)}"
    if "Unrecognized configuration class" in message:
        return "transformers has no sequence classifier of this architecture"
    return _first_sentence(message) or type(error).__name__


def _first_sentence(message: str) -> str:
    return message.partition(". ")[0][:300]
