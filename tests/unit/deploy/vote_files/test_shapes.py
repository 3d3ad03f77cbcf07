"""Votes in the shapes of published data sets: what is taken of each, what is left out and why."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deploy.errors import DeployError
from deploy.vote_files.exchange import ImportReport, export_feedback, import_feedback
from feedback.ledger.rows import JoinedEvent
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from learner.data.tokenizer import encode_chat
from learner.models.loading import load_tokenizer
from protos.messages import template_fields, whole_message
from tests.support import tool_chats
from tests.support.feedback_samples import comparison, completion, put, ranking
from tests.support.models import tiny_chat_model

ASK = [{"role": "user", "content": "Hi"}]


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_chat_model(tmp_path_factory.mktemp("model") / "tiny", seed=0)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = tool_chats.QWEN.replace("messages[0].content", "''").replace(
        "messages[1:]", "messages"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def import_into(home: Path, model: Path, source: Path, **options: Any) -> ImportReport:
    log, ledger = SqliteLog(home / "log.db"), Ledger(home / "ledger.db")
    try:
        report = import_feedback(source, log, model, **options)
        while ledger.follow(log):
            pass
        assert ledger.dead_letters() == []
    finally:
        log.close()
        ledger.close()
    return report


def import_rows(home: Path, model: Path, *rows: object, **options: Any) -> ImportReport:
    file = home / "in.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return import_into(home, model, file, **options)


def events(home: Path) -> list[JoinedEvent]:
    ledger = Ledger(home / "ledger.db")
    found = ledger.effective_events()
    ledger.close()
    return found


def exported(home: Path) -> list[Any]:
    export_feedback(home, home / "out.jsonl")
    return [json.loads(line) for line in (home / "out.jsonl").read_text().splitlines()]


def pair(prompt: object, better: str, worse: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": [said(better)], "rejected": [said(worse)]}


HH = "\n\nHuman: Is tea hot?\n\nAssistant: Yes.\n\nHuman: How hot?\n\nAssistant:"
HH_PROMPT = [
    {"role": "user", "content": "Is tea hot?"},
    said("Yes."),
    {"role": "user", "content": "How hot?"},
]
ULTRAFEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Name a fruit.",
    "models": ["a", "b", "c"],
    "completions": [
        {"model": "a", "response": "A pear.", "overall_score": 7.5},
        {"model": "b", "response": "Meat.", "overall_score": 2.0},
        {"model": "c", "response": "A plum.", "overall_score": 7.5},
    ],
}
TREE = {
    "message_tree_id": "t1",
    "prompt": {
        "message_id": "m1",
        "role": "prompter",
        "text": "Why is the sea salty?",
        "replies": [
            {"role": "assistant", "text": "Rivers bring salt.", "rank": 0, "replies": [
                {"role": "prompter", "text": "And lakes?", "replies": [
                    {"role": "assistant", "text": "Some are.", "rank": 1, "replies": []},
                    {"role": "assistant", "text": "Those without a way out.", "rank": 0},
                ]},
            ]},
            {"role": "assistant", "text": "Fish.", "rank": 1, "replies": []},
            {"role": "assistant", "text": "Spam", "rank": 2, "deleted": True},
            {"role": "assistant", "text": "Unranked.", "rank": None},
        ],
    },
}  # fmt: skip
FOLLOW_UP = [
    {"role": "user", "content": "Why is the sea salty?"},
    said("Rivers bring salt."),
    {"role": "user", "content": "And lakes?"},
]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(pair(ASK, "Hello!", "What?"), [pair(ASK, "Hello!", "What?")], id="explicit"),
        pytest.param(
            {"chosen": [*ASK, said("Hello!")], "rejected": [*ASK, said("What?")]},
            [pair(ASK, "Hello!", "What?")],
            id="implicit messages",
        ),
        pytest.param(
            {"chosen": "The sky is blue.", "rejected": "The sky is black."},
            [{"prompt": "The sky is", "chosen": " blue.", "rejected": " black."}],
            id="implicit text",
        ),
        pytest.param(
            {"chosen": f"{HH} About 90 degrees.", "rejected": f"{HH} Very."},
            [pair(HH_PROMPT, "About 90 degrees.", "Very.")],
            id="HH-RLHF",
        ),
        pytest.param(
            ULTRAFEEDBACK,
            [
                pair([{"role": "user", "content": "Name a fruit."}], "A pear.", "Meat."),
                pair([{"role": "user", "content": "Name a fruit."}], "A plum.", "Meat."),
            ],
            id="UltraFeedback",
        ),
        pytest.param(
            {
                "prompt": "Hi",
                "prompt_id": "1",
                "chosen": [*ASK, said("Hello!")],
                "rejected": [*ASK, said("What?")],
                "score_chosen": 8.0,
                "score_rejected": 3.0,
            },
            [pair(ASK, "Hello!", "What?")],
            id="UltraFeedback binarized",
        ),
        pytest.param(
            TREE,
            [
                pair(FOLLOW_UP[:1], "Rivers bring salt.", "Fish."),
                pair(FOLLOW_UP, "Those without a way out.", "Some are."),
            ],
            id="OpenAssistant",
        ),
        pytest.param(
            {"prompt": ASK, "completion": [said("Hello!")], "label": True},
            [{"prompt": ASK, "completion": [said("Hello!")], "label": True}],
            id="KTO",
        ),
        pytest.param(
            {"prompt": tool_chats.MESSAGES, "tools": json.dumps(tool_chats.TOOLS),
             "chosen": [said("At one.")], "rejected": [said("Never.")]},
            [{**pair(tool_chats.MESSAGES, "At one.", "Never."), "tools": tool_chats.TOOLS}],
            id="system and tools",
        ),
    ],
)  # fmt: skip
def test_a_shape_is_taken(home: Path, model: Path, row: object, expected: list[Any]) -> None:
    report = import_rows(home, model, row)
    assert report.left_out == {}
    assert exported(home) == expected


def test_tools_and_calls_are_prompted_with_and_recorded(home: Path, model: Path) -> None:
    tokenizer = load_tokenizer(model)
    row = {**pair(tool_chats.MESSAGES, "At one.", "Never."), "tools": tool_chats.TOOLS}
    import_rows(home, model, row)
    (event,) = events(home)
    (record,) = event.completions.values()
    assert [whole_message(m) for m in record.messages] == tool_chats.MESSAGES
    assert template_fields(record) == {"tools": tool_chats.TOOLS}
    prompt = tokenizer.decode(record.prompt_token_ids)
    assert '"name": "tide"' in prompt
    assert '<tool_call>\ntide{"day": "today"}\n</tool_call>' in prompt
    ids = encode_chat(tokenizer, tool_chats.MESSAGES, answer=True, tools=tool_chats.TOOLS)
    assert list(record.prompt_token_ids) == ids


def test_scores_and_ranks_are_one_ranking_with_ties(home: Path, model: Path) -> None:
    report = import_rows(home, model, ULTRAFEEDBACK, TREE)
    assert report.taken == {"rankings": 3}
    groups = [len(g.candidates) for g in events(home)[0].event.ranking.groups]
    assert groups == [2, 1], "the two best have the same score"


LEFT_OUT: list[tuple[object, str]] = [
    ({"chosen": f"{HH} Hot.", "rejected": "\n\nHuman: No?\n\nAssistant: Cold."}, "differ before"),
    ({"chosen": "Blue.", "rejected": "Black."}, "do not begin with the same prompt"),
    ({"instruction": "Hi", "completions": [{"response": "a", "overall_score": 1.0}]}, "fewer than"),
    ({"prompt": {"role": "prompter", "text": "Hi", "replies": []}}, "two ranked replies"),
]


def test_rows_without_a_vote_are_left_out_and_reported(home: Path, model: Path) -> None:
    good = pair(ASK, "Hello!", "What?")
    report = import_rows(home, model, *(row for row, _ in LEFT_OUT), good, LEFT_OUT[0][0])
    assert report.taken == {"pairs": 1}
    for number, (_, reason) in enumerate(LEFT_OUT, 1):
        (rows,) = [rows for said, rows in report.left_out.items() if reason in said]
        assert rows.first[0] == number
    assert report.lines()[0] == "Added 1 votes to the log: 1 pairs."
    assert report.lines()[1].startswith("Left out 2 (line 1, 6): the two conversations differ")


def test_broken_rows_are_refused_by_line_or_left_out_on_request(home: Path, model: Path) -> None:
    equal, flat = pair(ASK, "Yes.", "Yes. "), {"message_id": "m", "parent_id": None, "text": "Hi"}
    rows = [pair(ASK, "Hello!", "What?"), equal, flat]
    with pytest.raises(DeployError, match=r"(?s)line 2: .*the same text.*line 3: .*trees"):
        import_rows(home, model, *rows)
    assert events(home) == []
    report = import_rows(home, model, *rows, skip_unusable=True)
    assert report.taken == {"pairs": 1}
    assert [rows.first for rows in report.left_out.values()] == [[2], [3]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"prompt": {"text": "a", "replies": ["x"]}},
            r"line 1: replies\[0\]: must be an object, but is text",
        ),
        (
            {"prompt": {"text": "a", "replies": True}},
            "line 1: replies: must be a list, but is a boolean",
        ),
        (
            {"instruction": "q", "completions": [{"response": "a", "overall_score": [1]}]},
            r"completions\[0\].overall_score: must be a number, but is a list",
        ),
        (
            {"instruction": "q", "completions": [{"response": "a", "overall_score": "N/A"}]},
            r"completions\[0\].overall_score: must be a number, but is text",
        ),
    ],
)
def test_values_of_other_types_are_refused_with_their_place(
    home: Path, model: Path, row: object, reason: str
) -> None:
    with pytest.raises(DeployError, match=reason):
        import_rows(home, model, row)


def test_an_export_imported_and_exported_again_is_the_same(tmp_path: Path, model: Path) -> None:
    """Also where people voted alike, ranked, or voted on a chat with tools."""
    homes = [tmp_path / str(number) for number in range(3)]
    for each in homes:
        each.mkdir()
    import_rows(
        homes[0],
        model,
        {**pair(tool_chats.MESSAGES, "At one.", "Never."), "tools": tool_chats.TOOLS},
        ULTRAFEEDBACK,
    )
    log, ledger = SqliteLog(homes[0] / "log.db"), Ledger(homes[0] / "ledger.db")
    first, second = comparison("e1"), comparison("e2")
    first.subject, second.subject = "anna", "bob"
    put(log, completion(choices=(0, 1, 2)), first, second, ranking("e3", [[2], [0, 1]]))
    while ledger.follow(log):
        pass
    log.close()
    ledger.close()
    for one, following in pairwise(homes):
        assert export_feedback(one, one / "out.jsonl").skipped == 0
        import_into(following, model, one / "out.jsonl")
    export_feedback(homes[2], homes[2] / "out.jsonl")
    contents = [(each / "out.jsonl").read_text() for each in homes]
    assert len(contents[0].splitlines()) == 7
    assert contents[0] == contents[1] == contents[2]


def test_a_json_array_is_read_as_a_stream(home: Path, model: Path) -> None:
    rows = [pair([{"role": "user", "content": f"Hi {n}" * 40}], "Yes.", "No.") for n in range(400)]
    for indent in (None, 1):
        file = home / "in.json"
        file.write_text(json.dumps(rows, indent=indent))
        assert import_into(home, model, file).taken == {"pairs": 400}
    file.write_text(json.dumps(rows)[:-40])
    with pytest.raises(DeployError, match=r"in\.json is not valid JSON"):
        import_into(home, model, file)
    file.write_text("{}")
    with pytest.raises(DeployError, match="holds no JSON array"):
        import_into(home, model, file)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for the `datasets` library, which is optional; return the calls that it gets."""
    calls: list[Any] = []
    rows = [{**pair(ASK, "Hello!", "What?"), "tools": None, "score": None}]
    rows[0]["chosen"][0]["tool_calls"] = None  # columnar files have every field in every row
    fake = ModuleType("datasets")

    def load_dataset(path: str, **options: Any) -> dict[str, Any]:
        calls.append((path, options))
        return {"train_prefs": rows, "test_prefs": []}

    def load_from_disk(path: str) -> list[Any]:
        calls.append(path)
        return rows

    fake.load_dataset, fake.load_from_disk = load_dataset, load_from_disk  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return calls


