"""A run: its parts assembled from the configuration, trained, measured and written to a folder."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.text import Text

from klvi import interruption
from klvi.contexts import Context
from klvi.engine.batching import Batching
from klvi.engine.decoding import Decoder, decode
from klvi.engine.devices import allow_tf32, choose_device, use_device
from klvi.engine.graph_decoding import graph_decode
from klvi.engine.kernels.allocator import keep_freed_memory
from klvi.engine.memory import out_of_memory
from klvi.engine.schema import RolloutSection
from klvi.errors import UserError
from klvi.evaluation.base_rate import unmet_reward
from klvi.evaluation.evaluator import Evaluator
from klvi.files import naming, reason_of, same_trouble, whole_folder
from klvi.files.checksums import write_checksums
from klvi.metrics.measurement import Metric
from klvi.objectives.build import build_objective
from klvi.objectives.schema import PPOSection
from klvi.policy.enumerable import check_letters
from klvi.policy.fingerprint import fingerprint
from klvi.policy.gradient_check import check_gradients
from klvi.policy.loading import quiet_transformers
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior, load_prior
from klvi.policy.schema import EnumerableModelConfig
from klvi.policy.self_check import check_policy
from klvi.policy.text import lay_out
from klvi.policy.vllm import VLLMDecoder
from klvi.prompts.contexts import load_contexts
from klvi.prompts.schema import FilePrompts, Prompts
from klvi.prompts.stream import PromptStream
from klvi.rewards.base import check_columns
from klvi.rewards.build import build_reward
from klvi.runs.choices import choose
from klvi.runs.defaults import choices_line, facts_of
from klvi.runs.groups import check_groups, samples_per_prompt
from klvi.runs.lock import FolderLock, LostLockError
from klvi.runs.manifest import Resumed, write_manifest
from klvi.runs.schema import MeasureConfig, SampleConfig, TrainConfig
from klvi.runs.stored import write_config
from klvi.samplers.build import build_proposal
from klvi.targets.build import build_target
from klvi.terminal import tell
from klvi.tracking.base import Tracker, exact_entries, flatten
from klvi.tracking.build import build_tracker
from klvi.tracking.console import LOG_FILE
from klvi.tracking.output import Output, warning
from klvi.training.checkpoint import Checkpoints, Completed
from klvi.training.loop import DivergenceError, Loop, Record
from klvi.training.optimisation import Optimisation

ADAPTER_FOLDER = "adapter"
CHECKPOINT_FOLDER = "checkpoints"
C = TypeVar("C", bound=MeasureConfig)
PACKAGES = ("klvi", "torch", "transformers", "trl", "peft", "accelerate", "hydra-core")


def assemble_evaluator(config: MeasureConfig, *, adapted: bool) -> Evaluator:
    """Prior, policy, reward, target and prompts; without `adapted` the policy is the prior.

    The evaluator's own `config` has a value for every key that was left to the model's size.

    Raises UserError for everything in the configuration that only loading can find out.
    """
    keep_freed_memory()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    use_device(device)
    allow_tf32(device)
    reward = build_reward(config.reward, device)
    loaded = load_contexts(config.prompts)
    check_columns(reward, loaded)
    config = with_groups(config, len(loaded))
    if isinstance(config.model, EnumerableModelConfig):
        check_letters(loaded, config.model.letters)
    with out_of_memory("loading"):
        prior = load_prior(config.model, device)
    prior, loaded = prompted(prior, loaded, config.prompts)
    contexts = PromptStream(loaded, config.seed, config.rollout.samples_per_prompt or 1)
    longest = prior.encode(contexts.contexts)[0].shape[1]
    prior.check_length(longest, config.rollout.max_new_tokens)
    config = choose(config, facts_of(prior), longest + config.rollout.max_new_tokens)
    policy = Policy(prior, config.lora if adapted else None, config.seed)
    policy.decoder = _decoder(config.rollout, prior, longest + config.rollout.max_new_tokens)
    # transformers tells at a model's first pass which kernels it does without.
    with out_of_memory("loading"), quiet_transformers():
        check_policy(policy, contexts.contexts, config.rollout.max_new_tokens)
    evaluator = Evaluator(
        config=config,
        policy=policy,
        target=build_target(config.target, reward, config.beta),
        contexts=contexts,
        notes=_notes(policy, loaded),
    )
    if evaluator.enumeration is not None and not isinstance(config, SampleConfig):
        evaluator.enumeration.check_size()
    return evaluator


def prompted(
    prior: Prior, contexts: list[Context], prompts: Prompts
) -> tuple[Prior, list[Context]]:
    """The prior with the prompts' limit, and the contexts with chats laid out by its template."""
    if not isinstance(prompts, FilePrompts):
        return prior, contexts
    contexts = lay_out(prior.tokenizer, prior.name, contexts, prompts.chat)
    return replace(prior, max_prompt_tokens=prompts.max_tokens), contexts


