// A turn: a prompt and its answers.
import { AnswerActions, AnswerText, OwnActions } from "./answer.js";
import { Panel } from "./compare.js";
import { rewind } from "./conversations.js";
import { compareWithLive, earlierVersion } from "./earlier.js";
import { answer, ask, regenerate, stop } from "./generation.js";
import { liveVersion } from "./live.js";
import { Markdown } from "./markdown.js";
import { settings } from "./settings.js";
import { showToast } from "./toasts.js";
import {
  html, Icon, IconButton, LETTERS, useLayoutEffect, useMemo, useRef, useState, useStore,
} from "./ui.js";
import { TurnVotes } from "./vote_line.js";

export function Turn({ parent, turn, onDecided }) {
  const last = turn === parent.turns.at(-1);
  const live = useStore(liveVersion);
  const several = turn.shown.length > 1 && turn.status !== "settled";
  // Reuse the nodes, which saves comparing them, unless the turn itself has changed.
  return useMemo(() => html`
    <div class="turn" data-status=${turn.status}>
      <${Prompt} ...${{ parent, turn }} />
      ${several
        ? html`<${Panel} key=${turn.candidates.length} ...${{ parent, turn, last, onDecided }} />`
        : html`<${Single} ...${{ parent, turn, last, live }} />`}
      <${TurnVotes} turn=${turn} />
      ${turn.error &&
      html`<p class="problem" role="alert">${turn.error.message}
        ${turn.status === "waiting" && " Your message is sent as soon as possible."}</p>`}
    </div>
  `, [turn, turn.revision, last, live]);
}

function Prompt({ parent, turn }) {
  const [editing, setEditing] = useState(false);
  const field = useRef(null);
  useLayoutEffect(() => field.current?.focus(), [editing]);
  if (!editing) {
    return html`
      <div class="prompt">
        <p class="prompt-text">${turn.prompt}</p>
        <${IconButton} icon="edit" label="Edit and send again" onClick=${() => setEditing(true)} />
      </div>
    `;
  }
  const submit = (event) => {
    event.preventDefault();
    const prompt = field.current.value.trim();
    if (!prompt) return;
    resend(parent, turn, prompt);
  };
  const keys = (event) => {
    if (event.key === "Escape") setEditing(false);
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`
    <form class="prompt-edit" onSubmit=${submit}>
      <textarea ref=${field} aria-label="Your message" rows="3" defaultValue=${turn.prompt}
        onKeyDown=${keys}></textarea>
      <div class="row-end">
        <button type="button" onClick=${() => setEditing(false)}>Cancel</button>
        <button type="submit" class="primary">Send</button>
      </div>
    </form>
  `;
}

/** Send an edited prompt; this turn and later ones are removed, and can be restored. */
function resend(parent, turn, prompt) {
  const removed = parent.turns.slice(parent.turns.indexOf(turn));
  for (const each of removed) stop(parent, each);
  const restore = rewind(parent, turn);
  ask(parent, prompt);
  const undo = () => {
    for (const each of parent.turns) stop(parent, each);
    restore();
  };
  showToast("Sent again; the later messages were removed.", { label: "Restore them", run: undo });
}

/** The settled answer, with the others in a collapsed section. */
function Single({ parent, turn, last, live }) {
  const place = turn.chosen ?? turn.shown[0];
  const candidate = turn.candidates[place];
  const streaming = turn.status === "streaming";
  if (!candidate) {
    if (turn.status === "waiting") return null;
    const again = () => answer(parent, turn, settings.get().answers);
    return html`<p class="note">
      No answer. ${last &&
      html`<button type="button" class="link" onClick=${again}>Ask again</button>`}
    </p>`;
  }
  const own = turn.own !== null;
  const others = turn.shown.filter((other) => own || other !== place);
  return html`
    <article class="answer" aria-label="Answer">
      ${own
        ? html`
            <p class="tag"><${Icon} name="edit" size="14" />Your answer</p>
            <div class="answer-text"><${Markdown} text=${turn.own} /></div>
            <div class="answer-foot"><${OwnActions} ...${{ parent, turn, place }} /></div>
          `
        : html`<${AnswerText} candidate=${candidate} streaming=${streaming} />`}
      ${!own && !streaming &&
      html`
        <div class="answer-foot">
          <${AnswerActions} ...${{ parent, turn, place }}>
            ${last && turn.status === "settled" &&
            html`<${IconButton} icon="again" label="Regenerate and compare"
              onClick=${() => regenerate(parent, turn)} />`}
          <//>
          ${candidate.version > 0 &&
          html`<span class="version">version ${candidate.version}</span>`}
          ${earlierVersion(turn, live) > 0 &&
          html`<button type="button" class="link" onClick=${() => compareWithLive(parent, turn)}>
            Compare with version ${live}</button>`}
        </div>
      `}
      ${others.length > 0 && html`<${Others} ...${{ parent, turn, others }} />`}
    </article>
  `;
}

function Others({ parent, turn, others }) {
  const letter = (place) => LETTERS[turn.shown.indexOf(place)];
  return html`
    <details class="others">
      <summary>${others.length === 1 ? "The other answer" : `The other ${others.length} answers`}
      </summary>
      ${others.map(
        (place) => html`
          <article key=${place} class="candidate" data-letter=${letter(place)}
            aria-label=${`Answer ${letter(place)}`}>
            <p class="letter" aria-hidden="true">${letter(place)}</p>
            <${AnswerText} candidate=${turn.candidates[place]} />
            <${AnswerActions} ...${{ parent, turn, place }} name=${letter(place)} />
          </article>
        `,
      )}
    </details>
  `;
}
