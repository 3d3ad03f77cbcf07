// The learning view: the state of the loop, the figures of each version, and the gate's decisions.
import { Bars, LineChart } from "./charts.js";
import { EarlierQuestions } from "./earlier.js";
import { Lineage } from "./lineage.js";
import { learning } from "./live.js";
import { Loop } from "./loop.js";
import { useReports } from "./reports.js";
import { TwoVersions } from "./two_versions.js";
import { ago, count, html, joinWords, percent, useStore } from "./ui.js";

const KINDS = {
  comparison: "Comparisons",
  ranking: "Rankings",
  rating: "Thumbs",
  score: "Scores",
  demonstration: "Better answers",
  comment: "Comments",
};
const CURVES = 5; // of reward against KL: the latest versions with a report
export const STATES = {
  live: "live",
  published: "published",
  on_trial: "on trial",
  rolled_back: "rolled back",
  waiting: "held back",
};

export function Learning() {
  const snapshot = useStore(learning);
  return html`
    <div class="view">
      <header class="view-head"><h1>Learning</h1></header>
      <div class="view-body" tabindex="0" role="region" aria-label="Learning">
        ${snapshot
          ? html`<${Snapshot} ...${snapshot} />`
          : html`<p class="muted empty">The server has not reported on its learner yet.</p>`}
      </div>
    </div>
  `;
}

function Snapshot({ live, on_trial, held, loop, votes, versions, refused, costs }) {
  const figures = (name) =>
    versions.map((v) => ({ x: v.version, y: v.figures?.[name] })).filter((p) => p.y !== undefined);
  const wins = versions.map((v) => ({
    x: v.version,
    y: v.figures?.win_rate,
    low: v.figures?.win_rate_lower_bound,
  }));
  const perplexity = figures("text_nll").map(({ x, y }) => ({ x, y: Math.exp(y) }));
  const versionChart = { xLabel: "version", whole: true };
  const ratio = { range: [0, 1], format: percent };
  return html`
    <section class="tiles" aria-label="Now">
      <${Tile} label="Live" value=${live ? `Version ${live}` : "None"} />
      ${on_trial && html`<${Tile} label="On trial" value=${`Version ${on_trial}`} />`}
      <${Tile} label="Votes" value=${votes.total.toLocaleString("en")} />
      <${Tile} label="Not yet learned from" value=${votes.waiting.toLocaleString("en")} />
    </section>
    ${held &&
    html`<p class="problem">Publishing is held: no new version goes live until an operator resumes
      publishing.</p>`}
    <${Loop} ...${loop} />
    ${costs && html`<p class="muted">${costs}</p>`}
    <${EarlierQuestions} />
    <section aria-label="Figures" class="charts">
      <${LineChart} title="Win rate according to the judge" ...${versionChart} ...${ratio}
        level=${{ y: 0.5, label: "Dashed: no better. Whiskers: lower bound (95%)." }}
        series=${[
          { name: "against version 1", points: figures("win_rate_over_first") },
          { name: "against the parent", points: wins },
        ]} />
      <${LineChart} title="Reward model, on held-out votes" ...${versionChart} ...${ratio}
        series=${[
          { name: "accuracy", points: figures("reward_accuracy") },
          { name: "calibration error", points: figures("reward_calibration_error") },
        ]} />
      <${RewardAgainstKl} versions=${versions} />
      <${LineChart} title="Text perplexity, held out" ...${versionChart}
        series=${[{ name: "perplexity", points: perplexity }]} />
      <${LineChart} title="KL to the SFT policy, nats per answer" ...${versionChart}
        series=${[{ name: "KL", points: figures("kl") }]} />
      <${Bars} title="Votes by kind" bars=${Object.entries(votes.kinds).map(
        ([kind, number]) => [KINDS[kind] ?? kind, number],
      )} />
    </section>
    <${Lineage} ...${{ versions, live }} />
    <${Verdicts} ...${{ versions, refused }} />
    <${TwoVersions} versions=${versions} />
  `;
}

const Tile = ({ label, value }) => html`
  <div class="tile"><span class="muted">${label}</span><strong>${value}</strong></div>
`;

function RewardAgainstKl({ versions }) {
  const numbers = versions.filter((v) => v.has_report).map((v) => v.version).slice(-CURVES);
  const reports = useReports(numbers);
  const series = numbers
    .filter((number) => reports.get(number)?.iterations)
    .map((number) => ({
      name: `version ${number}`,
      points: reports.get(number).iterations.map(({ kl, score }) => ({ x: kl, y: score })),
    }));
  return html`<${LineChart} title="Reward against KL during PPO"
    xLabel="KL to the SFT policy, nats per answer" series=${series} />`;
}

function kindsOf(votes = {}) {
  const named = ([kind, number]) => `${number} ${(KINDS[kind] ?? kind).toLowerCase()}`;
  return joinWords(Object.entries(votes).map(named));
}

function Verdicts({ versions, refused }) {
  const published = versions.filter((v) => v.parent).map((v) => ({ ...v, passed: true }));
  const all = [...published, ...refused].sort((a, b) => b.created - a.created);
  return html`
    <section aria-labelledby="verdicts">
      <h2 id="verdicts">Decisions of the gate</h2>
      ${all.length
        ? html`<ul class="verdict-list">
            ${all.map((one) => html`<${Verdict} key=${one.created} ...${one} />`)}
          </ul>`
        : html`<p class="muted empty">No candidate has reached the gate yet.</p>`}
    </section>
  `;
}

function Verdict(one) {
  const rate = one.figures?.win_rate;
  const won = rate !== undefined && ` It wins ${percent(rate)} of comparisons.`;
  return html`
    <li data-passed=${Boolean(one.passed)}>
      <div class="verdict-head">
        <strong>${one.passed
          ? html`<a href=${`#/learning/${one.version}`}>Version ${one.version}</a>`
          : "Refused"}</strong>
        <span class="badge" data-state=${one.state ?? "refused"}>
          ${one.passed ? STATES[one.state] ?? one.state : "not published"}
        </span>
        <span class="muted">from version ${one.parent}, ${ago(one.created * 1000)}</span>
      </div>
      ${one.passed
        ? html`<p>It learned from ${count(one.votes ?? 0, "vote")}
            ${kindsOf(one.from_votes) && html` (${kindsOf(one.from_votes)})`}.${won}</p>`
        : html`<ul class="reasons">${one.reasons.map((r) => html`<li key=${r}>${r}</li>`)}</ul>`}
    </li>
  `;
}
