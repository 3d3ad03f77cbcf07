"""The sizes of a cycle, by hand-computed numbers."""

from pathlib import Path

import psutil
import pytest

from feedback.ledger.rows import RecordedLengths
from learner import sizing
from learner.settings import LearnerSettings, PPOSettings
from learner.sizing import (
    CycleSizes,
    Device,
    ModelShape,
    Sizing,
    cpu_device,
    gpu_device,
    machine_memory,
    token_bytes,
)

GIB = 2**30
SMALL = ModelShape("LlamaForCausalLM", 4_000_000, 4, 192, 2048, 10_000, context=512)
LARGE = ModelShape("LlamaForCausalLM", 135_000_000, 30, 576, 49_152, 300_000, context=8192)
CPU = cpu_device(16 * GIB, cores=2)
H200 = gpu_device([139 * GIB])


def sizes(
    shape: ModelShape = LARGE,
    device: Device = H200,
    prompts: tuple[int, ...] = (),
    answers: tuple[int, ...] = (),
    settings: LearnerSettings | None = None,
    rate: float | None = None,
) -> Sizing:
    chosen = (settings or LearnerSettings()).for_model(shape.parameters, 1.0)
    return Sizing(chosen, shape, device, RecordedLengths(prompts, answers), rate)


def test_the_small_model_keeps_its_defaults_with_little_and_with_short_traffic() -> None:
    defaults = PPOSettings()
    for prompts, answers in (((), ()), ((300,) * 19, (300,) * 19), ((9, 20) * 40, (50,) * 80)):
        chosen = sizes(SMALL, CPU, prompts, answers).choose()
        assert chosen.max_prompt_tokens == defaults.max_prompt_tokens == 256
        assert chosen.max_tokens == defaults.max_tokens == 112
        assert chosen.micro_tokens == defaults.micro_tokens == 4096
        assert (chosen.iterations, chosen.rollouts) == (defaults.iterations, defaults.rollouts)


def test_limits_are_the_95th_percentiles_rounded_up() -> None:
    prompts, answers = tuple(range(10, 1010, 10)), tuple(range(2, 402, 2))
    chosen = sizes(LARGE, H200, prompts, answers).choose()
    assert chosen.max_prompt_tokens == 960  # 950 is the 95th of 100
    assert chosen.max_tokens == 384  # 380 is the 190th of 200
    lines = sizes(LARGE, H200, prompts, answers).lines(chosen)
    assert lines[0] == (
        "Lengths: prompts of up to 960 tokens (the 95th percentile; 96% of 100 recorded ones fit), "
        "answers of up to 384 (the 95th percentile; 96% of 200 recorded ones fit)."
    )


def test_fewer_than_twenty_answers_leave_the_defaults_but_the_share_is_told() -> None:
    few = sizes(LARGE, H200, (300,) * 19, (200,) * 19)
    chosen = few.choose()
    assert (chosen.max_prompt_tokens, chosen.max_tokens) == (256, 64)
    assert few.lines(chosen)[0] == (
        "Lengths: prompts of up to 256 tokens (the default until 20 answers are recorded; 0% of 19 "
        "recorded ones fit), answers of up to 64 (the default until 20 answers are recorded; 0% of "
        "19 recorded ones fit)."
    )
    assert sizes(LARGE, H200, (300,) * 20, (200,) * 20).choose().max_tokens == 208


def test_prompt_and_answer_fit_into_the_context() -> None:
    chosen = sizes(SMALL, H200, (500,) * 40, (400,) * 40).choose()
    assert (chosen.max_prompt_tokens, chosen.max_tokens) == (256, 256)
    short = sizes(SMALL, H200, (500,) * 40, (20,) * 40)
    assert short.choose().max_prompt_tokens == 512 - 112
    assert "(what context and memory allow; 0% of 40" in short.lines(short.choose())[0]


def test_what_is_set_is_kept() -> None:
    ppo = PPOSettings(
        max_tokens=33, max_prompt_tokens=44, micro_tokens=55, rollouts=6, iterations=7
    )
    found = sizes(LARGE, CPU, (500,) * 40, (400,) * 40, LearnerSettings(ppo=ppo))
    chosen = found.choose()
    assert chosen.model_dump(exclude={"work"}) == ppo.model_dump(include=CycleSizes.model_fields)
    assert chosen.apply_to(found.settings) == found.settings
    assert (
        "prompts of up to 44 tokens (as set; 0% of 40 recorded ones fit)" in found.lines(chosen)[0]
    )
    other = CycleSizes(
        max_tokens=1, max_prompt_tokens=1, micro_tokens=1, rollouts=1, iterations=1, work=1
    )
    assert other.apply_to(found.settings) == found.settings, "also where a cycle chose otherwise"


