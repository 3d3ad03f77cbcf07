// One answer: its text, and the feedback on it alone.
import { touch } from "./conversations.js";
import { Markdown } from "./markdown.js";
import { showToast } from "./toasts.js";
import { Dialog, html, Icon, IconButton, useRef, useState, useStore } from "./ui.js";
import { cast, undo, votes, votesOn } from "./votes.js";

const ENDS = {
  length: "Cut off at the token limit, which is in the settings.",
  abort: "Stopped.",
};

const BETTER =
  "The model learns to prefer your answer to its own. The conversation continues from yours.";

/** The text of a candidate received so far. */
export function AnswerText({ candidate, streaming }) {
  const going = streaming && candidate.finish === null;
  return html`
    <div class="answer-text" aria-live="polite" aria-busy=${going}>
      ${candidate.text
        ? html`<${Markdown} text=${candidate.text} />`
        : html`<p class="muted">${going ? html`<${Waiting} />` : "The answer is empty."}</p>`}
    </div>
    ${ENDS[candidate.finish] && html`<p class="note">${ENDS[candidate.finish]}</p>`}
  `;
}

const Waiting = () => html`<span class="waiting" role="img" aria-label="Waiting for the answer">
  <i></i><i></i><i></i>
</span>`;

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // The clipboard API is missing (plain HTTP) or not allowed.
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  showToast("Copied.");
}

function isAbout(vote, kind, candidate) {
  const { completion_id, feedback } = vote.body;
  return (
    feedback.kind === kind &&
    completion_id === candidate.completion_id &&
    feedback.choice === candidate.choice
  );
}

/** Copy, thumbs, comment, better answer. `name` distinguishes the answers of one turn. */
export function AnswerActions({ parent, turn, place, name = "", children }) {
  const candidate = turn.candidates[place];
  const given = votesOn(turn, useStore(votes));
  const rating = given.findLast((vote) => isAbout(vote, "rating", candidate));
  const [dialog, setDialog] = useState(null);
  const which = name && ` (${name})`;

  function rate(value) {
    if (rating) undo(rating);
    if (rating?.body.feedback.value !== value) {
      cast(parent, turn, candidate, { kind: "rating", choice: candidate.choice, value });
    }
  }
  const thumb = (value, label) => html`
    <${IconButton} icon=${value} label=${label + which}
      pressed=${rating?.body.feedback.value === value} onClick=${() => rate(value)} />
  `;
  return html`
    <div class="actions">
      ${thumb("up", "Good answer")} ${thumb("down", "Bad answer")}
      <${IconButton} icon="comment" label=${`Comment on this answer${which}`}
        onClick=${() => setDialog("comment")} />
      <${IconButton} icon="edit" label=${`Write a better answer${which}`}
        onClick=${() => setDialog("better")} />
      <${IconButton} icon="copy" label=${`Copy the answer${which}`}
        onClick=${() => copy(candidate.text)} />
      ${children}
    </div>
    ${dialog === "comment" &&
    html`<${Comment} ...${{ parent, turn, candidate }} onClose=${() => setDialog(null)} />`}
    ${dialog === "better" &&
    html`<${Better} ...${{ parent, turn, place }} text=${candidate.text}
      onClose=${() => setDialog(null)} />`}
  `;
}

/** Actions on an answer that the user wrote: change and copy. */
export function OwnActions({ parent, turn, place }) {
  const [editing, setEditing] = useState(false);
  return html`
    <div class="actions">
      <${IconButton} icon="edit" label="Change your answer" onClick=${() => setEditing(true)} />
      <${IconButton} icon="copy" label="Copy the answer" onClick=${() => copy(turn.own)} />
    </div>
    ${editing &&
    html`<${Better} ...${{ parent, turn, place }} text=${turn.own}
      onClose=${() => setEditing(false)} />`}
  `;
}

function TextDialog({ title, about, label, text = "", send, onSend, onClose }) {
  const field = useRef(null);
  const submit = (event) => {
    event.preventDefault();
    const written = field.current.value.trim();
    if (!written || written === text.trim()) return field.current.focus();
    onSend(written);
    onClose();
  };
  const keys = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };
  return html`
    <${Dialog} title=${title} onClose=${onClose}>
      <form onSubmit=${submit}>
        <p class="muted">${about}</p>
        <label class="field">
          <span>${label}</span>
          <textarea ref=${field} rows=${text ? 10 : 4} maxlength="32768" onKeyDown=${keys}
            defaultValue=${text} autofocus></textarea>
        </label>
        <div class="dialog-foot">
          <button type="button" onClick=${onClose}>Cancel</button>
          <button type="submit" class="primary"><${Icon} name="check" />${send}</button>
        </div>
      </form>
    <//>
  `;
}

function Comment({ parent, turn, candidate, onClose }) {
  const onSend = (text) =>
    cast(parent, turn, candidate, { kind: "comment", choice: candidate.choice, text });
  const about = "For the people who run this service; the model does not learn from comments.";
  return html`<${TextDialog} title="Comment" label="Your comment" send="Send comment"
    about=${about}
    onSend=${onSend} onClose=${onClose} />`;
}

function Better({ parent, turn, place, text: before, onClose }) {
  const candidate = turn.candidates[place];
  const onSend = (text) => {
    cast(parent, turn, candidate, { kind: "demonstration", choice: candidate.choice, text });
    if (turn !== parent.turns.at(-1)) return; // later messages refer to the old answer
    Object.assign(turn, { own: text, chosen: place, status: "settled" });
    touch(parent, turn);
  };
  return html`<${TextDialog} title="Write a better answer" label="Your answer" send="Send answer"
    about=${BETTER}
    text=${before} onSend=${onSend} onClose=${onClose} />`;
}
