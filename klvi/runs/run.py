"""A run: trained, measured and written to its folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.text import Text

from klvi import interruption
from klvi.engine.memory import out_of_memory
from klvi.evaluation.base_rate import unmet_reward
from klvi.evaluation.evaluator import Evaluator
from klvi.files import naming, reason_of, same_trouble, whole_folder
from klvi.files.checksums import write_checksums
from klvi.metrics.measurement import Metric
from klvi.runs.lock import FolderLock, LostLockError
from klvi.runs.manifest import Resumed, versions, write_manifest
from klvi.runs.stored import write_config
from klvi.runs.target_state import write_target
from klvi.samples import Samples
from klvi.terminal import tell
from klvi.tracking.base import Tracker, exact_entries, flatten
from klvi.tracking.console import LOG_FILE
from klvi.tracking.output import Output, warning
from klvi.training.best import Best, BestPolicy
from klvi.training.checkpoint import Checkpoints, Completed
from klvi.training.loop import DivergenceError, Loop, Record
from klvi.training.trl.trainer import Trainer

ADAPTER_FOLDER = "adapter"
CHECKPOINT_FOLDER = "checkpoints"


@dataclass
class Run:
    """One training run in its folder; `klvi.runs.assembly` makes it of a configuration.

    Attributes:
        config: the resolved configuration, plain data.
        facts: what the manifest holds beside it.
        loop: restored from the newest checkpoint, if any.
        trainer: runs the loop.
        evaluator: of the loop's policy and target, every `evaluate_every` updates.
        best: keeps the best policy, which is then the run's result; None for the last one.
        completed: the loop's state after its last complete update.
        choices: a line on what was chosen for the model, if anything was.
        resumed: from where the run goes on; None at its start.
        metrics: of the last evaluation, and their `exact` values; once the run is finished those
            of its result.
    """

    directory: Path
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    loop: Loop
    trainer: Trainer
    evaluator: Evaluator
    evaluate_every: int
    checkpoints: Checkpoints
    completed: Completed
    tracker: Tracker
    output: Output
    best: BestPolicy | None = None
    choices: str | None = None
    resumed: Resumed | None = None
    lock: FolderLock | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    exact: Mapping[str, float | None] = field(default_factory=dict)
    _logged: int = field(default=-1, init=False)
    _taken: Best | None = field(default=None, init=False)

    def train(self) -> None:
        """Do the updates that are left, and write all that the folder holds.

        However it ends, all complete updates are in a checkpoint and the summary gives the reason;
        only a policy that is spoiled is not kept.

        Raises UserError where the reward fails, and Interruption after a signal.
        """
        text = write_config(self.config, self.directory)
        write_manifest(self.config, text, self.directory, self.facts, self.resumed)
        if self.choices:
            self.output.copy_to(self.directory / LOG_FILE)
            self.output.print(Text(self.choices, style="dim"))
        try:
            self.tracker.start(self.config, self.directory)
            for note in self.evaluator.notes:
                self.output.print(warning(note))
            if self.trainer.note:
                self.output.print(Text(self.trainer.note, style="dim"))
            self._train()
            with interruption.held("the summary"):
                self._finish("finished")
        except BaseException as error:
            with interruption.held("the checkpoint"):
                ending = self._end(error)
            if ending is error:
                raise
            raise ending from error

    def _train(self) -> None:
        loop = self.loop
        if self.best is not None:
            self.best.go_back(loop.update)
        self._write_target()
        if loop.update == 0:
            self._log({"update": 0, "episode": 0, "seconds": 0.0})
        elif loop.record is not None:
            self._log(dict(loop.record))
        elif loop.update == loop.settings.updates:
            self._evaluate(loop.update)
        loop.on_complete.append(self.completed.keep)
        loop.on_update.append(self._log)
        self.trainer.run(loop, self.directory)
        self._check_lock()
        self._take_best()
        self._save_adapter()

    def _log(self, record: Record) -> None:
        update = record["update"]
        last = update == self.loop.settings.updates
        due = update % self.evaluate_every == 0 or last
        kept = update % self.checkpoints.every == 0 or last
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
        if due:
            self._offer(update)
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
            if self.best is not None:
                self.best.settle()
        self._write_target()

    def _write_target(self) -> None:
        self._check_lock()
        write_target(self.loop.target, self.directory)

    def _check_lock(self) -> None:
        if self.lock is not None:
            self.lock.check()

    def _evaluate(self, update: int) -> Samples:
        self.evaluator.aim(self.loop.target)
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

    def _offer(self, update: int) -> None:
        """Keep the policy as it is now where it is the best."""
        if self.best is not None:
            with naming(self.best.directory):
                line = self.best.offer(self.loop.policy, update, self.metrics)
            if line:
                self.output.print(warning(line))

    def _take_best(self) -> None:
        """Put the best policy in place of the last, measured on samples that have not chosen it."""
        if self.best is None:
            return
        with naming(self.best.directory):
            best = self.best.best()
        if best is None:
            self.output.print(warning("no policy is known to be the best: the last one is kept"))
            return
        self.best.load(best, self.loop.policy)
        self.evaluator = replace(self.evaluator, seed=self.evaluator.seed + 1)
        line = f"best {best.metric}: {best.value:.4g} after update {best.update}; on fresh samples:"
        self.output.print(Text(line, style="dim"))
        samples = self._evaluate(best.update)
        self._check_lock()
        self.tracker.log_evaluation(best.update, self.metrics, samples)
        self._taken = best

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
                **({} if self._taken is None else {"best": asdict(self._taken)}),
                "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
                **({"exact": self.exact} if self.exact else {}),
                "seconds": self.loop.seconds,
                "versions": versions(),
            }
        )
