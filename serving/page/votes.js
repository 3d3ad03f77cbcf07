// Votes: each is written down here first, then sent, then followed until a version has learned
// from it. A vote is
//   {key, body, made, state, id, learned_in, problem, conversation, turn, prompt, undo, tried}
//   key:     Idempotency-Key, made once: however often it is sent, it counts once
//   state:   "unsent", "stored", "refused" (with `problem`) or "undone"
//   undo:    it is to be taken back; where it may have arrived, it is sent first to learn its id
// Each has a place of its own in localStorage, so that tabs do not write over one another.
import { ApiError, getJson, request, server } from "./api.js";
import { onUp } from "./connection.js";
import { onVersion } from "./live.js";
import { say } from "./toasts.js";
import { count, createStore, randomId } from "./ui.js";

const PREFIX = "plaudit.vote.";
const MOST = 1000; // kept, beside those that are not sent
const PAUSES = [1, 2, 5, 10, 30]; // seconds between tries
const PAGE = 100;
const LATER = 5000; // milliseconds

/** All votes, latest last. */
export const votes = createStore(readAll());

function readAll() {
  const found = [];
  for (let i = 0; i < localStorage.length; i++) {
    const name = localStorage.key(i);
    if (name.startsWith(PREFIX)) found.push(JSON.parse(localStorage.getItem(name)));
  }
  return found.sort((a, b) => a.made - b.made);
}

function put(vote, changes = {}) {
  const changed = { ...vote, ...changes };
  localStorage.setItem(PREFIX + vote.key, JSON.stringify(changed));
  const all = votes.get();
  const place = all.findIndex((other) => other.key === vote.key);
  votes.set(place < 0 ? [...all, changed] : all.with(place, changed));
  return changed;
}

function drop(gone) {
  localStorage.removeItem(PREFIX + gone.key);
  votes.set(votes.get().filter((vote) => vote.key !== gone.key));
}

addEventListener("storage", ({ key }) => {
  if (key === null || key.startsWith(PREFIX)) votes.set(readAll());
});

const current = (vote) => votes.get().find((other) => other.key === vote.key);
const stands = (vote) => vote.state !== "undone" && !vote.undo;

/** The votes on a turn that stand, latest last. */
export const votesOn = (turn, all = votes.get()) =>
  all.filter((vote) => vote.turn === turn.id && stands(vote));

/** How many still have to reach the server. */
export const unsent = (all) => all.filter((vote) => vote.state === "unsent" || vote.undo).length;

/** The choice `candidate` in a vote on `completion_id`. */
export const refer = ({ completion_id, choice }, own) =>
  completion_id === own ? choice : { completion_id, choice };

/** Give an opinion on a turn: `opinion(ref)` makes it, given how to name a candidate. */
export function cast(conversation, turn, about, opinion, more = {}) {
  const own = about.completion_id;
  const body = { completion_id: own, source: "page", ...more, feedback: opinion };
  const vote = put({
    key: randomId(),
    body,
    made: Date.now(),
    state: "unsent",
    id: null,
    learned_in: null,
    problem: "",
    conversation: conversation.id,
    turn: turn.id,
    prompt: turn.prompt.slice(0, 200),
    undo: false,
    tried: false,
  });
  forgetOldest();
  sendAll();
  return vote;
}

/** Take a vote back. */
export function undo(vote) {
  const now = current(vote);
  if (!now) return;
  if (now.state === "refused" || (now.state === "unsent" && !now.tried)) drop(now);
  else put(now, { undo: true });
  sendAll();
}

function forgetOldest() {
  const done = votes.get().filter((vote) => vote.state !== "unsent" && !vote.undo);
  for (const vote of done.slice(0, Math.max(0, done.length - MOST))) drop(vote);
}

let sending = false;
let failures = 0;
let timer = null;

/** Send what waits, in order; tries again by itself. */
export async function sendAll() {
  if (sending) return;
  sending = true;
  clearTimeout(timer);
  try {
    for (let next; (next = votes.get().find((v) => v.state === "unsent" || v.undo)); ) {
      await send(next);
      failures = 0;
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (server.get().state === "up") {
      const pause = error.retryAfter || PAUSES[Math.min(failures++, PAUSES.length - 1)];
      timer = setTimeout(sendAll, pause * 1000);
    } // else `onUp` calls
  } finally {
    sending = false;
  }
}

async function send(vote) {
  if (vote.state === "unsent") vote = await post(vote);
  if (vote?.undo) await retract(vote);
}

async function post(vote) {
  vote = put(vote, { tried: true });
  let answer;
  try {
    const headers = { "Idempotency-Key": vote.key };
    const sent = { method: "POST", body: vote.body, headers };
    answer = await (await request("/v1/feedback", sent)).json();
  } catch (error) {
    const now = current(vote) ?? vote;
    if (!(error instanceof ApiError)) throw error;
    if (error.passing || error.status === 401) {
      put(now, { problem: error.message });
      throw error;
    }
    return now.undo
      ? put(now, { state: "undone", undo: false })
      : put(now, { state: "refused", problem: error.message });
  }
  const { id, learned_in = null } = answer;
  return put(current(vote) ?? vote, { state: "stored", id, learned_in, problem: "" });
}

async function retract(vote) {
  if (vote.state === "stored") {
    try {
      await request(`/v1/feedback/${vote.id}`, { method: "DELETE" });
    } catch (error) {
      if (error.passing || error.status === 401) throw error;
      if (error.status !== 404) {
        put(current(vote) ?? vote, { undo: false, problem: error.message });
        return;
      } // else it is gone already
    }
  }
  put(current(vote) ?? vote, { state: "undone", undo: false });
}

async function readPage(after) {
  if (!after) return getJson(`/v1/feedback?limit=${PAGE}`);
  try {
    return await getJson(`/v1/feedback?limit=${PAGE}&after=${after}`);
  } catch (error) {
    if (error.status !== 400) throw error;
    return readPage(null); // given with another key, or forgotten: from the beginning
  }
}

/** Ask which versions have learned from votes; gives the votes that have newly been. */
export async function lookLearned() {
  const pending = votes.get().filter((v) => v.state === "stored" && v.learned_in === null);
  if (!pending.length) return [];
  const learned = new Map();
  // The list is in the order of sending; what lies before the oldest pending one is known.
  let after = votes.get().findLast((v) => v.state === "stored" && v.made < pending[0].made)?.id;
  for (let more = true; more; ) {
    const page = await readPage(after);
    for (const { id, learned_in } of page.data) if (learned_in) learned.set(id, learned_in);
    after = page.data.at(-1)?.id;
    more = page.has_more && Boolean(after);
  }
  return pending
    .filter((vote) => learned.has(vote.id))
    .map((vote) => put(current(vote), { learned_in: learned.get(vote.id) }));
}

async function announce(version, before) {
  const learned = await lookLearned().catch(() => []); // looked at again when the server is back
  const own = learned.filter((vote) => vote.learned_in === version).length;
  const credit = own ? ` It has learned from ${count(own, "vote")} of yours.` : "";
  const news = `Version ${version} is live${version > before ? "" : " again"}.`;
  say(news + credit, { label: "See what changed", href: `#/learning/${version}` });
  // The server may know a moment later which votes went in.
  setTimeout(() => lookLearned().catch(() => []), LATER);
}

onVersion(announce);
onUp(() => {
  sendAll();
  lookLearned().catch(() => []);
});
