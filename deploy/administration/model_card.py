"""The model card of an exported version: its lineage, votes, and the gate's figures."""

import datetime
from collections.abc import Sequence

from feedback.control.versions import Version

_FIGURES = {
    "win_rate": "win rate over the version before, as the judge predicts it",
    "win_rate_lower_bound": "its lower 95% bound",
    "win_rate_over_first": "win rate over version 1",
    "kl": "divergence from version 1, in nats an answer",
    "text_nll": "loss on held-out text, in nats a token",
    "text_nll_increase": "increase of that loss",
    "ended": "share of answers that end",
    "distinct": "share of distinct answers of four to a prompt",
    "judge_gain_lower_bound": "nats a vote that the judge gains over chance, lower 95% bound",
}


def model_card(lineage: Sequence[Version], base: str, *, merged: bool) -> str:
    """Return the model card of a version, in Markdown.

    Args:
        lineage: The version and its ancestors, the latest first.
        base: What version 1 was made from.
        merged: Whether an adapter was merged into the weights.

    """
    adapter = bool(lineage) and lineage[0].kind == "lora"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *([f"base_model: {base}"] if base.count("/") == 1 and not base.startswith("/") else []),
        "tags: [rlhf, plaudit]",
        "---",
        "",
        f"# Policy version {lineage[0].version if lineage else 'unknown'}",
        "",
        f"Made by [Plaudit](https://pypi.org/project/plaudit/) from `{base}` by learning from "
        "people's votes (a reward model and PPO).",
        "",
        _form(adapter=adapter, merged=merged),
        "",
        "## Lineage and votes",
        "",
        "| version | made | kind | votes learned from |",
        "|---|---|---|---|",
        *map(_row, lineage),
        "",
        *_gate(lineage[:1]),
    ]
    return "\n".join(lines)


def _form(*, adapter: bool, merged: bool) -> str:
    if not adapter:
        return "The folder holds full weights, tokenizer, chat template and generation config."
    if merged:
        return "The weights are those of the base with the adapter merged into them."
    return (
        "The folder holds a LoRA adapter, and its base in `base`. To serve it: "
        "`vllm serve FOLDER/base --enable-lora --lora-modules policy=FOLDER`. After moving the "
        "folder, set `base_model_name_or_path` in `adapter_config.json`."
    )


def _row(version: Version) -> str:
    made = datetime.datetime.fromtimestamp(version.created, datetime.UTC).date()
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(version.from_votes.items()))
    votes = f"{version.votes} ({kinds})" if kinds else str(version.votes or "none")
    return f"| {version.version} | {made} | {version.kind} | {votes} |"


def _gate(latest: Sequence[Version]) -> list[str]:
    figures = {name: value for each in latest for name, value in each.figures.items()}
    if not figures:
        return ["It was published without a gate: it is the first version.", ""]
    return [
        "## Gate",
        "",
        "Measured on held-out prompts and text before it was published:",
        "",
        "| figure | value | meaning |",
        "|---|---|---|",
        *(f"| `{n}` | {v:.3f} | {_FIGURES.get(n, '')} |" for n, v in sorted(figures.items())),
        "",
    ]
