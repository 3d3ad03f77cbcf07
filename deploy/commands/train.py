"""`plaudit pretrain`, `sft` and `import-model`: make a first policy step by step."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.options import DtypeOption, console, echo, settings_options
from learner.settings import PretrainSettings, SftSettings


@settings_options(PretrainSettings)
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text file, or data with a column 'text' (JSONL, JSON, Parquet, a folder or hub "
            "id), to train on; may be repeated. Default: a generated corpus."
        ),
    ] = None,
    dtype: DtypeOption = "auto",
    *,
    settings: PretrainSettings,
) -> None:
    """Train a small decoder-only model and its tokenizer from random weights."""
    from deploy.sizing.processor import parse_dtype
    from learner.pretraining.pretrain import pretrain as run_pretrain
    from learner.pretraining.progress import show_progress

    with show_progress(console) as progress:
        run_pretrain(
            out, text=text or None, settings=settings, dtype=parse_dtype(dtype), progress=progress
        )


@settings_options(SftSettings)
def sft(
    model: Annotated[Path, typer.Option(help="Folder of the model to start from.")],
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="JSONL, JSON or Parquet file, folder or hub id of conversations: messages, "
            "ShareGPT's conversations, prompt and completion, or instruction and output. Default: "
            "generated demonstrations.",
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Text file to mix in; may be repeated. Default: a generated corpus."),
    ] = None,
    dtype: DtypeOption = "auto",
    *,
    settings: SftSettings,
) -> None:
    """Fine-tune a model on demonstrations: prompts with ideal answers."""
    from deploy.sizing.processor import parse_dtype
    from learner.pretraining.progress import show_progress
    from learner.pretraining.sft import sft as run_sft

    with show_progress(console) as progress:
        run_sft(
            model,
            out,
            data=data,
            text=text or None,
            settings=settings,
            dtype=parse_dtype(dtype),
            progress=progress,
        )


def import_model(
    model: Annotated[
        str, typer.Argument(help="'smollm2', or the folder or id of a Hugging Face model.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
) -> None:
    """Check a model of your own, and convert it into a folder that can be the first policy."""
    from deploy.sizing.machine import plan_here, shape_of
    from deploy.sizing.models import import_model as run_import
    from deploy.sizing.processor import parse_dtype

    with console.status(f"Reading {model}"):
        run_import(model, out, echo)
    echo("\n".join(plan_here(shape_of(out), parse_dtype("auto")).lines()))
