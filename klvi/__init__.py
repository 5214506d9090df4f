"""klvi: aligning language models as Bayesian inference.

In a notebook: `load_prior`, `targets`, `rewards`, `objectives`, `samplers`, `train`, `evaluate`.
Nothing is imported before it is used, and nothing of the process is changed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from klvi import objectives as objectives
    from klvi import rewards as rewards
    from klvi import samplers as samplers
    from klvi import targets as targets
    from klvi.errors import UserError as UserError
    from klvi.notebook.evaluation import Evaluation as Evaluation
    from klvi.notebook.evaluation import evaluate as evaluate
    from klvi.notebook.priors import load_prior as load_prior
    from klvi.notebook.training import train as train
else:
    _ROOMS = ("objectives", "rewards", "samplers", "targets")
    _PLACES = {
        "UserError": "klvi.errors",
        "Evaluation": "klvi.notebook.evaluation",
        "evaluate": "klvi.notebook.evaluation",
        "load_prior": "klvi.notebook.priors",
        "train": "klvi.notebook.training",
    }

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return import_module(f"klvi.{name}")
        if name == "__all__":
            return __dir__()
        if name not in _PLACES:
            from klvi.spelling import suggestion

            near = suggestion(name, __dir__())
            raise AttributeError(f"module 'klvi' has no attribute {name!r}{near}")
        import random

        before = random.getstate()
        globals()[name] = found = getattr(import_module(_PLACES[name]), name)
        random.setstate(before)  # rich draws from it while it is imported
        return found

    def __dir__() -> list[str]:
        return sorted([*_ROOMS, *_PLACES, "__version__"])
