// What has been asked and answered, kept in this browser.
//
// A conversation is {id, title, created, updated, system, turns}; a turn is
//   {id, prompt, system, candidates, shown, status, ready, error, chosen, own}
//   candidates: [{completion_id, choice, text, finish, version}], never reordered
//   shown:      places of the candidates on screen, left to right
//   status:     "waiting" (for the server, to be asked), "streaming", "deciding" (several answers,
//               no vote yet) or "settled"
//   ready:      when all answers were there to decide on, milliseconds
//   error:      null or {message}: the answers did not come, or not whole
//   chosen:     the candidate that the conversation goes on from
//   own:        a better answer that the user wrote, or null
// They are changed in place, and `touch` tells the views, at most once a frame, and other tabs when
// it is kept. Those read it anew, unless they are changing it themselves.
import * as database from "./database.js";
import { onTold, tell } from "./tabs.js";
import { say } from "./toasts.js";
import { createStore, randomId } from "./ui.js";

const SAVE_PAUSE = 400; // milliseconds
const TITLE_LENGTH = 60;
const ANSWER_PAUSE = 200; // milliseconds that other tabs have to say what they work on

/** All conversations, latest first; a new array whenever one comes, goes or moves. */
export const conversations = createStore([]);
/** Counts changes inside of them. */
export const revision = createStore(0);
export const loaded = createStore(false);

/** Ids of the turns that this tab asks for, or will ask for. */
export const working = new Set();

const unsaved = new Map();
const changes = new Map(); // id -> how often this tab has changed the conversation
const elsewhere = new Set(); // ids of turns that another tab has said it works on
let saving = null;
let drawing = false;
let full = false;

export const conversation = (id) => conversations.get().find((c) => c.id === id) ?? null;

function inOrder(all) {
  return [...all].sort((a, b) => b.updated - a.updated);
}

/** Whether a turn's answers are still to come. */
export const isOpen = (turn) => ["waiting", "streaming"].includes(turn?.status);

/** Those of `turns` whose answers are still to come, though no tab works on them. */
export async function abandoned(turns) {
  if (!turns.some(isOpen)) return [];
  elsewhere.clear();
  tell({ kind: "whose" });
  await new Promise((resolve) => setTimeout(resolve, ANSWER_PAUSE));
  return turns.filter((turn) => isOpen(turn) && !elsewhere.has(turn.id) && !working.has(turn.id));
}

/**
 * Read what is kept. An answer that was on its way when its page went is taken as stopped; a
 * question that waited for the server goes on waiting here.
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
 * Take over what another tab has kept, or deleted. What has been changed here since it was read is
 * later, and is kept in its place.
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
    const held = known.turns.find(({ id }) => id === turn.id);
    if (!held) return turn;
    return Object.assign(held, turn, { revision: Math.max(held.revision, turn.revision) + 1 });
  });
  Object.assign(known, kept, { turns });
}

onTold(({ kind, id, ids }) => {
  if (kind === "changed") reread(id);
  else if (kind === "whose") tell({ kind: "mine", ids: [...working] });
  else if (kind === "mine") for (const one of ids) elsewhere.add(one);
});

// While nobody looks, nobody decides.
let left = Date.now();
document.addEventListener("visibilitychange", () => {
  const now = Date.now();
  if (document.hidden) left = now;
  else {
    for (const turn of conversations.get().flatMap((c) => c.turns)) {
      if (turn.status === "deciding") turn.ready += now - Math.max(left, turn.ready);
    }
  }
});

export function create(system) {
  const now = Date.now();
  const made = { id: randomId(), title: "New chat", created: now, updated: now, system, turns: [] };
  conversations.set([made, ...conversations.get()]);
  return made;
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

/** Say that a conversation (and one of its turns) has changed: it is drawn and kept. */
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
  if (document.hidden) setTimeout(draw, SAVE_PAUSE); // no frames are drawn then
  else requestAnimationFrame(draw);
}

/** Write what has changed now. */
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
    if (!unsaved.has(parent.id)) unsaved.set(parent.id, parent); // with the next that changes
    if (!full) say("This browser cannot keep more: what you ask now is lost when you close it.");
    full = true;
    return;
  }
  full = false;
  tell({ kind: "changed", id: parent.id });
}

addEventListener("pagehide", save);

/** Take a conversation away; gives what brings it back. */
export function discard(gone) {
  conversations.set(conversations.get().filter((c) => c !== gone));
  noteChange(gone.id);
  database.remove(gone.id).then(() => tell({ kind: "changed", id: gone.id }));
  return () => {
    conversations.set(inOrder([...conversations.get(), gone]));
    touch(gone);
  };
}

/** Take away a turn and all after it; gives what brings them back. */
export function rewind(parent, turn) {
  const before = parent.turns;
  parent.turns = before.slice(0, before.indexOf(turn));
  touch(parent);
  return () => {
    parent.turns = before;
    touch(parent);
  };
}

/** What a turn answers with, as far as the rest of the conversation is concerned. */
export function answerOf(turn) {
  return turn.own ?? turn.candidates[turn.chosen ?? turn.shown[0]]?.text ?? "";
}

/** The messages that a turn answers: those before it, and its own prompt. */
export function messagesFor(parent, turn) {
  const messages = turn.system ? [{ role: "system", content: turn.system }] : [];
  for (const earlier of parent.turns.slice(0, parent.turns.indexOf(turn))) {
    const answer = answerOf(earlier);
    if (!answer) continue; // it was never answered
    messages.push({ role: "user", content: earlier.prompt });
    messages.push({ role: "assistant", content: answer });
  }
  return [...messages, { role: "user", content: turn.prompt }];
}

/**
 * End a turn's streams: one answer stands, several wait for a decision. What never began is no
 * candidate; of an answer asked for once more, the one before it stands again.
 */
export function finish(turn, reason = null) {
  turn.candidates = turn.candidates.filter((candidate) => candidate.completion_id);
  turn.shown = turn.shown.filter((place) => place < turn.candidates.length);
  for (const candidate of turn.candidates) candidate.finish ??= reason ?? "stop";
  turn.ready = Date.now();
  turn.status = turn.shown.length > 1 ? "deciding" : "settled";
  turn.chosen = turn.shown.length === 1 ? turn.shown[0] : null;
}

/** Go on from one of the candidates. */
export function settle(parent, turn, chosen) {
  turn.status = "settled";
  turn.chosen = chosen;
  touch(parent, turn);
}

/** Ask anew which candidate is the better one. */
export function reopen(parent, turn) {
  turn.status = "deciding";
  turn.chosen = null;
  turn.ready = Date.now();
  touch(parent, turn);
}
