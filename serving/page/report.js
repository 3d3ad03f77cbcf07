// The report of one version.
import { LineChart } from "./charts.js";
import { EarlierQuestions } from "./earlier.js";
import { learning, liveVersion } from "./live.js";
import { Markdown } from "./markdown.js";
import { useReports } from "./reports.js";
import { count, html, Icon, joinWords, useStore } from "./ui.js";
import { votes } from "./votes.js";

const CRITERIA = {
  judge_gain_lower_bound: "Gain of the judge over chance, lower bound (95%), nats per vote",
  win_rate_lower_bound: "Win rate against the parent, lower bound (95%)",
  kl: "KL to the SFT policy, nats per answer",
  text_nll_increase: "Loss of text likelihood, nats per token",
  ended: "Share of finished answers",
  answer_nll_increase: "Loss of the answers under version 1, over its own, nats per token",
  worst_sentence_nll_increase: "The same for the worst sentence of each answer",
  distinct: "Share of distinct answers of four",
};
const FIGURES = {
  trained_on: "Training examples",
  pairs: "Held-out pairs",
  accuracy: "Held-out accuracy",
  lower_bound: "Its lower bound (95%)",
  calibration_error: "Calibration error",
  loss: "Held-out loss, nats per example",
  epochs: "Epochs",
  doubted_raters: "Raters of low reliability",
};
const CURVES = [
  ["score", "Reward (normalised)"],
  ["kl", "KL, nats per answer"],
  ["entropy", "Entropy, nats per token"],
  ["length", "Length, tokens"],
];

const words = (name) => name.replaceAll("_", " ");
// Figures that are not finite arrive as strings.
const number = (value) =>
  typeof value !== "number" ? String(value ?? "") : String(Number(value.toPrecision(4)));

export function Report({ version }) {
  const report = useReports([version]).get(version);
  const known = useStore(learning)?.versions.find((v) => v.version === version);
  const live = useStore(liveVersion);
  const yours = useStore(votes).filter((vote) => vote.learned_in === version).length;
  return html`
    <div class="view">
      <header class="view-head">
        <h1>Version ${version}</h1>
        <a class="back" href="#/learning"><${Icon} name="learning" />All versions</a>
      </header>
      <div class="view-body" tabindex="0" role="region" aria-label="Report">
        ${yours > 0 &&
        html`<p class="good-news">
          <${Icon} name="votes" /><span>
            ${count(yours, "vote")} of yours went into this version.${" "}
          <a href="#/votes">Your votes</a></span>
        </p>`}
        ${known && html`<p class="muted">
          ${known.parent ? `From version ${known.parent}. ` : "The first version. "}
          It learned from ${count(known.votes ?? 0, "vote")}.
        </p>`}
        ${version === live && html`<${EarlierQuestions} />`}
        ${report
          ? html`<${Whole} ...${report} />`
          : html`<p class="muted empty">
              ${report === null ? "This version has no report." : "Loading the report…"}
            </p>`}
      </div>
    </div>
  `;
}

function Whole({ made, cycle, tuned, base, criteria, data, figures, iterations, samples, parent }) {
  return html`
    <p class="muted">Cycle ${cycle}, ${new Date(made).toLocaleString("en")}. Base: ${base}. Trained:
      ${" "}${tuned || "nothing"}.</p>
    ${criteria.length > 0 && html`<${Criteria} criteria=${criteria} />`}
    ${data && html`<${Data} ...${data} />`}
    <${RewardModels} figures=${figures} />
    ${iterations.length > 0 && html`<${Curves} iterations=${iterations} />`}
    ${samples.length > 0 && html`<${Samples} ...${{ samples, parent }} />`}
  `;
}

const Criteria = ({ criteria }) => html`
  <section aria-labelledby="gate">
    <h2 id="gate">Gate</h2>
    <div class="scrolls" tabindex="0" role="group" aria-label="Criteria">
      <table>
        <thead><tr><th>Criterion</th><th>Figure</th><th>Bound</th><th>Verdict</th></tr></thead>
        <tbody>
          ${criteria.map((c) => html`<tr key=${c.name}>
            <th scope="row">${CRITERIA[c.name] ?? words(c.name)}</th>
            <td>${number(c.figure)}</td><td>${c.sense} ${number(c.bound)}</td>
            <td><span class="badge" data-state=${c.passed ? "live" : "refused"}>
              ${c.passed ? "pass" : "fail"}</span></td>
          </tr>`)}
        </tbody>
      </table>
    </div>
  </section>
`;

const summary = (counts) => joinWords(Object.entries(counts).map(([k, n]) => `${n} ${words(k)}`));

const Data = ({ votes: kinds, raters, opinions, prompts, held_out_prompts }) => html`
  <section aria-labelledby="data">
    <h2 id="data">Data</h2>
    <ul>
      <li>${count(Object.values(kinds).reduce((a, b) => a + b, 0), "vote")} of
        ${" "}${count(raters, "rater")}: ${summary(kinds)}</li>
      <li>Training examples: ${summary(opinions)}</li>
      <li>${count(prompts, "prompt")} for PPO, ${held_out_prompts} held out for the gate</li>
    </ul>
  </section>
`;

function RewardModels({ figures }) {
  const names = Object.keys(figures)
    .filter((name) => /^(reward|judge)_/.test(name))
    .map((name) => name.slice(name.indexOf("_") + 1));
  if (!names.length) return null;
  return html`
    <section aria-labelledby="reward-models">
      <h2 id="reward-models">Reward model and judge</h2>
      <div class="scrolls" tabindex="0" role="group" aria-label="Their figures">
        <table>
          <thead><tr><th>Figure</th><th>Reward model</th><th>Judge</th></tr></thead>
          <tbody>
            ${[...new Set(names)].map((name) => html`<tr key=${name}>
              <th scope="row">${FIGURES[name] ?? words(name)}</th>
              <td>${number(figures[`reward_${name}`])}</td>
              <td>${number(figures[`judge_${name}`])}</td>
            </tr>`)}
          </tbody>
        </table>
      </div>
    </section>
  `;
}

const Curves = ({ iterations }) => html`
  <section aria-labelledby="ppo">
    <h2 id="ppo">PPO</h2>
    <div class="charts">
      ${CURVES.map(([name, title]) => {
        const points = iterations.map((i) => ({ x: i.number, y: i[name] }));
        return html`<${LineChart} key=${name} title=${title} xLabel="iteration"
          series=${[{ name: title, points }]} />`;
      })}
    </div>
  </section>
`;

const Samples = ({ samples, parent }) => html`
  <section aria-labelledby="samples">
    <h2 id="samples">Before and after</h2>
    <p class="muted">Before: version ${parent}. Sampled as it is served, with one seed.</p>
    ${samples.map(({ prompt, before, after }) => html`
      <article class="sample" key=${prompt}>
        <h3>${prompt}</h3>
        <div class="two">
          <div><p class="tag">Before</p><${Markdown} text=${before} /></div>
          <div><p class="tag">After</p><${Markdown} text=${after} /></div>
        </div>
      </article>
    `)}
  </section>
`;
