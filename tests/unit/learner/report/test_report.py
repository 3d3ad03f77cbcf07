"""The report of a cycle: its Markdown page, its chart, and what it must not contain."""

import datetime
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deploy.administration.policies import report_folder
from deploy.errors import DeployError
from learner.cycle.reporting import Reporter, report_prompts
from learner.cycle.state import CycleState
from learner.data.preferences import prompt_key, prompt_split
from learner.errors import StateUnusable
from learner.gate.criteria import criteria
from learner.report.chart import chart
from learner.report.contents import Data, Report, SampledPrompt
from learner.report.page import markdown
from learner.reward.statistics import wilson_lower
from learner.settings import GateSettings, RewardSettings
from protos.checkpoints.folder_registry import FolderRegistry

GATE = {
    "judge_gain_lower_bound": 0.04,
    "win_rate": 0.75,
    "win_rate_lower_bound": 0.61,
    "kl": 26.5,
    "text_nll_increase": 0.15,
    "ended": 0.9,
    "live_ended": 0.96,
    "answer_nll_increase": 0.25,
    "worst_sentence_nll_increase": 0.875,
    "distinct": 0.9375,
    "first_distinct": 1.0,
}
SETTINGS = GateSettings(
    min_win_rate=0.5, max_kl=25.0, max_text_nll_increase=0.15, max_unended_increase=0.05
)


def iteration(number: int, score: float = 0.0) -> dict[str, float]:
    return {"number": float(number), "score": score, "preferred": 0.5, "kl": 2.0 * number,
            "entropy": 1.0, "clip_ratio": 0.125, "length": 20.5}  # fmt: skip


REPORT = Report(
    tuned="all weights",
    data=Data(
        votes={"rating": 3, "comparison": 40},
        raters=7,
        opinions={"reward": 35, "held_out": 8},
        prompts=500,
        held_out_prompts=90,
        left_out_prompts=12,
        sizing=("Lengths: short.", "A cycle: long."),
    ),
    iterations=tuple(iteration(n, score=n / 4) for n in (1, 2, 3)),
    criteria=criteria(GATE, SETTINGS),
    samples=(SampledPrompt(prompt="Hi", before="Hello there.", after="| ``` # Hello …"),),
    cycle=4,
    version=0,
    parent=3,
    base="default",
    made=datetime.datetime(2026, 11, 21, 14, 5, tzinfo=datetime.UTC),
    outcome="refused",
    reasons=("the divergence from the SFT policy is 26.5 nats per answer; the maximum is 25.0",),
    after_seq=100,
    upto_seq=143,
    events=40,
    figures={
        "reward_accuracy": 0.8125,
        "reward_gain": 0.25,
        "reward_new_thing": 2.0,
        "judge_accuracy": 0.7,
        "probe_gain": 0.125,
        **GATE,
    },
    seconds={"reward": 24.1, "ppo": 48.0},
)


def test_criteria_are_compared_with_their_bounds() -> None:
    """A figure that equals its bound passes."""
    results = {c.name: (c.sense, pytest.approx(c.bound), c.passed) for c in REPORT.criteria}
    assert results == {
        "judge_gain_lower_bound": ("at least", 0.001, True),
        "win_rate_lower_bound": ("at least", 0.5, True),
        "kl": ("at most", 25.0, False),
        "text_nll_increase": ("at most", 0.15, True),
        "ended": ("at least", 0.91, False),
        "answer_nll_increase": ("at most", 0.5, True),
        "worst_sentence_nll_increase": ("at most", 0.75, False),
        "distinct": ("at least", 0.65, True),
    }
    equal = criteria({**GATE, "win_rate_lower_bound": 0.5}, SETTINGS)
    assert equal[1].passed
    no_minimum = SETTINGS.model_copy(update={"min_win_rate": 0.0})
    no_wins = {**GATE, "win_rate_lower_bound": wilson_lower(0, 8)}
    assert criteria(no_wins, no_minimum)[1].passed, (
        "a minimum of 0 accepts a candidate that wins nowhere"
    )


