// The chat: a conversation, and the field under it.
import { Composer } from "./composer.js";
import {
  conversation, conversations, create, isOpen, revision, settle,
} from "./conversations.js";
import { ask, stop } from "./generation.js";
import { nextChat, Options } from "./options.js";
import { settings } from "./settings.js";
import { Turn } from "./turn.js";
import {
  html, IconButton, LETTERS, joinWords, useEffect, useLayoutEffect, useRef, useState, useStore,
} from "./ui.js";

const IDEAS = [
  "Where does an owl live?",
  "How can I make coffee?",
  "I feel tired today.",
  "Tell me about the sea.",
];
const NEAR = 80; // pixels within which the user has not scrolled away
const GAP = 16; // pixels above the last turn

export function Chat({ id }) {
  useStore(revision);
  useStore(conversations);
  const parent = conversation(id);
  const [options, setOptions] = useState(false);
  const field = useRef(null);
  const turn = parent?.turns.at(-1);
  const running = isOpen(turn);
  const thread = useFollowing(parent);
  const deciding = turn?.status === "deciding";

  const send = (prompt) => {
    const into = parent ?? create(nextChat.system);
    if (turn?.status === "deciding") settle(parent, turn, turn.shown[0]); // without a vote
    ask(into, prompt);
    if (into !== parent) location.hash = `#/c/${into.id}`;
  };
  const decided = () => matchMedia("(hover: hover)").matches && field.current.focus();
  const hint = deciding ? "Vote above, or continue with answer A…" : "Ask something…";
  return html`
    <div class="chat">
      <header class="view-head">
        <h1>${parent?.title ?? "New chat"}</h1>
        <${IconButton} icon="settings" label="Chat settings"
          onClick=${() => setOptions(true)} />
      </header>
      <div class="thread" ref=${thread} tabindex="0" role="region" aria-label="Conversation">
        ${parent?.turns.length
          ? parent.turns.map((t) => html`<${Turn} key=${t.id} ...${{ parent, turn: t }}
              onDecided=${decided} />`)
          : html`<${Welcome} onIdea=${send} />`}
      </div>
      <${Announcer} turn=${turn} />
      <${Composer} id=${id ?? ""} ...${{ running, hint, field }} onSend=${send}
        onStop=${() => stop(parent, turn)} />
      ${options && html`<${Options} parent=${parent} onClose=${() => setOptions(false)} />`}
    </div>
  `;
}

/**
 * Keep the end in view while an answer grows (and the start of answers side by side), unless the
 * user has scrolled away.
 */
function useFollowing(parent) {
  const thread = useRef(null);
  const following = useRef(true);
  const goal = () => {
    const { scrollHeight, clientHeight, lastElementChild: turn, offsetTop } = thread.current;
    const end = scrollHeight - clientHeight;
    return turn?.querySelector(".panel") ? Math.min(end, turn.offsetTop - offsetTop - GAP) : end;
  };
  const follow = () => thread.current.scrollTo({ top: goal() });
  useEffect(() => {
    const element = thread.current;
    const onScroll = () => (following.current = Math.abs(element.scrollTop - goal()) < NEAR);
    element.addEventListener("scroll", onScroll, { passive: true });
    return () => element.removeEventListener("scroll", onScroll);
  }, []);
  useLayoutEffect(follow, [parent, parent?.turns.length]);
  useLayoutEffect(() => {
    if (following.current) follow();
  });
  return thread;
}

function Welcome({ onIdea }) {
  const { answers } = useStore(settings);
  return html`
    <div class="welcome">
      <h2>Ask. Compare. Teach.</h2>
      <p class="muted">
        ${answers > 1
          ? `You get ${answers} answers to a question. Say which is better,`
          : "Say what you think of an answer,"}
        ${" "}and the model learns from it.
      </p>
      <ul class="ideas">
        ${IDEAS.map((idea) => html`<li key=${idea}>
          <button type="button" onClick=${() => onIdea(idea)}>${idea}</button>
        </li>`)}
      </ul>
    </div>
  `;
}

/** Announce progress to screen readers, without reading every word of several answers. */
function Announcer({ turn }) {
  const number = turn?.shown.length ?? 0;
  let text = "";
  if (turn?.status === "streaming") {
    text = number > 1 ? `${number} answers are being written.` : "The answer is being written.";
  } else if (turn?.status === "deciding") {
    const names = joinWords(LETTERS.slice(0, number));
    const how = number === 2
      ? "Press 1 for A, 2 for B, the equals sign for a tie, 0 if both are bad."
      : "Press a letter and then its rank; Enter sends the order.";
    text = `Answers ${names} are complete. ${how}`;
  }
  return html`<p class="unseen" role="status">${text}</p>`;
}