def with_groups(config: C, contexts: int) -> C:
    """The configuration with the completions that each prompt gets in a rollout.

    Raises UserError where they are too few for the objective.
    """
    if not isinstance(config, TrainConfig):
        return config
    size = config.rollout.samples_per_prompt
    if size is None:
        size = samples_per_prompt(config.objective, contexts, config.batch_size)
    check_groups(config.objective, contexts, size, config.batch_size)
    rollout = config.rollout.model_copy(update={"samples_per_prompt": size})
    return config.model_copy(update={"rollout": rollout})


def _notes(policy: Policy, contexts: Sequence[Context]) -> list[str]:
    """What the user should know before the run: what is cut, left out, or slower than usual."""
    notes = []
    cut = policy.prior.count_cut(contexts)
    if cut:
        notes.append(
            f"prompts.max_tokens={policy.prior.max_prompt_tokens}: the beginning of {cut} of "
            f"{len(contexts)} prompts is cut off; rewards read them whole"
        )
    notes += [
        f"lora.targets: {kind} has no adapter ({why})" for kind, why in policy.left_out.items()
    ]
    if policy.batching != Batching():
        notes.append(f"this model is decoded and scored {policy.batching}, which is slower")
    return notes


def _decoder(rollout: RolloutSection, prior: Prior, longest: int) -> Decoder:
    """What completes prompts, of `longest` tokens with their completions."""
    if rollout.engine == "vllm":
        return VLLMDecoder(prior, longest, rollout.engine_memory)
    if rollout.engine == "torch":
        return decode
    if prior.device.type != "cuda":
        raise UserError(
            "rollout.engine=graph: it needs CUDA, and this run is on a CPU; "
            "use rollout.engine=torch"
        )
    return graph_decode


def assemble_loop(config: TrainConfig, evaluator: Evaluator) -> Loop:
    """The training loop on the evaluator's policy, with the objective and the optimizer."""
    measured = evaluator.config
    config = config.model_copy(update={"model": measured.model, "rollout": measured.rollout})
    config = choose(config, facts_of(evaluator.policy.prior), config.rollout.max_new_tokens)
    objective = build_objective(config.objective)
    if objective.needs_values:
        evaluator.policy.add_value_head()
    return Loop(
        config=config,
        policy=evaluator.policy,
        objective=objective,
        target=evaluator.target,
        proposal=build_proposal(config.objective, evaluator.sampler),
        contexts=evaluator.contexts,
        optimisation=Optimisation(evaluator.policy, config.optim, config.updates),
    )