def test_a_report_survives_json() -> None:
    assert Report.model_validate_json(REPORT.model_dump_json()) == REPORT
    extreme = REPORT.model_copy(update={"figures": {"kl": math.inf, "loss": math.nan}})
    figures = Report.model_validate_json(extreme.model_dump_json()).figures
    assert figures["kl"] == math.inf
    assert math.isnan(figures["loss"])


@pytest.mark.parametrize(
    "line",
    [
        "# Cycle 4: not published",
        "Cycle 4, 2026-11-21 14:05 UTC, from version 3. Base: default. Trained: all weights.",
        "- the divergence from the SFT policy is 26.5 nats per answer; the maximum is 25.0",
        "| win rate against the parent, lower bound (95%) | 0.610 | at least 0.500 | pass |",
        "| gain of the judge over chance, lower bound (95%), nats per vote | 0.040 | at least 0.001"
        " | pass |",
        "| the same for the worst sentence of each answer | 0.875 | at most 0.750 | **fail** |",
        "| share of distinct answers of four | 0.938 | at least 0.650 | pass |",
        "| KL to the SFT policy, nats per answer | 26.50 | at most 25 | **fail** |",
        "Also: win rate 0.750, live ended 0.960, first distinct 1.",
        "- Votes: 43 (comparison 40, rating 3) by 7 raters, 40 new (ledger rows 101 to 143)",
        "- Training examples by split: 35 reward, 8 held out",
        "- Prompts: 500 for PPO, 90 held out for the gate, 12 left out because they are longer than"
        " the limit",
        "- Lengths: short.",
        "- A cycle: long.",
        "| held-out accuracy | 0.812 | 0.700 |  |",
        "| gain over chance, nats per example | 0.250 |  | 0.125 |",
        "| new thing | 2 |  |  |",
        "| 3 | 0.750 | 0.500 | 6 | 1 | 0.125 | 20.50 |",
        "before: Hello there.",
        "reward 24 s, ppo 48 s",
    ],
)
def test_the_page_has_the_line(line: str) -> None:
    assert line in markdown(REPORT).splitlines()


def test_model_output_is_not_read_as_markdown() -> None:
    page = markdown(REPORT)
    assert "````text\n> Hi\nbefore: Hello there.\nafter:  | ``` # Hello …\n````" in page


def test_the_table_of_a_long_run_is_subsampled() -> None:
    """200 iterations become 16 rows, with the first and the last."""
    long = REPORT.model_copy(update={"iterations": tuple(iteration(n) for n in range(1, 201))})
    table = markdown(long).split("## PPO")[1].split("## Samples")[0]
    numbers = [row.split("|")[1].strip() for row in table.splitlines() if row.startswith("| ")]
    assert len(numbers) == 2 + 16
    assert (numbers[2], numbers[-1]) == ("1", "200")


def test_a_cycle_that_trained_nothing_has_a_short_page() -> None:
    page = markdown(
        REPORT.model_copy(
            update={"outcome": "too_few_votes", "iterations": (), "criteria": (), "samples": ()}
        )
    )
    assert "**There were too few votes to learn from:**" in page
    assert not any(part in page for part in ("## PPO", "## Gate", "## Samples"))


def test_the_chart_has_three_curves() -> None:
    """For scores 0, 1, 3: bottom left, a third of the way up in the middle, top right."""
    svg = ElementTree.fromstring(
        chart([iteration(n, s) for n, s in ((1, 0.0), (2, 1.0), (3, 3.0))])
    )
    panels = {
        g.get("id"): [line.get("points", "").split() for line in g if line.tag.endswith("polyline")]
        for g in svg
        if g.tag.endswith("}g")
    }
    assert list(panels) == ["score", "kl", "entropy"]
    axes, curve = panels["score"]
    (left, bottom), (right, _) = (tuple(map(float, p.split(","))) for p in (axes[1], axes[2]))
    top = float(axes[0].split(",")[1])
    points = [tuple(map(float, p.split(","))) for p in curve]
    assert points[0] == (left, bottom)
    assert points[1] == pytest.approx(((left + right) / 2, bottom - (bottom - top) / 3), abs=0.1)
    assert points[2] == (right, top)
    assert all(len(lines[1]) == 3 for lines in panels.values())


