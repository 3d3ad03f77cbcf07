// The loop's stages, and where it is now.
import { html, useEffect, useState } from "./ui.js";

const STAGES = [
  ["waiting", "Votes", "collects votes until there are enough"],
  ["reward", "Reward model", "learns what people prefer"],
  ["judge", "Judge", "a second opinion, of votes kept apart"],
  ["ppo", "PPO", "trains the policy for the reward"],
  ["gate", "Gate", "is the candidate better, and still sound?"],
  ["publish", "Publish", "goes to the servers, live in a moment"],
  ["trial", "Trial", "people's votes decide in a duel"],
];
const ELSEWHERE = {
  standby: "Another learner leads; this one stands by.",
  unknown: "The learner does not tell where it is.",
};

function lasted(since) {
  const seconds = Math.max(0, Math.floor(Date.now() / 1000 - since));
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

export function Loop({ stage, cycle, since, iteration, iterations }) {
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
      ${ELSEWHERE[stage] && html`<p class="muted">${ELSEWHERE[stage]}</p>`}
      <ol class="loop">
        ${STAGES.map(
          ([name, title, what], place) => html`
            <li key=${name} data-now=${place === now} data-done=${now > 0 && place < now}
              aria-current=${place === now ? "step" : undefined}>
              <strong>${title}</strong>
              <span class="muted">${place === now && since
                ? `${detail}${lasted(since)}`
                : what}</span>
            </li>
          `,
        )}
      </ol>
    </section>
  `;
}
