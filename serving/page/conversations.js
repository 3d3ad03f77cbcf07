// Conversations, kept in this browser.
//
// A conversation is {id, title, created, updated, system, turns}; a turn is
//   {id, prompt, system, candidates, shown, status, ready, error, chosen, own}
//   candidates: [{completion_id, choice, text, finish, version}], never reordered
//   shown:      indices of the candidates on screen, left to right
//   status:     "waiting" (for the server), "streaming", "deciding" (several answers, no vote yet)
//               or "settled"
//   ready:      when all answers were complete, in milliseconds; later if the page was hidden
//   error:      null or {message}: answers are missing or incomplete
//   chosen:     index of the candidate that the conversation continues from
//   own:        a better answer written by the user, or null
// Conversations are changed in place. `touch` notifies the views, at most once per frame, and other
// tabs once the change is stored. They read it again unless they are changing it themselves.
import * as database from "./database.js";
import { onTabMessage, postToTabs } from "./tabs.js";
import { showToast } from "./toasts.js";
import { createStore, randomId } from "./ui.js";

const SAVE_PAUSE = 400; // milliseconds
const FULL = "This browser's storage is full: new messages are lost when you close the page.";
const TITLE_LENGTH = 60;
const ANSWER_PAUSE = 200; // milliseconds for other tabs to report their turns

/** All conversations, latest first; a new array whenever one is added, removed or moved. */
export const conversations = createStore([]);
/** Counts changes within conversations. */
export const revision = createStore(0);
export const loaded = createStore(false);

/** Ids of the turns whose answers this tab requests. */
export const working = new Set();

const unsaved = new Map();
const changes = new Map(); // id -> number of changes by this tab
const elsewhere = new Set(); // ids of turns that another tab works on
let saving = null;
let drawing = false;
let full = false;

export const conversation = (id) => conversations.get().find((c) => c.id === id) ?? null;

function inOrder(all) {
  return [...all].sort((a, b) => b.updated - a.updated);
}

/** Whether a turn's answers are incomplete. */
export const isOpen = (turn) => ["waiting", "streaming"].includes(turn?.status);

/** Return the incomplete ones of `turns` that no tab works on. */
export async function abandoned(turns) {
  if (!turns.some(isOpen)) return [];
  elsewhere.clear();
  postToTabs({ kind: "whose" });
  await new Promise((resolve) => setTimeout(resolve, ANSWER_PAUSE));
  return turns.filter((turn) => isOpen(turn) && !elsewhere.has(turn.id) && !working.has(turn.id));
}

/**
 * Read the stored conversations. An answer that was streaming when its page closed counts as
 * stopped; a message that waited for the server keeps waiting here.
 */
export async function load() {
  const all = await database.readAll();
  const turns = all.flatMap((c) => c.turns);
  for (const turn of await abandoned(turns)) {
    if (turn.status === "waiting") working.add(turn.id);
    else finish(turn, "abort");
  }
  for (const turn of turns) if (turn.status === "deciding") turn.ready = Date.now();
  const known = conversations.get();
  conversations.set(inOrder([...known, ...all.filter((c) => !conversation(c.id))]));
  loaded.set(true);
}

/**
 * Read a conversation that another tab has stored or deleted. Changes made here meanwhile are later
 * and take precedence.
 */
async function reread(id) {
  if (unsaved.has(id)) return;
  const before = changes.get(id);
  const kept = await database.read(id);
  const others = conversations.get().filter((c) => c.id !== id);
  const known = conversation(id);
  if (changes.get(id) !== before || known?.turns.some((turn) => working.has(turn.id))) return;
  if (known && kept) takeOver(known, kept);
  conversations.set(inOrder(kept ? [...others, known ?? kept] : others));
}

function takeOver(known, kept) {
  const turns = kept.turns.map((turn) => {
    const existing = known.turns.find(({ id }) => id === turn.id);
    if (!existing) return turn;
    const latest = Math.max(existing.revision, turn.revision);
    return Object.assign(existing, turn, { revision: latest + 1 });
  });
  Object.assign(known, kept, { turns });
}

onTabMessage(({ kind, id, ids }) => {
  if (kind === "changed") reread(id);
  else if (kind === "whose") postToTabs({ kind: "mine", ids: [...working] });
  else if (kind === "mine") for (const one of ids) elsewhere.add(one);
});

// Exclude the time while the page is hidden from the time to decide.
let hiddenAt = Date.now();
document.addEventListener("visibilitychange", () => {
  const now = Date.now();
  if (document.hidden) hiddenAt = now;
  else {
    for (const turn of conversations.get().flatMap((c) => c.turns)) {
      if (turn.status === "deciding") turn.ready += now - Math.max(hiddenAt, turn.ready);
    }
  }
});

