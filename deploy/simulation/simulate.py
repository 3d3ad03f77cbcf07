"""`plaudit simulate`: raters who chat and vote over the HTTP API, with a live table.

Before the first vote, the simulation samples answers to evaluation prompts, which are never voted
on. Each later version answers the same prompts, and the preference compares both without noise.
"""

import asyncio
import random
import time
from dataclasses import dataclass

import httpx
import openai
from openai import AsyncOpenAI
from rich.live import Live

from deploy.errors import DeployError
from deploy.simulation.progress import Progress, Score, results_table
from deploy.simulation.raters import PREFERENCES, judge, prefers
from learner.corpus import prompts

MODEL = "plaudit"
THUMBS_SHARE = 0.08
CORRECTION_SHARE = 0.04
_RETRIES = 8


@dataclass(frozen=True)
class Plan:
    """Parameters of a simulation.

    Attributes:
        urls: URLs of the replicas, over which raters are spread.
        preference: Name of the raters' preference.
        comparisons: Number of comparisons to send.
        raters: Number of concurrent raters.
        noise: Scale of the noise in the raters' verdicts.
        seed: Seed of all random draws but the replica that takes a vote.
        max_tokens: Maximum length of an answer.
        eval_prompts: Number of evaluation prompts.
        wait_seconds: Longest wait for a later version after the last vote.
        settle_seconds: Time without a new version after which the simulation ends.
        api_key: API key of the requests.

    """

    urls: tuple[str, ...]
    preference: str
    comparisons: int = 400
    raters: int = 8
    noise: float = 0.7
    seed: int = 0
    max_tokens: int = 96
    eval_prompts: int = 60
    wait_seconds: float = 900.0
    settle_seconds: float = 90.0
    api_key: str = "none"