@pytest.mark.parametrize("scores", [[], [1.0], [2.0, 2.0], [math.nan, math.inf]])
def test_a_chart_of_few_or_no_points_can_be_drawn(scores: list[float]) -> None:
    drawn = chart([iteration(n + 1, s) for n, s in enumerate(scores)])
    assert "nan" not in drawn
    ElementTree.fromstring(drawn)


def test_repeated_iterations_are_reported_once(tmp_path: Path) -> None:
    """The run is killed after iteration 3 and resumed from the checkpoint of iteration 1."""
    for number, score in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.22), (3, 0.33), (4, 0.4)):
        Reporter(tmp_path).add_iteration(iteration(number, score))
    Reporter(tmp_path).write(tmp_path, cycle(), "refused", "tiny")
    report = Report.model_validate_json((tmp_path / "report.json").read_bytes())
    assert [i["score"] for i in report.iterations] == [0.1, 0.22, 0.33, 0.4]


def cycle() -> CycleState:
    return CycleState(number=1, parent=1, after_seq=0, upto_seq=9, events=9, version=2)


def test_unreadable_notes_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{")
    with pytest.raises(StateUnusable, match=r"notes\.json"):
        Reporter(tmp_path).add_iteration(iteration(1))


def test_report_prompts_are_held_out_and_always_the_same() -> None:
    settings = RewardSettings()
    prompts = report_prompts(True, 0, settings)
    assert prompts == report_prompts(True, 0, settings)
    assert len(set(prompts)) == 6
    for prompt in prompts:
        key = prompt_key([{"role": "user", "content": prompt}])
        assert prompt_split(key, held_out_share=0.15) == "held_out"
    assert len(set(report_prompts(False, 0, settings))) == 6


def home_with_reports(home: Path) -> Path:
    """Make a home: version 1 has no report, version 2 has one, a second cycle was refused."""
    model = home / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    registry = FolderRegistry(home / "registry")
    registry.publish(model, version=1, parent=0, base="tiny")
    Reporter(home).write(model, cycle(), "published", "tiny")
    registry.publish(model, version=2, parent=1, base="tiny")
    for number in ("001", "002"):
        folder = home / "learner" / "cycles" / number
        folder.mkdir(parents=True)
        state = cycle().model_copy(update={"number": int(number)})
        Reporter(home).write(folder, state, "refused" if number == "002" else "published", "tiny")
    return home


def show(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "deploy.commands.main", "policies", "show"]
    command += ["--home", str(home)]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    return result.stdout


def test_show_prints_the_report_of_a_version_or_of_the_last_cycle(tmp_path: Path) -> None:
    home = home_with_reports(tmp_path)
    assert show(home, "2") == (home / "registry" / "v000002" / "report.md").read_text()
    assert Report.model_validate_json(show(home, "2", "--json")).version == 2
    assert '"base": "tiny"' in show(home, "1"), "the manifest is shown"
    assert show(home).startswith("# Cycle 2: not published")


def test_show_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="no learning cycle has ended"):
        report_folder(tmp_path, None)
    with pytest.raises(DeployError, match="version 7"):
        report_folder(tmp_path, 7)
    home = home_with_reports(tmp_path / "home")
    (home / "registry" / "v000002" / "report.md").write_text("better figures")
    with pytest.raises(DeployError, match=r"report\.md"):
        report_folder(home, 2)
