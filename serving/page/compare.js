// Comparing several answers side by side, without showing which version gave which.
import { AnswerActions, AnswerText } from "./answer.js";
import { settle } from "./conversations.js";
import { Ranking } from "./ranking.js";
import { html, isTyping, LETTERS, useLayoutEffect, useMedia, useRef } from "./ui.js";
import { cast, refer } from "./votes.js";

const VERDICTS = { 1: "left", 2: "right", "=": "tie", 0: "both_bad" };

/** Send a vote on the answers on screen, and continue from `chosen`. */
function decide(parent, turn, makeFeedback, chosen) {
  if (turn.status !== "deciding") return; // a second key press before the first was rendered
  // A vote belongs to one completion; candidates of others are named with their completion id.
  const about = turn.candidates[Math.max(...turn.shown)];
  const named = (place) => refer(turn.candidates[place], about.completion_id);
  const more = { shown: turn.shown.map(named), decision_ms: Math.max(0, Date.now() - turn.ready) };
  cast(parent, turn, about, makeFeedback(named), more);
  settle(parent, turn, chosen);
}

function compare(parent, turn, verdict) {
  const [left, right] = turn.shown;
  const makeFeedback = (named) => ({
    kind: "comparison",
    left: named(left),
    right: named(right),
    verdict,
  });
  decide(parent, turn, makeFeedback, verdict === "right" ? right : left);
}

function rank(parent, turn, groups) {
  const makeFeedback = (named) => ({ kind: "ranking", groups: groups.map((g) => g.map(named)) });
  decide(parent, turn, makeFeedback, groups[0][0]);
}

/** The answers of a turn that are streaming or wait for a decision. */
export function Panel({ parent, turn, last, onDecided }) {
  const section = useRef(null);
  const narrow = useMedia("(max-width: 760px)"); // the answers scroll sideways then
  const deciding = turn.status === "deciding";
  const number = turn.shown.length;
  useLayoutEffect(() => {
    // Move the focus from the input to the answers, so that the keys 1, 2, = and 0 vote, unless the
    // user is writing something.
    const at = document.activeElement;
    const writing = Boolean(at?.value) || at?.closest("dialog");
    if (!deciding && !writing) section.current.focus({ preventScroll: true });
  }, []);
  const decided = (act) => {
    act();
    onDecided();
  };
  return html`
    <section class="panel" ref=${section} tabindex="-1" aria-label="Compare the answers">
      <div class="candidates" data-count=${number} role="group" aria-label="Answers"
        tabindex=${narrow ? 0 : undefined}>
        ${turn.shown.map(
          (place, i) => html`
            <${Candidate} key=${place} ...${{ parent, turn, place }} letter=${LETTERS[i]} />
          `,
        )}
      </div>
      ${deciding && number === 2 &&
      html`<${Verdicts} keys=${last}
        onVerdict=${(verdict) => decided(() => compare(parent, turn, verdict))} />`}
      ${deciding && number > 2 &&
      html`<${Ranking} places=${turn.shown} keys=${last}
        onRanked=${(groups) => decided(() => rank(parent, turn, groups))} />`}
      ${deciding &&
      html`
        <p class="note centred">
          <button type="button" class="link"
            onClick=${() => decided(() => settle(parent, turn, turn.shown[0]))}>
            Continue without voting
          </button>
        </p>
      `}
    </section>
  `;
}

function Candidate({ parent, turn, place, letter }) {
  const streaming = turn.status === "streaming";
  return html`
    <article class="candidate" data-letter=${letter} aria-label=${`Answer ${letter}`}>
      <p class="letter" aria-hidden="true">${letter}</p>
      <${AnswerText} candidate=${turn.candidates[place]} streaming=${streaming} />
      ${!streaming && html`<${AnswerActions} ...${{ parent, turn, place }} name=${letter} />`}
    </article>
  `;
}

function Verdicts({ keys, onVerdict }) {
  useLayoutEffect(() => {
    if (!keys) return undefined;
    const press = (event) => {
      if (isTyping(event) || event.repeat || !Object.hasOwn(VERDICTS, event.key)) return;
      event.preventDefault();
      onVerdict(VERDICTS[event.key]);
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  });
  const verdict = (key, label, extra = "") => html`
    <button type="button" class=${`verdict ${extra}`} aria-keyshortcuts=${key}
      onClick=${() => onVerdict(VERDICTS[key])}>
      <span>${label}</span><kbd aria-hidden="true">${key}</kbd>
    </button>
  `;
  return html`
    <div class="verdicts" role="group" aria-label="Which answer is better?">
      ${verdict("1", "A is better", "for-a")} ${verdict("=", "Tie")}
      ${verdict("0", "Both bad")} ${verdict("2", "B is better", "for-b")}
    </div>
  `;
}
