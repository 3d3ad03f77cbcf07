// A vote as it is shown: its content, its status, and its undo.
import { conversation, reopen, touch } from "./conversations.js";
import { html, LETTERS, useStore } from "./ui.js";
import { undo, votes, votesOn } from "./votes.js";

const shortened = (text) => (text.length > 80 ? `${text.slice(0, 79)}…` : text);

/** Describe a vote in words; letters are positions on screen, left to right. */
export function describeVote({ feedback, shown = [] }) {
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

/** Return the status of a vote. */
export function voteStatus(vote) {
  if (vote.undo) return { name: "undoing", text: "being undone" };
  if (vote.state === "undone") return { name: "undone", text: "undone" };
  if (vote.state === "refused") return { name: "refused", text: `rejected: ${vote.problem}` };
  if (vote.state === "unsent") return { name: "unsent", text: "waiting to be sent" };
  const stored = storedFate(vote);
  return vote.problem ? { ...stored, text: `${stored.text}; not undone: ${vote.problem}` } : stored;
}

function storedFate({ learned_in, superseded, body }) {
  if (learned_in) return { name: "learned", text: `learned in version ${learned_in}` };
  if (superseded) return { name: "done", text: "replaced by a later vote" };
  if (body.feedback.kind === "comment") return { name: "done", text: "stored for the operators" };
  return { name: "stored", text: "stored, not learned from yet" };
}

/** Whether a vote decided between the answers on screen rather than between earlier ones. */
const decides = (vote, turn) =>
  ["comparison", "ranking"].includes(vote.body.feedback.kind) && vote.made >= turn.ready;

/** Undo a vote; a decision on the last answers of a conversation is reopened. */
export function takeBack(vote) {
  undo(vote);
  const parent = conversation(vote.conversation);
  const turn = parent?.turns.at(-1);
  if (turn?.id !== vote.turn || turn.status !== "settled") return;
  const isDemonstration = vote.body.feedback.kind === "demonstration";
  const written = votesOn(turn).findLast(({ body }) => body.feedback.kind === "demonstration");
  if (isDemonstration) turn.own = written?.body.feedback.text ?? null;
  const undecided = turn.shown.length > 1 && !votesOn(turn).some((other) => decides(other, turn));
  const decided = isDemonstration || decides(vote, turn);
  if (undecided && turn.own === null && decided) reopen(parent, turn);
  else touch(parent, turn);
}

export function VoteLine({ vote }) {
  const { name, text } = voteStatus(vote);
  const undoable = vote.state !== "undone" && !vote.undo;
  return html`
    <span class="vote" data-fate=${name}>
      <span class="vote-said">${describeVote(vote.body)}</span>
      <span class="vote-fate">${text}</span>
      ${undoable &&
      html`<button type="button" class="link" onClick=${() => takeBack(vote)}
        aria-label=${`Undo: ${describeVote(vote.body)}`}>Undo</button>`}
    </span>
  `;
}

/** The effective votes on a turn. */
export function TurnVotes({ turn }) {
  const given = votesOn(turn, useStore(votes));
  if (!given.length) return null;
  return html`<ul class="turn-votes" aria-label="Your votes">
    ${given.map((vote) => html`<li key=${vote.key}><${VoteLine} vote=${vote} /></li>`)}
  </ul>`;
}
