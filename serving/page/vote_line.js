// A vote as it is shown: what was said, what became of it, and its undo.
import { conversation, reopen, touch } from "./conversations.js";
import { html, LETTERS, useStore } from "./ui.js";
import { undo, votes, votesOn } from "./votes.js";

const shortened = (text) => (text.length > 80 ? `${text.slice(0, 79)}…` : text);

/** How a vote reads: letters are places on screen, left to right. */
export function described({ feedback, shown = [] }) {
  const letter = (choice) =>
    LETTERS[shown.findIndex((other) => JSON.stringify(other) === JSON.stringify(choice))] ?? "?";
  switch (feedback.kind) {
    case "comparison":
      return {
        left: "A is better than B",
        right: "B is better than A",
        tie: "A and B are equally good",
        both_bad: "A and B are both bad",
      }[feedback.verdict];
    case "ranking":
      return `Ranked ${feedback.groups.map((g) => g.map(letter).sort().join(" = ")).join(" > ")}`;
    case "rating":
      return feedback.value === "up" ? "Good answer" : "Bad answer";
    case "demonstration":
      return "A better answer, written by you";
    case "comment":
      return `Comment: “${shortened(feedback.text)}”`;
    default:
      return feedback.kind;
  }
}

/** What became of a vote. */
export function fate(vote) {
  if (vote.undo) return { name: "undoing", text: "being taken back" };
  if (vote.state === "undone") return { name: "undone", text: "taken back" };
  if (vote.state === "refused") return { name: "refused", text: `not taken: ${vote.problem}` };
  if (vote.state === "unsent") return { name: "unsent", text: "waiting to be sent" };
  const stored = storedFate(vote);
  return vote.problem ? { ...stored, text: `${stored.text}; not undone: ${vote.problem}` } : stored;
}

function storedFate({ learned_in, superseded, body }) {
  if (learned_in) return { name: "learned", text: `learned in version ${learned_in}` };
  if (superseded) return { name: "done", text: "replaced by a later vote" };
  if (body.feedback.kind === "comment") return { name: "done", text: "stored, to be read" };
  return { name: "stored", text: "stored, not learned from yet" };
}

/** Whether a vote decided between the answers that are on screen, and not between earlier ones. */
const decides = (vote, turn) =>
  ["comparison", "ranking"].includes(vote.body.feedback.kind) && vote.made >= turn.ready;

/** Take a vote back; a decision on the last answers of a conversation is open again then. */
export function takeBack(vote) {
  undo(vote);
  const parent = conversation(vote.conversation);
  const turn = parent?.turns.at(-1);
  if (turn?.id !== vote.turn || turn.status !== "settled") return;
  const wrote = vote.body.feedback.kind === "demonstration";
  const written = votesOn(turn).findLast(({ body }) => body.feedback.kind === "demonstration");
  if (wrote) turn.own = written?.body.feedback.text ?? null;
  const undecided = turn.shown.length > 1 && !votesOn(turn).some((other) => decides(other, turn));
  if (undecided && turn.own === null && (wrote || decides(vote, turn))) reopen(parent, turn);
  else touch(parent, turn);
}

export function VoteLine({ vote }) {
  const { name, text } = fate(vote);
  const undoable = vote.state !== "undone" && !vote.undo;
  return html`
    <span class="vote" data-fate=${name}>
      <span class="vote-said">${described(vote.body)}</span>
      <span class="vote-fate">${text}</span>
      ${undoable &&
      html`<button type="button" class="link" onClick=${() => takeBack(vote)}
        aria-label=${`Undo: ${described(vote.body)}`}>Undo</button>`}
    </span>
  `;
}

/** The votes on a turn. */
export function TurnVotes({ turn }) {
  const given = votesOn(turn, useStore(votes));
  if (!given.length) return null;
  return html`<ul class="turn-votes" aria-label="Your votes">
    ${given.map((vote) => html`<li key=${vote.key}><${VoteLine} vote=${vote} /></li>`)}
  </ul>`;
}