@dataclass
class Run:
    """One training run in its folder.

    `accepted` is what has changed since the run began where it goes on all the same.
    """

    config: TrainConfig
    directory: Path
    output: Output = field(default_factory=Output)
    metrics: dict[str, Metric] = field(default_factory=dict)
    exact: Mapping[str, float | None] = field(default_factory=dict)
    lock: FolderLock | None = None
    accepted: list[str] | None = None
    _logged: int = field(default=-1, init=False)

    def train(self) -> None:
        """Train from the newest checkpoint, or from the start, to the end.

        However it ends, all complete updates are in a checkpoint and the summary says why; only
        what a policy that is spoiled has become is not kept.

        Raises UserError where the configuration asks for what is not there, or the reward fails,
        and Interruption after a signal.
        """
        asked = self.config
        self.evaluator = assemble_evaluator(asked, adapted=True)
        self.loop = assemble_loop(asked, self.evaluator)
        self.config = self.loop.config
        self._check_learning()
        self.checkpoints = Checkpoints(
            self.directory / CHECKPOINT_FOLDER, self.config.checkpoint.keep
        )
        restored = self.checkpoints.restore_latest(self.loop, self.accepted)
        self.checkpoints.check_room(self.loop)
        self.completed = Completed(self.loop)
        self.loop.on_complete.append(self.completed.keep)
        self.loop.optimisation.follow_schedule()
        values = self.config.model_dump(mode="json")
        resumed = Resumed(restored, self.accepted or ()) if restored else None
        text = write_config(values, self.directory)
        write_manifest(values, text, self.directory, self._facts(), resumed)
        # A record that was not seen to is written anew.
        logged = restored if self.loop.record is None else restored - 1
        self.tracker: Tracker = build_tracker(
            self.config, self.output, logged if restored else None
        )
        self._tell_choices(asked)
        try:
            self.tracker.start(self.config.model_dump(mode="json"), self.directory)
            for note in self.evaluator.notes:
                self.output.print(warning(note))
            self._train()
            with interruption.held("the summary"):
                self._finish("finished")
        except BaseException as error:
            with interruption.held("the checkpoint"):
                ending = self._end(error)
            if ending is error:
                raise
            raise ending from error

    def _facts(self) -> dict[str, Any]:
        """What the manifest says of the run beside its configuration."""
        prior = self.loop.policy.prior
        device = str(prior.device)
        if prior.device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(prior.device)})"
        return {
            "versions": versions(),
            "device": device,
            "engine": self.config.rollout.engine,
            "prior": fingerprint(prior) | {"commit": prior.commit},
        }

    def _check_learning(self) -> None:
        """Before the first update: gradients are as right as what is sampled and scored."""
        config = self.config
        with out_of_memory("updating"):
            check_gradients(
                self.loop.policy,
                self.evaluator.contexts.contexts,
                config.rollout.max_new_tokens,
                recompute=config.optim.gradient_checkpointing,
            )

    def _tell_choices(self, asked: TrainConfig) -> None:
        line = choices_line(asked, self.config, self.loop.policy.prior)
        if line:
            self.output.copy_to(self.directory / LOG_FILE)
            self.output.print(Text(line, style="dim"))

    def _train(self) -> None:
        if self.loop.update == 0:
            record: Record = {"update": 0, "episode": 0, "seconds": 0.0}
            self._log(record)
        elif self.loop.record is not None:
            self._log(dict(self.loop.record))
        elif self.loop.update == self.config.updates:
            self._evaluate(self.loop.update)
        self.loop.on_update.append(self._log)
        self._run_loop()
        self._check_lock()
        self._save_adapter()

    def _run_loop(self) -> None:
        if not isinstance(self.config.objective, PPOSection):
            self.loop.run()
            return
        from klvi.training.trl.ppo import SharedTrunkPPOTrainer  # TRL takes seconds to import

        SharedTrunkPPOTrainer(self.loop, self.directory).train()

    def _log(self, record: Record) -> None:
        update = record["update"]
        due = update % self.config.evaluation.every == 0 or update == self.config.updates
        kept = update % self.config.checkpoint.every == 0 or update == self.config.updates
        if due or kept:
            self.loop.check_policy()
        if due:
            started = time.perf_counter()
            samples = self._evaluate(update)
            elapsed = time.perf_counter() - started
            self.loop.seconds += elapsed
            record |= {"time/evaluation": elapsed, "seconds": self.loop.seconds}
            record |= flatten(self.metrics) | exact_entries(self.exact)
        self._check_lock()
        self._logged = update
        self.tracker.log_update(record)
        if due:
            self._check_lock()
            self.tracker.log_evaluation(update, self.metrics, samples)
        self.loop.record = None
        if update and kept:
            self._save()

    def _save(self) -> None:
        self._check_lock()
        with naming(self.checkpoints.directory):
            self.checkpoints.save(self.loop)

    def _check_lock(self) -> None:
        if self.lock is not None:
            self.lock.check()

    def _evaluate(self, update: int) -> Any:
        with out_of_memory("evaluating"):
            evaluation = self.evaluator.evaluate(update)
        self.metrics, self.exact = evaluation.metrics, evaluation.exact
        if evaluation.warning:
            self.output.print(warning(f"update {update}: {evaluation.warning}"))
        if update == 0:
            samples = evaluation.samples
            unmet = unmet_reward(samples.reward, self.evaluator.target.log_potential(samples))
            if unmet:
                self.output.print(warning(unmet))
        return evaluation.samples

    def _save_adapter(self) -> None:
        with whole_folder(self.directory / ADAPTER_FOLDER, replace=True) as building:
            self.loop.policy.save_adapter(building)
            write_checksums(building)

    def _end(self, error: BaseException) -> BaseException:
        """Keep the complete updates and say in the summary why there are no more.

        Returns what ended the run: an Interruption where that was a signal, and the loss of the
        lock, after which nothing more is written, before all else. What fails here is told, and not
        raised: the first error is the reason.
        """
        cause = interruption.cause_of(error)
        self.output.stop()
        try:
            self._check_lock()
        except LostLockError as lost:
            if cause is not None:
                tell(f"error: {lost}")
            return lost
        with self._telling(error):
            self.completed.restore()
        update = self.loop.update
        if isinstance(error, DivergenceError):
            error = self._diverged(error)
        elif update:
            with self._telling(error):
                self._save()
        record = self.loop.record
        if record is not None and self._logged < update:
            with self._telling(error):
                self._check_lock()
                self.tracker.log_update(record)
        reason = f"{cause} after update {update}" if cause else reason_of(error)
        with self._telling(error):
            self._finish("interrupted" if cause else "failed", reason)
        return cause or error

    @contextlib.contextmanager
    def _telling(self, first: BaseException) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the run's own end must be told, whatever else fails
            if not same_trouble(error, first):
                tell(f"error: {reason_of(error)}")

    def _diverged(self, error: DivergenceError) -> DivergenceError:
        steps = self.checkpoints.steps(self.loop.update)
        kept = f"{self.checkpoints.directory}/step-{steps[-1]} is intact" if steps else "none yet"
        return DivergenceError(f"{error}; the last checkpoint: {kept}")

    def _finish(self, status: str, reason: str | None = None) -> None:
        self._check_lock()
        self.tracker.finish(
            {
                "status": status,
                **({} if reason is None else {"reason": reason}),
                "update": self.loop.update,
                "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
                **({"exact": self.exact} if self.exact else {}),
                "seconds": self.loop.seconds,
                "versions": versions(),
            }
        )


def versions() -> dict[str, str]:
    """Python and the packages on which the numbers depend."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