class Simulation:
    """Simulated raters of one installation."""

    def __init__(self, plan: Plan) -> None:
        if plan.preference not in PREFERENCES:
            names = ", ".join(sorted(PREFERENCES))
            raise DeployError(f"unknown preference '{plan.preference}'; use one of {names}")
        self.plan = plan
        self.preference = PREFERENCES[plan.preference]
        headers = {"Authorization": f"Bearer {plan.api_key}"}
        self.http_clients = [
            httpx.AsyncClient(base_url=url, timeout=60, headers=headers) for url in plan.urls
        ]
        self.openai_clients = [
            AsyncOpenAI(
                base_url=f"{url}/v1", api_key=plan.api_key, timeout=120, max_retries=_RETRIES
            )
            for url in plan.urls
        ]
        rng = random.Random(plan.seed)
        self.vote_prompts = rng.sample(prompts("vote"), k=len(prompts("vote")))
        self.eval_prompts = rng.sample(prompts("eval"), k=plan.eval_prompts)
        self.baseline: list[str] = []

    async def chat(self, prompt: str, n: int, rater: int) -> tuple[str, list[str], int]:
        """Send one chat request; return its completion id, answers and policy version."""
        client = self.openai_clients[rater % len(self.openai_clients)]
        completion = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            n=n,
            max_tokens=self.plan.max_tokens,
        )
        version = int((completion.system_fingerprint or "policy-v0").removeprefix("policy-v"))
        return completion.id, [c.message.content or "" for c in completion.choices], version

    async def answers(self) -> tuple[list[str], int]:
        """Sample answers to the evaluation prompts; return them and the highest version seen."""
        results = await asyncio.gather(
            *(self.chat(p, 1, i) for i, p in enumerate(self.eval_prompts))
        )
        return [texts[0] for _, texts, _ in results], max(v for _, _, v in results)

    async def score(self, progress: Progress) -> None:
        """Compare the live version's answers with those of the first, and record the result."""
        texts, version = await self.answers()
        wins = [
            prefers(self.preference, new, old)
            for new, old in zip(texts, self.baseline, strict=True)
        ]
        words = sum(len(t.split()) for t in texts) / len(texts)
        progress.version = max(progress.version, version)
        rate = sum(wins) / len(wins)
        progress.scores.append(
            Score(version, rate, words, progress.since_first_vote(), progress.votes)
        )

    async def vote(self, prompt: str, rater: int, rng: random.Random, progress: Progress) -> None:
        """Request two answers and send a comparison, sometimes also a rating or a demonstration."""
        completion_id, texts, version = await self.chat(prompt, 2, rater)
        left = rng.randrange(2)
        right = 1 - left
        verdict = judge(self.preference, texts[left], texts[right], self.plan.noise, rng)
        comparison = {"kind": "comparison", "left": left, "right": right, "verdict": verdict}
        user = f"rater-{rater}"
        extra = {"shown": [left, right], "decision_ms": rng.randrange(800, 9000)}
        progress.first_vote = progress.first_vote or time.monotonic()
        await self.send(completion_id, user, comparison, extra)
        progress.comparisons += 1
        progress.version = max(progress.version, version)
        best = right if verdict == "right" else left
        if rng.random() < THUMBS_SHARE and verdict != "tie":
            thumb = rng.choice(("up", "down"))
            choice = best if thumb == "up" else 1 - best
            await self.send(
                completion_id, user, {"kind": "rating", "choice": choice, "value": thumb}
            )
            progress.other_votes += 1
        if rng.random() < CORRECTION_SHARE:
            better = self.preference.improve(texts[1 - best])
            if better and better != texts[1 - best]:
                correction = {"kind": "demonstration", "choice": 1 - best, "text": better}
                await self.send(completion_id, user, correction)
                progress.other_votes += 1

    async def send(
        self,
        completion_id: str,
        user: str,
        feedback: dict[str, object],
        extra: dict[str, object] | None = None,
    ) -> None:
        """Send one vote; all attempts use the same idempotency key, so that it counts once."""
        body = {
            "completion_id": completion_id,
            "user": user,
            "source": "simulated",
            "feedback": feedback,
            **(extra or {}),
        }
        key = f"{completion_id}/{user}/{feedback['kind']}"
        for attempt in range(_RETRIES):
            try:
                replica = random.choice(self.http_clients)  # every replica accepts every vote
                response = await replica.post(
                    "/v1/feedback", json=body, headers={"Idempotency-Key": key}
                )
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code in (200, 201):
                return
            if response is not None and response.status_code < 500:
                raise DeployError(f"the server refused a vote: {response.text}")
            await asyncio.sleep(min(0.25 * 2**attempt, 5))
        raise DeployError(
            f"a vote could not be sent in {_RETRIES} attempts; check that the server is running"
        )

    async def rate(self, rater: int, queue: "asyncio.Queue[str]", progress: Progress) -> None:
        """Vote as one rater until the queue is empty."""
        rng = random.Random(f"{self.plan.seed}/{rater}")
        while not queue.empty():
            await self.vote(queue.get_nowait(), rater, rng, progress)

    async def live_version(self, default: int) -> tuple[int, bool]:
        """Return the lowest version that the replicas serve, and whether a trial is running."""
        ready = await asyncio.gather(*(http.get("/readyz") for http in self.http_clients))
        states = [response.json() for response in ready]
        version = min(int(state.get("policy_version", default)) for state in states)
        return version, any("on_trial" in state for state in states)

    async def watch(self, progress: Progress, voting: "asyncio.Event") -> None:
        """Score each new version when it goes live; return when no further one is expected."""
        changed = time.monotonic()
        seen = progress.first_version
        deadline: float | None = None
        while True:
            await asyncio.sleep(1)
            live, trial = await self.live_version(seen)
            if live != seen:
                seen, changed = live, time.monotonic()
                progress.version = live
                await self.score(progress)
            if voting.is_set():
                deadline = deadline or time.monotonic() + self.plan.wait_seconds
                if trial and time.monotonic() < deadline:
                    await self.judge_trial(progress)
                    continue
                quiet = time.monotonic() - changed > self.plan.settle_seconds
                if (seen != progress.first_version and quiet) or time.monotonic() > deadline:
                    return
                progress.note = "all votes sent; waiting for new versions"

    async def judge_trial(self, progress: Progress) -> None:
        """Let every rater vote once more, because a trial is decided by votes."""
        progress.note = "a new version is on trial; raters vote until the trial is decided"
        rng = random.Random(f"{self.plan.seed}/{progress.votes}")
        raters = range(self.plan.raters)
        selected = [rng.choice(self.vote_prompts) for _ in raters]
        await asyncio.gather(
            *(self.vote(p, r, rng, progress) for p, r in zip(selected, raters, strict=True))
        )

    async def run(self, progress: Progress) -> None:
        """Sample the baseline, send all votes, and score the versions that follow."""
        progress.note = "sampling answers before the first vote"
        self.baseline, progress.first_version = await self.answers()
        progress.version = progress.first_version
        progress.note = "voting"
        queue: asyncio.Queue[str] = asyncio.Queue()
        for i in range(self.plan.comparisons):
            queue.put_nowait(self.vote_prompts[i % len(self.vote_prompts)])
        voted = asyncio.Event()
        watching = asyncio.create_task(self.watch(progress, voted))
        try:
            await asyncio.gather(*(self.rate(r, queue, progress) for r in range(self.plan.raters)))
            voted.set()
            await watching
            await self.score(progress)
        finally:
            watching.cancel()
        progress.note = "done"


async def _simulate(plan: Plan) -> Progress:
    progress = Progress(started=time.monotonic(), first_version=0, version=0)
    simulation = Simulation(plan)
    heading = f"{plan.raters} raters who prefer '{plan.preference}' answers"
    with Live(results_table(heading, progress), refresh_per_second=2) as live:
        running = asyncio.create_task(simulation.run(progress))
        while not running.done():
            await asyncio.wait([running], timeout=0.5)
            live.update(results_table(heading, progress))
        await running
        live.update(results_table(heading, progress))
    return progress


def simulate(plan: Plan) -> Progress:
    """Run a simulation and show it.

    Raises:
        DeployError: The server does not answer, or refuses a request.

    """
    try:
        return asyncio.run(_simulate(plan))
    except (openai.APIConnectionError, httpx.TransportError) as error:
        raise DeployError(
            f"no answer from {' or '.join(plan.urls)}: start it with 'plaudit up'"
        ) from error
    except openai.APIStatusError as error:
        raise DeployError(f"the server refused a chat request: {error.message}") from error
