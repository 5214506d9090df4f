"""`klvi pretrain`: a small prior, trained on stories of klvi's grammar or on a text file."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from klvi.commands.context import Context
from klvi.errors import UserError
from klvi.files import disk_problem, new_folder_problem, whole_folder
from klvi.pretraining.schema import PretrainConfig
from klvi.quoting import shell_word, typed
from klvi.terminal import printable

if TYPE_CHECKING:
    from klvi.pretraining.fit import PretrainingReport

END_OF_TEXT = "<|endoftext|>"
MIN_TEXTS = 100
MAX_HELD_OUT, HELD_OUT_PART = 2_000, 20
SHOWN_SAMPLES = 10
MINUTE = 60


def run(config: PretrainConfig, context: Context) -> int:
    """Train, measure, and write a Hugging Face folder; `out` appears only when it is whole."""
    problems = [*_out_problems(config), *_corpus_problems(config), *_size_problems(config)]
    if problems:
        raise UserError(*problems)
    assert config.out is not None, "checked above"
    out = Path(config.out).expanduser()

    from klvi.policy.loading import quiet_transformers
    from klvi.pretraining.fit import pretrain
    from klvi.pretraining.quality import measure
    from klvi.pretraining.stories import EVENTS, stories
    from klvi.tracking.output import Output
    from klvi.tracking.pretraining import PretrainingProgress, prior_card, quality_table

    output = Output()
    with whole_folder(out) as folder, quiet_transformers():
        texts, held_out = _texts(config)
        output.print(f"training on {len(texts):,} texts; {len(held_out):,} more are held out")
        with PretrainingProgress(output, config.steps) as progress:
            model, tokenizer, report = pretrain(texts, held_out, config, progress.show)
        grammar = None if config.corpus else stories()
        quality = measure(model, tokenizer, report, config.samples, config.seed, grammar, EVENTS)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        samples = quality.samples[:SHOWN_SAMPLES]
        origin = _origin(config, report)
        card = prior_card(out.name, _command(context), origin, quality.quantities, samples)
        (folder / "README.md").write_text(card, encoding="utf-8")
    output.print(quality_table(quality.quantities, f"prior {out.name}"))
    for text in samples:
        output.print(printable(text))
    output.print(f"\n{out}: use it as {typed('model.path', out)}")
    return 0


def _out_problems(config: PretrainConfig) -> Iterator[str]:
    problem = new_folder_problem(config.out)
    if problem:
        yield f"out={config.out}: {problem}"


def _corpus_problems(config: PretrainConfig) -> Iterator[str]:
    if config.corpus is None:
        return
    corpus = Path(config.corpus).expanduser()
    if not corpus.is_file():
        yield f"corpus={corpus}: {'is a folder, not a file' if corpus.is_dir() else 'no such file'}"
        return
    try:
        lines = _lines(corpus)
    except OSError as error:
        yield f"corpus={disk_problem(error, corpus)}"
        return
    except UnicodeDecodeError as error:
        yield f"corpus={corpus}: is not UTF-8 text (byte {error.start})"
        return
    if len(lines) < MIN_TEXTS:
        yield (
            f"corpus={corpus}: holds {len(lines)} texts, one per line; give at least {MIN_TEXTS}"
        )
    if any(END_OF_TEXT in line for line in lines):
        yield f"corpus={corpus}: holds {END_OF_TEXT}, which klvi itself puts after each text"


def _size_problems(config: PretrainConfig) -> Iterator[str]:
    if config.width % config.heads:
        yield f"heads={config.heads}: must divide width={config.width}"


def _lines(corpus: Path) -> list[str]:
    """The texts of a corpus: its lines, without the empty ones."""
    return [line.strip() for line in corpus.read_text("utf-8-sig").split("\n") if line.strip()]


def _texts(config: PretrainConfig) -> tuple[Sequence[str], Sequence[str]]:
    """Texts to train on, and texts held out."""
    rng = random.Random(config.seed)
    if config.corpus is None:
        from klvi.pretraining.stories import stories

        held_out = min(MAX_HELD_OUT, config.stories // HELD_OUT_PART)
        texts = [stories().sample(rng) for _ in range(config.stories + held_out)]
    else:
        texts = _lines(Path(config.corpus).expanduser())
        rng.shuffle(texts)
        held_out = min(MAX_HELD_OUT, len(texts) // HELD_OUT_PART)
    return texts[held_out:], texts[:held_out]


def _command(context: Context) -> str:
    return " ".join(["klvi", "pretrain", *map(shell_word, context.overrides)])


def _origin(config: PretrainConfig, report: PretrainingReport) -> str:
    """How the prior was made, in a paragraph."""
    if config.corpus is None:
        texts = (
            "stories of people who travel, drawn from klvi's own probabilistic grammar "
            "(`klvi/pretraining/stories.py`), whose entropy and rates are known exactly"
        )
    else:
        texts = f"texts of `{Path(config.corpus).name}`, one per line"
    cut = f" {report.truncated:,} of them were longer and cut." if report.truncated else ""
    return (
        f"GPT-2 architecture with tied embeddings, {config.layers} layers of width {config.width} "
        f"with {config.heads} heads, {report.parameters:,} parameters, and a byte-level BPE "
        f"tokenizer of {report.tokens} tokens, each of which occurs in the corpus; "
        f"`{END_OF_TEXT}` starts and ends a text, and there is no padding token.\n\n"
        f"Trained on {report.texts:,} {texts}, of at most {config.context} tokens.{cut} "
        f"{config.steps} steps of {config.batch_size} texts with AdamW, one-cycle learning rate "
        f"{config.lr:g}, seed {config.seed}: {report.seconds / MINUTE:.0f} minutes on "
        f"{report.threads} thread{'s' * (report.threads > 1)} with torch {version('torch')} and "
        f"transformers {version('transformers')}."
    )