def test_data_sets_are_read_by_their_library(
    home: Path, model: Path, library: list[Any], tmp_path: Path
) -> None:
    hub = Path("HuggingFaceH4/ultrafeedback_binarized")
    with pytest.raises(DeployError, match="splits test_prefs, train_prefs; choose one"):
        import_into(home, model, hub)
    report = import_into(home, model, hub, split="train_prefs")
    assert report.taken == {"pairs": 1}
    assert library[-1] == (str(hub), {"streaming": True})
    file = tmp_path / "votes.parquet"
    file.touch()
    import_into(home, model, file, split="train_prefs")
    assert library[-1] == ("parquet", {"data_files": str(file), "streaming": True})
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").touch()
    import_into(home, model, tmp_path / "saved")
    assert library[-1] == str(tmp_path / "saved")
    assert exported(home) == [pair(ASK, "Hello!", "What?")]


def test_without_the_library_it_says_how_to_install_it(
    home: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DeployError, match="uv sync --group data"):
        import_into(home, model, Path("org/votes"))


def test_real_parquet_files_and_folders(home: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [pair([{"role": "user", "content": f"Hi {n}"}], "Yes.", "No.") for n in range(50)]
    (tmp_path / "folder").mkdir()
    for file in (tmp_path / "votes.parquet", tmp_path / "folder" / "train.parquet"):
        parquet.write_table(arrow.Table.from_pylist(rows), str(file))
    for source in ("votes.parquet", "folder"):
        assert import_into(home, model, tmp_path / source).taken == {"pairs": 50}
    assert exported(home) == rows
