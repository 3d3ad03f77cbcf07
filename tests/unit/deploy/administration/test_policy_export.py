"""`plaudit policies export`: the folder loads in transformers and answers as the version does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from deploy.administration.policy_export import export_policy, push
from deploy.errors import DeployError
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from learner.models.adapters import merge_adapter
from learner.models.loading import load_model
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import Published
from tests.support.deployment.commands import run_command
from tests.support.models import tiny_adapter, tiny_chat_model

PROMPT = torch.tensor([[2, 40, 50, 1, 3]])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 with full weights, version 2 an adapter of it, version 3 full weights."""
    root = tmp_path_factory.mktemp("home")
    registry, log = FolderRegistry(root / "registry"), SqliteLog(root / "log.db")
    folders = [tiny_chat_model(root / "m1", 1), root / "m2", tiny_chat_model(root / "m3", 3)]
    tiny_adapter(folders[0], folders[1], seed=2)
    for folder in folders:
        (folder / "report.md").write_text("what people wrote")
    figures: dict[str, Any] = {"gate": {"win_rate": 0.625}}
    for version, folder in enumerate(folders, 1):
        registry.publish(
            folder,
            version=version,
            parent=version - 1,
            base="org/tiny",
            adapter_base=1 if version == 2 else 0,
            **(figures if version == 2 else {}),
        )
        append_policy_event(
            log,
            Published(
                version=version, parent=version - 1, votes={"comparison": 40} if version > 1 else {}
            ),
        )
    log.close()
    return root


def exported(home: Path, version: int, out: Path, **options: Any) -> Path:
    log = SqliteLog(home / "log.db")
    try:
        return export_policy(FolderRegistry(home / "registry"), log, version, out, **options)
    finally:
        log.close()


def greedy(model: Any) -> list[int]:
    ids: list[int] = model.generate(PROMPT, max_new_tokens=12, do_sample=False)[0].tolist()
    return ids


def expected(home: Path, version: int) -> list[int]:
    registry = FolderRegistry(home / "registry")
    if version != 2:
        return greedy(load_model(registry.path(version)))
    return greedy(merge_adapter(load_model(registry.path(1)), registry.path(2)))


@pytest.mark.parametrize(("version", "merge"), [(1, False), (2, False), (2, True), (3, True)])
def test_the_folder_loads_in_transformers_and_answers_alike(
    home: Path, tmp_path: Path, version: int, merge: bool
) -> None:
    out = exported(home, version, tmp_path / "out", merge=merge)
    assert greedy(AutoModelForCausalLM.from_pretrained(out)) == expected(home, version)
    tokenizer = AutoTokenizer.from_pretrained(out)
    chat = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>Hi<|end|><|assistant|>"
    assert GenerationConfig.from_pretrained(out).eos_token_id == 1
    assert (out / "adapter_config.json").is_file() == (version == 2 and not merge)
    assert not list(out.rglob("report.*")), "reports quote people"
    assert not list(out.rglob("manifest.json"))


def test_the_card_tells_lineage_votes_and_gate(home: Path, tmp_path: Path) -> None:
    card = (exported(home, 2, tmp_path / "out", merge=True) / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "base_model: org/tiny" in card
    assert "# Policy version 2" in card
    assert "| lora | 40 (40 comparison) |" in card
    assert "| full | none |" in card
    assert "| `win_rate` | 0.625 | win rate over the version before" in card
    first = (exported(home, 1, tmp_path / "first") / "README.md").read_text()
    assert "without a gate: it is the first version" in first


def test_folders_with_files_and_unknown_versions_are_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DeployError, match="not an empty folder"):
        exported(home, 1, tmp_path)
    with pytest.raises(DeployError, match="9"):
        exported(home, 9, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_pushes_what_it_wrote(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    class Api:
        def create_repo(self, repository: str, **options: Any) -> None:
            calls.append((repository, options))

        def upload_folder(self, **options: Any) -> None:
            calls.append(options)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    out = tmp_path / "out"
    printed = run_command(
        *("policies", "export", "2", str(out), "--home", str(home)),
        *("--merge", "--push-to-hub", "me/model"),
    )
    assert "https://huggingface.co/me/model" in printed
    assert calls == [
        ("me/model", {"private": True, "exist_ok": True}),
        {"repo_id": "me/model", "folder_path": out},
    ]
    adapter = exported(home, 2, tmp_path / "adapter")
    with pytest.raises(DeployError, match="push it with --merge"):
        push(adapter, "me/model")
