// The stages of the learning loop, and the current one.
import { count, html, useEffect, useState } from "./ui.js";

const STAGES = [
  ["waiting", "Votes", "collects votes until there are enough"],
  ["reward", "Reward model", "learns what people prefer"],
  ["judge", "Judge", "a linear model of people's preferences, from all votes"],
  ["ppo", "PPO", "trains the policy for the reward"],
  ["gate", "Gate", "checks that the candidate is better"],
  ["publish", "Publish", "sends the version to the servers"],
  ["trial", "Trial", "votes decide between two versions"],
];
const OTHER_STAGES = {
  standby: "Another learner leads; this one stands by.",
  unknown: "The learner does not report its stage.",
};

function duration(since) {
  const seconds = Math.max(0, Math.floor(Date.now() / 1000 - since));
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

/** How many votes the next cycle still needs, and why. */
function Missing({ missing, reason }) {
  if (!missing) {
    return html`<p class="missing"><strong>There are enough votes for the next cycle.</strong>
      ${" "}The learner looks at them now.</p>`;
  }
  return html`<p class="missing"><strong>The next cycle needs about ${count(missing, "more vote")}.
    </strong> ${reason}</p>`;
}

export function Loop({ stage, cycle, since, iteration, iterations, votes_missing, reason }) {
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  const now = STAGES.findIndex(([name]) => name === stage);
  const detail = stage === "ppo" && iterations ? `iteration ${iteration} of ${iterations}, ` : "";
  return html`
    <section aria-labelledby="loop">
      <h2 id="loop">The loop${cycle ? html`<span class="muted">, cycle ${cycle}</span>` : ""}</h2>
      ${OTHER_STAGES[stage] && html`<p class="muted">${OTHER_STAGES[stage]}</p>`}
      ${stage === "waiting" && typeof votes_missing === "number" &&
      html`<${Missing} missing=${votes_missing} reason=${reason} />`}
      <ol class="loop">
        ${STAGES.map(
          ([name, title, what], place) => html`
            <li key=${name} data-now=${place === now} data-done=${now > 0 && place < now}
              aria-current=${place === now ? "step" : undefined}>
              <strong>${title}</strong>
              <span class="muted">${place === now && since
                ? `${detail}${duration(since)}`
                : what}</span>
            </li>
          `,
        )}
      </ol>
    </section>
  `;
}