export function create(system) {
  const now = Date.now();
  const times = { created: now, updated: now };
  const parent = { id: randomId(), title: "New chat", ...times, system, turns: [] };
  conversations.set([parent, ...conversations.get()]);
  return parent;
}

/** Start a conversation with copies of another one's turns, up to `turn`. */
export function branch(parent, turn) {
  const copy = create(parent.system);
  const kept = parent.turns.slice(0, parent.turns.indexOf(turn) + 1);
  copy.turns = kept.map((each) => ({ ...structuredClone(each), id: randomId() }));
  copy.title = turn.prompt.trim().slice(0, TITLE_LENGTH) || "New chat";
  touch(copy);
  return copy;
}

export function addTurn(parent, prompt) {
  const turn = {
    id: randomId(),
    prompt,
    system: parent.system,
    candidates: [],
    shown: [],
    status: "streaming",
    ready: 0,
    error: null,
    chosen: null,
    own: null,
    revision: 0,
  };
  if (!parent.turns.length) parent.title = prompt.trim().slice(0, TITLE_LENGTH) || "New chat";
  parent.turns.push(turn);
  parent.updated = Date.now();
  conversations.set(inOrder(conversations.get()));
  touch(parent, turn);
  return turn;
}

const noteChange = (id) => changes.set(id, (changes.get(id) ?? 0) + 1);

/** Mark a conversation (and one of its turns) as changed: it is rendered and stored. */
export function touch(parent, turn = null) {
  if (turn) turn.revision++;
  unsaved.set(parent.id, parent);
  noteChange(parent.id);
  saving ??= setTimeout(save, SAVE_PAUSE);
  if (drawing) return;
  drawing = true;
  const draw = () => {
    drawing = false;
    revision.set(revision.get() + 1);
  };
  if (document.hidden) setTimeout(draw, SAVE_PAUSE); // there are no animation frames then
  else requestAnimationFrame(draw);
}

/** Store all changes now. */
export async function save() {
  clearTimeout(saving);
  saving = null;
  const changed = [...unsaved.values()];
  unsaved.clear();
  const kept = changed.filter((c) => c.turns.length && conversation(c.id));
  await Promise.all(kept.map(keep));
}

async function keep(parent) {
  try {
    await database.write(parent);
  } catch {
    if (!unsaved.has(parent.id)) unsaved.set(parent.id, parent); // retried with the next change
    if (!full) showToast(FULL);
    full = true;
    return;
  }
  full = false;
  postToTabs({ kind: "changed", id: parent.id });
}

addEventListener("pagehide", save);

/** Delete a conversation; return a function that restores it. */
export function discard(deleted) {
  conversations.set(conversations.get().filter((c) => c !== deleted));
  noteChange(deleted.id);
  database.remove(deleted.id).then(() => postToTabs({ kind: "changed", id: deleted.id }));
  return () => {
    conversations.set(inOrder([...conversations.get(), deleted]));
    touch(deleted);
  };
}

/** Remove a turn and all after it; return a function that restores them. */
export function rewind(parent, turn) {
  const before = parent.turns;
  parent.turns = before.slice(0, before.indexOf(turn));
  touch(parent);
  return () => {
    parent.turns = before;
    touch(parent);
  };
}

/** Return the answer of a turn that the conversation continues from. */
export function answerOf(turn) {
  return turn.own ?? turn.candidates[turn.chosen ?? turn.shown[0]]?.text ?? "";
}

/** Return the messages that a turn answers: those before it and its prompt. */
export function messagesFor(parent, turn) {
  const messages = turn.system ? [{ role: "system", content: turn.system }] : [];
  for (const earlier of parent.turns.slice(0, parent.turns.indexOf(turn))) {
    const answer = answerOf(earlier);
    if (!answer) continue; // there was no answer
    messages.push({ role: "user", content: earlier.prompt });
    messages.push({ role: "assistant", content: answer });
  }
  return [...messages, { role: "user", content: turn.prompt }];
}

/**
 * End a turn's streams: a single answer is settled, several wait for a decision. Candidates that
 * never began are removed; if a regenerated answer never began, the previous one is settled again.
 */
export function finish(turn, reason = null) {
  turn.candidates = turn.candidates.filter((candidate) => candidate.completion_id);
  turn.shown = turn.shown.filter((place) => place < turn.candidates.length);
  for (const candidate of turn.candidates) candidate.finish ??= reason ?? "stop";
  turn.ready = Date.now();
  turn.status = turn.shown.length > 1 ? "deciding" : "settled";
  turn.chosen = turn.shown.length === 1 ? turn.shown[0] : null;
}

/** Continue from one of the candidates. */
export function settle(parent, turn, chosen) {
  turn.status = "settled";
  turn.chosen = chosen;
  touch(parent, turn);
}

/** Ask again which candidate is better. */
export function reopen(parent, turn) {
  turn.status = "deciding";
  turn.chosen = null;
  turn.ready = Date.now();
  touch(parent, turn);
}
