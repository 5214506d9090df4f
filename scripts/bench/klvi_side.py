"""klvi's updates: the run as `klvi train` assembles it, without evaluation and checkpoints."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from klvi.engine.kernels.install import KERNELS
from klvi.engine.kernels.process import prepare_process
from klvi.runs.assembly import assemble_evaluator, assemble_loop
from klvi.training.loop import Loop, Record
from klvi.training.trl.trainer import trainer_for
from scripts.bench.measurement import Measurement, Recorder, read_bandwidth
from scripts.bench.workload import Workload

STAGES = {
    "time/rollout": "generation",
    "time/prior": "prior",
    "time/reward": "reward",
    "time/update": "update",
}


def assemble(workload: Workload) -> Loop:
    """The loop of `workload`."""
    config = workload.config()
    prepare_process(config.threads)
    KERNELS.pop(workload.without or "", None)
    evaluator = assemble_evaluator(config, adapted=True)
    if not workload.natural:
        prior = evaluator.policy.prior
        vocabulary = prior.model.config.get_text_config().vocab_size
        # The first id beyond the vocabulary: a stop token that no model can emit.
        evaluator.policy.prior = replace(prior, stop_token_ids=(vocabulary,))
    return assemble_loop(config, evaluator)


def train(loop: Loop) -> None:
    """All updates of the loop, as `klvi train` runs them."""
    with tempfile.TemporaryDirectory() as folder:
        trainer_for(loop.objective).run(loop, Path(folder))


def measure(workload: Workload) -> Measurement:
    """The workload's updates."""
    if workload.objective == "kl":
        import klvi.training.trl.ppo  # noqa: F401 (TRL is one of the bare imports)
    recorder = Recorder(workload.device, workload.warmup)
    loop = assemble(workload)
    seconds = 0.0

    def after_update(record: Record) -> None:
        nonlocal seconds
        elapsed, seconds = record["seconds"] - seconds, record["seconds"]
        for key, stage in STAGES.items():
            if key in record:
                recorder.add(stage, record[key])
        tokens = round(record["tokens_per_second"] * elapsed)
        assert workload.natural or tokens == workload.batch * workload.length
        recorder.end_update(tokens)

    loop.on_update.append(after_update)
    recorder.start()
    train(loop)
    result = recorder.finish()
    weights = (p for n, p in loop.policy.model.named_parameters() if "lora_" not in n)
    size = sum(weight.nbytes for weight in weights)
    result.bound = size * workload.length / read_bandwidth(workload.device)
    return result
