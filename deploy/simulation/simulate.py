"""`plaudit simulate`: people who chat and vote through the public HTTP API, and a live table.

Before the first vote it samples answers to prompts that are never voted on; each later version
answers the same prompts, and is compared with them by the preference itself, without noise.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field

import httpx
import openai
from openai import AsyncOpenAI
from rich.live import Live
from rich.table import Table

from deploy.errors import DeployError
from deploy.simulation.raters import PREFERENCES, judge, prefers
from learner.corpus import prompts

MODEL = "plaudit"
THUMBS_SHARE = 0.08
CORRECTION_SHARE = 0.04
_RETRIES = 8


@dataclass(frozen=True)
class Plan:
    """What is simulated."""

    urls: tuple[str, ...]  # raters are spread over these
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


@dataclass
class Score:
    """One version, compared with the first on prompts not voted on."""

    version: int
    win_rate: float
    mean_words: float
    at_seconds: float
    votes: int


@dataclass
class Progress:
    """What the table shows."""

    started: float
    first_version: int
    version: int
    first_vote: float | None = None
    comparisons: int = 0
    other_votes: int = 0
    refused: int = 0
    scores: list[Score] = field(default_factory=list)
    note: str = ""

    @property
    def votes(self) -> int:
        """Votes of all kinds."""
        return self.comparisons + self.other_votes

    def since_first_vote(self) -> float:
        """Seconds since the first vote; 0 before it."""
        return 0.0 if self.first_vote is None else time.monotonic() - self.first_vote


class Simulation:
    """Raters against one endpoint."""

    def __init__(self, plan: Plan) -> None:
        if plan.preference not in PREFERENCES:
            names = ", ".join(sorted(PREFERENCES))
            raise DeployError(f"no preference '{plan.preference}'; there are {names}")
        self.plan = plan
        self.preference = PREFERENCES[plan.preference]
        headers = {"Authorization": f"Bearer {plan.api_key}"}
        self.https = [
            httpx.AsyncClient(base_url=url, timeout=60, headers=headers) for url in plan.urls
        ]
        self.clients = [
            AsyncOpenAI(
                base_url=f"{url}/v1", api_key=plan.api_key, timeout=120, max_retries=_RETRIES
            )
            for url in plan.urls
        ]
        rng = random.Random(plan.seed)
        self.vote_prompts = rng.sample(prompts("vote"), k=len(prompts("vote")))
        self.eval_prompts = rng.sample(prompts("eval"), k=plan.eval_prompts)
        self.baseline: list[str] = []

    async def ask(self, prompt: str, n: int, asker: int) -> tuple[str, list[str], int]:
        """Return completion id, answers and the policy version of one chat."""
        client = self.clients[asker % len(self.clients)]
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            n=n,
            max_tokens=self.plan.max_tokens,
        )
        version = int((answer.system_fingerprint or "policy-v0").removeprefix("policy-v"))
        return answer.id, [c.message.content or "" for c in answer.choices], version

    async def answers(self) -> tuple[list[str], int]:
        """Answer the prompts not voted on; give the answers and the highest version seen."""
        results = await asyncio.gather(
            *(self.ask(p, 1, i) for i, p in enumerate(self.eval_prompts))
        )
        return [texts[0] for _, texts, _ in results], max(v for _, _, v in results)

    async def score(self, progress: Progress) -> None:
        """Compare the live version with the first."""
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
        """Chat with two candidates and say which is better; now and then more."""
        completion_id, texts, version = await self.ask(prompt, 2, rater)
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
        """Send one vote; the same key on each try, so that it counts once."""
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
                replica = random.choice(self.https)  # any of them takes any vote
                response = await replica.post(
                    "/v1/feedback", json=body, headers={"Idempotency-Key": key}
                )
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code in (200, 201):
                return
            if response is not None and response.status_code < 500:
                raise DeployError(f"a vote was refused: {response.text}")
            await asyncio.sleep(min(0.25 * 2**attempt, 5))
        raise DeployError("a vote was not taken in eight tries; is the server up?")

    async def rate(self, rater: int, queue: "asyncio.Queue[str]", progress: Progress) -> None:
        """Be one rater until the queue is empty."""
        rng = random.Random(f"{self.plan.seed}/{rater}")
        while not queue.empty():
            await self.vote(queue.get_nowait(), rater, rng, progress)

    async def live(self, otherwise: int) -> tuple[int, bool]:
        """Return the version that all replicas serve, the lowest where they differ, and if a trial
        is on.
        """
        ready = await asyncio.gather(*(http.get("/readyz") for http in self.https))
        states = [response.json() for response in ready]
        version = min(int(state.get("policy_version", otherwise)) for state in states)
        return version, any("on_trial" in state for state in states)

    async def watch(self, progress: Progress, voting: "asyncio.Event") -> None:
        """Score each new version as it goes live; end when no later one comes."""
        changed = time.monotonic()
        seen = progress.first_version
        deadline: float | None = None
        while True:
            await asyncio.sleep(1)
            live, trial = await self.live(seen)
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
                progress.note = "all votes sent; waiting for what is learned from them"

    async def judge_trial(self, progress: Progress) -> None:
        """Let every rater vote once more: a version on trial waits for votes."""
        progress.note = "a new version is on trial; voting goes on until it is decided"
        rng = random.Random(f"{self.plan.seed}/{progress.votes}")
        raters = range(self.plan.raters)
        asked = [rng.choice(self.vote_prompts) for _ in raters]
        await asyncio.gather(
            *(self.vote(p, r, rng, progress) for p, r in zip(asked, raters, strict=True))
        )

    async def run(self, progress: Progress) -> None:
        """Sample the baseline, vote, and see what is learned."""
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


def table(plan: Plan, progress: Progress) -> Table:
    """Draw what is known so far."""
    seconds = time.monotonic() - progress.started
    view = Table(
        title=f"{plan.raters} raters who like '{plan.preference}' answers, {seconds:.0f} s",
        caption=progress.note,
    )
    columns = (
        "version",
        f"win rate over v{progress.first_version}",
        "mean words",
        "votes",
        "live after",
    )
    for column in columns:
        view.add_column(column, justify="right")
    view.add_row(f"v{progress.first_version}", "0.50", "", "0", "")
    for score in progress.scores:
        view.add_row(
            f"v{score.version}",
            f"{score.win_rate:.2f}",
            f"{score.mean_words:.0f}",
            str(score.votes),
            f"{score.at_seconds:.0f} s",
        )
    view.add_section()
    view.add_row(f"v{progress.version} live", "", "", f"{progress.votes} sent", "")
    return view


async def _simulate(plan: Plan) -> Progress:
    progress = Progress(started=time.monotonic(), first_version=0, version=0)
    simulation = Simulation(plan)
    with Live(table(plan, progress), refresh_per_second=2) as live:
        running = asyncio.create_task(simulation.run(progress))
        while not running.done():
            await asyncio.wait([running], timeout=0.5)
            live.update(table(plan, progress))
        await running
        live.update(table(plan, progress))
    return progress


def simulate(plan: Plan) -> Progress:
    """Run a simulation and show it.

    Raises:
        DeployError: The server is not there, or refuses a vote.

    """
    try:
        return asyncio.run(_simulate(plan))
    except (openai.APIConnectionError, httpx.TransportError) as error:
        raise DeployError(
            f"no answer from {' or '.join(plan.urls)}: start it with 'plaudit up'"
        ) from error
    except openai.APIStatusError as error:
        raise DeployError(f"the server refused a chat: {error.message}") from error
