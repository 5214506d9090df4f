"""Folders of runs as klvi leaves them, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support import train_config

from klvi.runs.stored import write_config


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 512}


METRICS: dict[str, Any] = {
    "eval/reward": estimate(0.9),
    "eval/kl_prior": estimate(4.4),
    "eval/kl_target_reverse": {"value": None, "reason": "3 samples violate it"},
}


def stored_run(
    folder: Path,
    status: str | None = "finished",
    *,
    started: str = "2026-01-31T12:00:00+00:00",
    saved: int = 0,
    reason: str | None = None,
    metrics: dict[str, Any] = METRICS,
    **config: Any,
) -> Path:
    """A run of 50 updates that ended as `status` says; None for one that was killed."""
    folder.mkdir(parents=True)
    values = train_config(**{"updates": 50, "name": "kl"} | config)
    write_config(values.model_dump(mode="json"), folder)
    (folder / "manifest.json").write_text(json.dumps({"started": started}))
    if status is not None:
        update = 50 if status == "finished" else saved
        summary = {"status": status, "update": update, "metrics": metrics, "seconds": 75.2}
        summary |= {} if reason is None else {"reason": reason}
        (folder / "summary.json").write_text(json.dumps(summary))
    if saved:
        (folder / "checkpoints" / f"step-{saved}").mkdir(parents=True)
        (folder / "checkpoints" / f"step-{saved}" / "loop.json").touch()
    return folder
