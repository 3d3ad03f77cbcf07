// The same prompts answered by two versions, from the samples in their reports.
import { Markdown } from "./markdown.js";
import { useReports } from "./reports.js";
import { html, useState } from "./ui.js";

/** Return a version's answers, from its own report (after) or from a child's (before). */
function answersOf(version, versions, reports) {
  const found = new Map();
  for (const { version: other, parent } of versions) {
    const samples = reports.get(other)?.samples ?? [];
    if (parent === version) for (const { prompt, before } of samples) found.set(prompt, before);
    if (other === version) for (const { prompt, after } of samples) found.set(prompt, after);
  }
  return found;
}

export function TwoVersions({ versions }) {
  const numbers = versions.map((v) => v.version);
  const [left, setLeft] = useState(null);
  const [right, setRight] = useState(null);
  const one = left ?? numbers[0];
  const two = right ?? numbers.at(-1);
  const needed = versions.filter(
    (v) => v.has_report && [v.version, v.parent].some((n) => n === one || n === two),
  );
  const reports = useReports(needed.map((v) => v.version));
  if (numbers.length < 2) return null;
  const [ones, twos] = [one, two].map((v) => answersOf(v, versions, reports));
  const prompts = [...ones.keys()].filter((prompt) => twos.has(prompt));
  const select = (label, value, set) => html`
    <label class="select"><span class="unseen">${label}</span>
      <select value=${value} onChange=${(event) => set(Number(event.target.value))}>
        ${numbers.map((n) => html`<option key=${n} value=${n} selected=${n === value}>
          Version ${n}
        </option>`)}
      </select>
    </label>
  `;
  return html`
    <section aria-labelledby="two-versions">
      <h2 id="two-versions">The same prompt, two versions</h2>
      <div class="two-heads">
        ${select("Left", one, setLeft)} ${select("Right", two, setRight)}
      </div>
      ${prompts.length
        ? prompts.map((prompt) => html`
            <article class="sample" key=${prompt}>
              <h3>${prompt}</h3>
              <div class="two">
                <div><${Markdown} text=${ones.get(prompt)} /></div>
                <div><${Markdown} text=${twos.get(prompt)} /></div>
              </div>
            </article>
          `)
        : html`<p class="muted empty">Their reports have no prompts in common.</p>`}
    </section>
  `;
}
