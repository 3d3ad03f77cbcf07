// The user's questions that an earlier version answered: they can be asked again and compared.
import { branch, conversations, revision } from "./conversations.js";
import { regenerate } from "./generation.js";
import { liveVersion } from "./live.js";
import { ago, html, useStore } from "./ui.js";

const SHOWN = 8;
const VOTABLE = 29 * 24 * 3600 * 1000; // milliseconds; later the server takes no more votes

/** Return the version that gave a turn's answer if another one is live now, else 0. */
export function earlierVersion(turn, live) {
  const { version = 0 } = turn.candidates[turn.chosen] ?? {};
  const settled = turn.status === "settled" && turn.own === null;
  const compared = turn.candidates.some((candidate) => candidate.version === live);
  const votable = Date.now() - turn.ready < VOTABLE;
  return settled && !compared && votable && version < live ? version : 0;
}

/** Ask a turn's question again, and show the new answer beside the earlier one. */
export function compareWithLive(parent, turn) {
  // An earlier turn stays as it is, since the later ones go on from its answer.
  const into = turn === parent.turns.at(-1) ? parent : branch(parent, turn);
  regenerate(into, into.turns.at(-1));
  location.hash = `#/c/${into.id}`;
}

/** Return the latest turns that an earlier version answered, one for each question. */
function earlierTurns(live) {
  const found = new Map();
  for (const parent of conversations.get()) {
    for (const turn of parent.turns.toReversed()) {
      if (earlierVersion(turn, live) && !found.has(turn.prompt)) {
        found.set(turn.prompt, { parent, turn });
      }
    }
  }
  return [...found.values()].slice(0, SHOWN);
}

export function EarlierQuestions() {
  useStore(conversations);
  useStore(revision);
  const live = useStore(liveVersion);
  const found = earlierTurns(live);
  if (!found.length) return null;
  return html`
    <section aria-labelledby="earlier">
      <h2 id="earlier">Your own questions, answered by version ${live}</h2>
      <p class="muted">An earlier version answered these. Ask again, and see both answers side by
        side, without knowing which is which; your vote counts.</p>
      <ul class="votes">
        ${found.map(({ parent, turn }) => html`<li key=${turn.id}>
          <span class="votes-prompt">${turn.prompt}${" "}
            <span class="muted">version ${earlierVersion(turn, live)}, ${ago(turn.ready)}</span>
          </span>
          <button type="button" onClick=${() => compareWithLive(parent, turn)}>
            Compare with what it said before</button>
        </li>`)}
      </ul>
    </section>
  `;
}