def test_a_forward_pass_takes_an_eighth_of_the_memory_and_one_row_at_least() -> None:
    token = token_bytes(LARGE)
    middle = Device(memory=8 * 2000 * token, gpus=0, flops=1e11)
    assert sizes(LARGE, middle).choose().micro_tokens == 2000
    assert sizes(LARGE, Device(8 * token, 0, 1e11)).choose().micro_tokens == 256 + 64
    assert sizes(SMALL, CPU).choose().micro_tokens == 4096
    assert sizes(SMALL, H200).choose().micro_tokens == 16_384
    # A quarter holds the longest prompt and answer, which are shortened to that, first the prompt.
    tight = Device(8 * 1000 * token, 0, 1e11)
    chosen = sizes(LARGE, tight, (900,) * 40, (300,) * 40).choose()
    assert (chosen.max_tokens, chosen.max_prompt_tokens, chosen.micro_tokens) == (304, 912, 1216)
    chosen = sizes(LARGE, tight, (1900,) * 40, (300,) * 40).choose()
    assert (chosen.max_tokens, chosen.max_prompt_tokens, chosen.micro_tokens) == (304, 1696, 2000)


def test_answers_and_then_iterations_are_fewer_where_time_is_short() -> None:
    settings = LearnerSettings(cycle_minutes=1, ppo=PPOSettings(text_coef=0, text_rows=1))
    settings = settings.model_copy(update={"tune": "full"})
    prompts, answers = (60,) * 40, (40,) * 40  # 100 tokens a row, of 34 operations each
    text = 6 * 2 * 1 * 1 * 128

    def chosen(rows: float, iterations: int) -> tuple[int, int]:
        rate = (rows * 100 * 34 + text) * iterations / 60
        found = sizes(LARGE, H200, prompts, answers, settings, rate).choose()
        return found.rollouts, found.iterations

    assert chosen(200, 14) == (96, 14)
    assert chosen(96.5, 14) == (96, 14)
    assert chosen(95.5, 14) == (88, 14)
    assert chosen(16.5, 14) == (16, 14)
    assert chosen(16.5, 10) == (16, 10)
    assert chosen(16.5, 2) == (16, 4)


def test_minutes_and_speed_are_those_of_the_device_unless_set_or_measured() -> None:
    assert (sizes(device=CPU).minutes, sizes(device=H200).minutes) == (30, 20)
    assert sizes(settings=LearnerSettings(cycle_minutes=7)).minutes == 7
    assert sizes(SMALL, CPU).rate == pytest.approx(2e11 * 0.6 / (2 * 4_000_000))
    assert gpu_device([3, 2]) == Device(2, 2, 2 * H200.flops)
    assert sizes(SMALL, CPU, rate=123.0).rate == 123.0
    slow = sizes(LARGE, CPU, rate=340.0)
    assert "at 10 tokens a second (measured in the last cycle)" in slow.lines(slow.choose())[1]
    assert "7.0 tokens" in " ".join(sizes(LARGE, CPU, rate=238).lines(slow.choose()))


def test_a_cycle_that_takes_too_long_at_the_least_is_told() -> None:
    slow = sizes(LARGE, CPU, rate=1.0)
    chosen = slow.choose()
    assert (chosen.rollouts, chosen.iterations) == (16, 4)
    minutes = chosen.work / 60
    assert (
        f"That takes about {minutes:.0f} minutes, more than a cycle may take"
        in slow.lines(chosen)[2]
    )
    assert len(sizes(SMALL, CPU).lines(sizes(SMALL, CPU).choose())) == 2


def test_the_memory_of_a_container_is_what_it_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(sizing, "_CGROUP_MEMORY", limit)
    total = psutil.virtual_memory().total
    assert machine_memory() == total
    limit.write_text("max\n")
    assert machine_memory() == total
    limit.write_text("1073741824\n")
    assert machine_memory() == GIB
