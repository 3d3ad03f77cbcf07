"""The command line, raters, processor and child processes."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file
from typer.testing import CliRunner

from deploy.commands.main import app
from deploy.errors import DeployError
from deploy.local.processes import Child, stop_all
from deploy.local.up import up
from deploy.settings import UpSettings
from deploy.simulation.raters import PREFERENCES, judge, prefers
from deploy.simulation.simulate import Plan, Simulation, simulate
from deploy.sizing.processor import best_dtype, cpu_flags
from feedback.control.policies import current_state
from feedback.log.event_log import LogUnavailable
from feedback.log.sqlite_log import SqliteLog
from protos.checkpoints.folder_registry import FolderRegistry
from tests.support.servers import free_port


def test_dtype_follows_the_processor(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n")
    assert best_dtype(cpu_flags(info)) == "bfloat16"
    info.write_text("processor: 0\nflags\t\t: fpu avx2 avx512f\n")
    assert best_dtype(cpu_flags(info)) == "float32"
    assert best_dtype(cpu_flags(tmp_path / "absent")) == "float32"


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("concise", "Cats purr.", "Cats purr, and they do so for many reasons, one by one."),
        ("concise", "Cats purr.", ""),
        ("detailed", "Cats purr, and they do so for many reasons.", "Cats purr."),
        ("polite", "Thank you for asking. Cats purr.", "Cats purr."),
        ("questions", "Cats purr. Do you have a cat?", "Cats purr."),
    ],
)
def test_preferences_prefer(name: str, better: str, worse: str) -> None:
    preference = PREFERENCES[name]
    assert prefers(preference, better, worse) == 1
    assert prefers(preference, worse, better) == 0
    assert prefers(preference, better, better) == 0.5
    assert preference.score(preference.improve(worse)) >= preference.score(worse)


def test_judgement_is_noisy_but_not_random() -> None:
    rng = random.Random(0)
    preference = PREFERENCES["concise"]
    long, short = " ".join(["word"] * 12), " ".join(["word"] * 4)
    verdicts = [judge(preference, short, long, 0.7, rng) for _ in range(1000)]
    share = verdicts.count("left") / 1000
    assert 0.8 < share < 0.95  # logistic of (8/6)/0.7 = 0.87


def test_unknown_settings_fail() -> None:
    with pytest.raises(ValidationError):
        UpSettings(colour="red")  # type: ignore[call-arg]


def test_settings_load_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, deploy.commands.main, deploy.settings, serving.settings, learner.settings;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'vllm', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_errors_are_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.commands.main", "policies", "list"]
    command += ["--home", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "plaudit up" in result.stdout.replace("\n", " ")
    assert "Traceback" not in result.stdout + result.stderr


def child(tmp_path: Path, code: str) -> Child:
    return Child("part", [sys.executable, "-c", code], tmp_path / "part.log")


def test_a_wrong_kafka_address_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("PLAUDIT_KAFKA_CONNECT_SECONDS", "0.3")
    said: list[str] = []
    settings = UpSettings(home=tmp_path, port=free_port(), learner_port=free_port())
    with pytest.raises(LogUnavailable, match="cannot reach Kafka"):
        up(settings, said.append)
    assert said == []


def test_init_announces_a_first_policy_once(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    home = tmp_path / "home"
    FolderRegistry(home / "registry").publish(
        model, version=1, parent=0, base="own"
    )  # then it crashed
    for _ in range(2):
        done = CliRunner().invoke(app, ["init", "--home", str(home)])
        assert done.exit_code == 0, done.output
    log = SqliteLog(home / "log.db")
    assert current_state(log).live == 1
    assert log.ends("policies") == {0: 1}
    log.close()


def test_a_crashed_child_is_restarted_and_says_so(tmp_path: Path) -> None:
    part = child(tmp_path, "import time; print('up', flush=True); time.sleep(60)")
    said: list[str] = []
    part.start()
    assert part.process is not None
    first = part.process
    first.kill()
    first.wait()
    deadline = time.monotonic() + 10
    while (part.process is None or part.process is first) and time.monotonic() < deadline:
        part.check(said.append)
    assert part.process is not None
    assert part.process is not first
    assert "signal 9" in said[0]
    assert "starting again" in said[1]
    stop_all([part], said.append)
    assert part.process.poll() is not None


TOLD_TWICE = """
import signal
from deploy.local.processes import stop_on_signals
stop = stop_on_signals()
with stop._cond:  # as it is while the main thread waits for it, or sets it
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
print(stop.wait(10))
"""


def test_a_signal_stops_whatever_it_comes_in_the_midst_of() -> None:
    told = subprocess.run([sys.executable, "-c", TOLD_TWICE], capture_output=True, timeout=30)
    assert told.stdout == b"True\n"


def test_children_die_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from deploy.local.processes import Child\n"
        "c = Child('part', ['sleep', '60'], Path(sys.argv[1]))\n"
        "c.start(); print(c.process.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")


def test_pruning_keeps_what_is_still_needed(tmp_path: Path) -> None:
    from deploy.administration.policies import list_policies, prune
    from feedback.control.policies import append_policy_event
    from feedback.log.sqlite_log import SqliteLog
    from protos.checkpoints.folder_registry import FolderRegistry
    from protos.plaudit.v1.policy_pb2 import Activated, Published, Swapped

    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    registry, log = FolderRegistry(tmp_path / "registry"), SqliteLog(tmp_path / "log.db")
    for version in range(1, 9):
        registry.publish(model, version=version, parent=version - 1, base="tiny")
        append_policy_event(log, Published(version=version, parent=version - 1))
    append_policy_event(log, Swapped(replica="late", version=3))
    append_policy_event(log, Activated(version=5))
    log.close()
    assert prune(tmp_path, keep=1) == "Deleted 2, 6, 7."
    assert registry.versions() == [1, 3, 4, 5, 8]
    assert prune(tmp_path, keep=1) == "Nothing to delete."
    assert list_policies(tmp_path).row_count == 8


def test_a_version_on_trial_is_shown_and_kept_with_the_base_of_what_is_kept(
    tmp_path: Path,
) -> None:
    from deploy.administration.policies import list_policies, operations, prune
    from feedback.control.policies import append_policy_event
    from feedback.log.sqlite_log import SqliteLog
    from protos.checkpoints.folder_registry import FolderRegistry
    from protos.plaudit.v1.policy_pb2 import Published

    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    registry, log = FolderRegistry(tmp_path / "registry"), SqliteLog(tmp_path / "log.db")
    for version, base in ((1, 0), (2, 0), (3, 2), (4, 2)):
        registry.publish(model, version=version, parent=1, base="tiny", adapter_base=base)
        append_policy_event(log, Published(version=version, parent=1, trial=version == 4))
    log.close()
    status = list(list_policies(tmp_path).columns[5].cells)
    assert status == ["", "", "live", "on trial"]
    assert prune(tmp_path, keep=1) == "Nothing to delete."
    assert "The trial of version 4 ends" in operations(tmp_path).activate(3, "test")
    assert list(list_policies(tmp_path).columns[5].cells) == ["", "", "live", "rolled back"]


def test_tuning_goes_by_wish_then_setting_then_size_and_serves_old_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.errors import DeployError
    from deploy.sizing.tuning import Tuning, choose_tune, tuning_of
    from protos.checkpoints.folder_registry import FolderRegistry

    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for folder in (model, adapter):
        folder.mkdir()
    save_file({"weight": np.zeros((3, 4), np.int8)}, model / "model.safetensors")
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    registry = FolderRegistry(tmp_path / "registry")
    registry.publish(model, version=1, parent=0, base="tiny")
    llama, large = "LlamaForCausalLM", 30_000_001
    assert (choose_tune(llama, large), choose_tune(llama, large - 1)) == ("lora", "full")
    assert (choose_tune(llama, large, "full"), choose_tune(llama, 1, "lora")) == ("full", "lora")
    assert choose_tune("GPT2LMHeadModel", large) == "full", "vLLM serves no adapters of it"
    with pytest.raises(DeployError, match="choose --tune full"):
        choose_tune("GPT2LMHeadModel", large, "lora")
    monkeypatch.setenv("PLAUDIT_LEARNER_TUNE", "full")
    assert choose_tune(llama, large) == "full"
    assert tuning_of(tmp_path, "full") == Tuning("full", 0)
    assert tuning_of(tmp_path, "lora") == Tuning("lora", 16)
    monkeypatch.setenv("PLAUDIT_LEARNER_LORA__RANK", "20")
    wanted = tuning_of(tmp_path, "lora")
    assert wanted == Tuning("lora", 32), "the next that vLLM can be set to"
    assert wanted.serving_environment() == {"PLAUDIT_SERVING_LORA_RANK": "32"}
    registry.publish(adapter, version=2, parent=1, base="tiny", adapter_base=1)
    assert tuning_of(tmp_path, "full") == Tuning("full", 8)
    assert Tuning("full", 0).serving_environment() == {"PLAUDIT_SERVING_LORA_RANK": "0"}


def test_a_home_says_how_its_policies_are_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.sizing.machine import tuning_here
    from deploy.sizing.tuning import Tuning
    from protos.checkpoints.folder_registry import FolderRegistry
    from tests.support.models import tiny_chat_model

    assert tuning_here(tmp_path) is None
    model = tiny_chat_model(tmp_path / "model", 1)
    FolderRegistry(tmp_path / "registry").publish(model, version=1, parent=0, base="tiny")
    assert tuning_here(tmp_path) == Tuning("full", 0)
    monkeypatch.setenv("PLAUDIT_LEARNER_TUNE", "lora")
    assert tuning_here(tmp_path) == Tuning("lora", 16)
    assert tuning_here(tmp_path, "full") == Tuning("full", 0)


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
def test_a_simulation_says_that_the_server_has_gone(
    error: httpx.HTTPError, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(*_: object) -> None:
        raise error

    monkeypatch.setattr(Simulation, "run", run)
    with pytest.raises(DeployError, match=r"no answer from .*: start it with"):
        simulate(Plan(("http://127.0.0.1:1",), "concise"))
