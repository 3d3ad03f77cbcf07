"""Pre-train a small Llama from random weights, on the generated corpus or on text files.

Not supported: deduplication, shards and data weighting. Text is read up to the token budget.
"""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from learner.data.packing import fingerprint, pack_documents
from learner.data.tokenizer import train_tokenizer
from learner.errors import DataUnusable
from learner.models.loading import best_device, new_model
from learner.models.saving import model_exists, save_model
from learner.pretraining.documents import documents, take_characters
from learner.pretraining.next_token import TrainingStage, train
from learner.pretraining.progress import OnAdvance, packing_progress, progress_or_bar
from learner.settings import Dtype, PretrainSettings

_TOKENIZER_CHARACTERS = 1_500_000


def pretrain(
    out: Path,
    *,
    text: Sequence[Path] | None = None,
    settings: PretrainSettings | None = None,
    dtype: Dtype = "float32",
    progress: OnAdvance | None = None,
) -> Path:
    """Train a model from random weights, write it to `out` in Hugging Face format, return `out`.

    An interrupted run is resumed. If `out` holds a model already, nothing is done.

    Args:
        out: Folder to write the model to.
        text: Text files (documents between blank lines) or JSONL files of {"text": …}; None for
            the generated corpus.
        settings: Shape of the model and hyperparameters; defaults if None.
        dtype: Format to compute matrix products in.
        progress: Callback after every packed document and step; if None, a bar is drawn.

    Raises:
        DataUnusable: The files are missing, empty or malformed.

    """
    if model_exists(out):
        return out
    settings = settings or PretrainSettings()
    work = out.with_name(f".{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer(text, settings)
    with progress_or_bar(progress) as on_advance:
        rows = pack_documents(
            documents(text, settings.seed, repeat=True),
            tokenizer,
            row=settings.row,
            tokens=settings.tokens,
            on_packed=packing_progress("Packing text", settings.tokens, on_advance),
        )
        if not len(rows):
            raise DataUnusable(f"the text is too short: it fills no row of {settings.row} tokens")
        model = new_model(settings, tokenizer).to(best_device())
        stage = TrainingStage(
            name="Pre-training",
            state=work / "state.pt",
            key=f"pretrain {fingerprint(rows)}",
            dtype=dtype,
            settings=settings,
        )
        train(model, rows, stage, on_advance)
    return save_model(model, tokenizer, out)


def _train_tokenizer(
    text: Sequence[Path] | None, settings: PretrainSettings
) -> PreTrainedTokenizerBase:
    texts = take_characters(_TOKENIZER_CHARACTERS, documents(text, settings.seed, repeat=False))
    return train_tokenizer(texts, vocabulary=settings.vocabulary, context=settings.context)
