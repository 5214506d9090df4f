"""`klvi export`: a run's policy, merged, or a prior, as a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from klvi.commands.context import Context
from klvi.commands.schema import ExportConfig
from klvi.errors import UserError
from klvi.files import new_folder_problem, room_problem, whole_folder
from klvi.terminal import put


def run(config: ExportConfig, context: Context) -> int:
    """Write weights, configuration and tokenizer; `out` appears only when it is whole."""
    assert config.out is not None, "checked with the command line"
    out = Path(config.out).expanduser()
    problem = new_folder_problem(config.out)
    if problem:
        raise UserError(f"out={out}: {problem}")

    from klvi.policy.loading import check_finite, quiet_transformers
    from klvi.policy.policy import Policy
    from klvi.policy.prior import load_prior
    from klvi.runs.load import find_adapter

    prior = load_prior(config.model)
    # Without buffers, and weights that two layers share once.
    problem = room_problem(out, sum(p.nbytes for p in prior.plain.parameters()))
    if problem:
        raise UserError(f"out={problem}")
    source = f"prior {prior.name}"
    policy = Policy(prior, config.lora if config.run else None)
    if config.run:
        folder = find_adapter(Path(config.run).expanduser())
        policy.load_adapter(folder)
        source = str(folder)
    model = policy.export()
    check_finite(model, f"run={config.run}" if config.run else f"model {prior.name}")
    with whole_folder(out) as building, quiet_transformers():
        model.save_pretrained(building)
        prior.tokenizer.save_pretrained(building)
    put(f"{source} in {out}; load it with AutoModelForCausalLM.from_pretrained({str(out)!r})")
    return 0
