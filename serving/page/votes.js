// Votes: each is stored here first, then sent, then followed until a version has learned from it.
// A vote is
//   {key, body, made, state, id, learned_in, superseded, problem, conversation, turn, prompt,
//    undo, tried}
//   key:     Idempotency-Key: however often the vote is sent, it counts once
//   state:   "unsent", "stored", "refused" (with `problem`) or "undone"
//   undo:    whether to retract it; if it may have arrived, it is sent first to learn its id
// Each vote has its own entry in localStorage, so that tabs do not overwrite one another.
import { ApiError, getJson, postJson, request, server } from "./api.js";
import { onUp } from "./connection.js";
import { learning, onVersion } from "./live.js";
import { browserUser } from "./settings.js";
import { showToast } from "./toasts.js";
import { count, createStore, randomId } from "./ui.js";

const PREFIX = "plaudit.vote.";
const MOST = 1000; // kept, besides unsent ones
const FULL = "This browser's storage is full: keep the page open until your votes are sent.";
const PAUSES = [1, 2, 5, 10, 30]; // seconds between attempts
const PAGE = 100;
const PAGES = 20; // read in one refresh
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
  keep(changed);
  const all = votes.get();
  const place = all.findIndex((other) => other.key === vote.key);
  votes.set(place < 0 ? [...all, changed] : all.with(place, changed));
  return changed;
}

/** Store a vote; if the storage is full, delete the oldest votes that are not pending. */
function keep(vote) {
  for (const oldest of [...done().filter(({ key }) => key !== vote.key), null]) {
    try {
      localStorage.setItem(PREFIX + vote.key, JSON.stringify(vote));
      return;
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      if (oldest) drop(oldest);
      else showToast(FULL);
    }
  }
}

function drop(gone) {
  localStorage.removeItem(PREFIX + gone.key);
  votes.set(votes.get().filter((vote) => vote.key !== gone.key));
}

addEventListener("storage", ({ key }) => {
  if (key === null || key.startsWith(PREFIX)) votes.set(readAll());
});

const current = (vote) => votes.get().find((other) => other.key === vote.key);
const isPending = (vote) => vote.state === "unsent" || vote.undo;
const done = () => votes.get().filter((vote) => !isPending(vote));
const isEffective = (vote) => vote.state !== "undone" && !vote.undo;

/** Return the effective votes on a turn, latest last. */
export const votesOn = (turn, all = votes.get()) =>
  all.filter((vote) => vote.turn === turn.id && isEffective(vote));

/** Return how many votes still have to reach the server. */
export const unsent = (all) => all.filter(isPending).length;

/** Return the reference to a candidate in a vote on the completion `about`. */
export const refer = ({ completion_id, choice }, about) =>
  completion_id === about ? choice : { completion_id, choice };

/** Store feedback on the candidate `about` of a turn, and send it. */
export function cast(conversation, turn, about, feedback, more = {}) {
  const known = { user: browserUser(), source: "page" };
  const body = { completion_id: about.completion_id, ...known, ...more, feedback };
  const vote = put({
    key: randomId(),
    body,
    made: Date.now(),
    state: "unsent",
    id: null,
    learned_in: null,
    superseded: false,
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

/** Retract a vote, or drop it if it was never sent. */
export function undo(vote) {
  const now = current(vote);
  if (!now) return;
  if (now.state === "refused" || (now.state === "unsent" && !now.tried)) drop(now);
  else put(now, { undo: true, problem: "" });
  sendAll();
}

function forgetOldest() {
  const all = done();
  for (const vote of all.slice(0, Math.max(0, all.length - MOST))) drop(vote);
}

let sending = false;
let failures = 0;
let timer = null;

/** Send pending votes; retry automatically. */
export async function sendAll() {
  if (sending) return;
  sending = true;
  clearTimeout(timer);
  try {
    const error = await sendRound();
    if (!error) failures = 0;
    else if (server.get().state === "up") {
      const pause = error.retryAfter || PAUSES[Math.min(failures++, PAUSES.length - 1)];
      timer = setTimeout(sendAll, pause * 1000);
    } // otherwise `onUp` resumes
  } finally {
    sending = false;
  }
}

/**
 * Send pending votes in order. A vote that fails is left for later, with the other votes on its
 * turn, since of two votes the later one counts. Return the last error.
 */
async function sendRound() {
  const stuck = new Set(); // turns
  let failed = null;
  for (let next; (next = votes.get().find((v) => isPending(v) && !stuck.has(v.turn))); ) {
    try {
      await send(next);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      failed = error;
      if (error.status === 429 || server.get().state !== "up") break;
      stuck.add(next.turn);
    }
  }
  return failed;
}

async function send(vote) {
  if (vote.state === "unsent") vote = await post(vote);
  if (vote?.undo) await retract(vote);
}

async function post(vote) {
  vote = put(vote, { tried: true });
  let answer;
  try {
    answer = await postJson("/v1/feedback", vote.body, {
      headers: { "Idempotency-Key": vote.key },
    });
  } catch (error) {
    const now = current(vote) ?? vote;
    if (!(error instanceof ApiError)) throw error;
    if (error.retryable) {
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
      if (!(error instanceof ApiError) || error.retryable) throw error;
      put(current(vote) ?? vote, { undo: false, problem: error.message });
      return;
    }
  }
  put(current(vote) ?? vote, { state: "undone", undo: false });
}

const unknown = new Set(); // ids unknown to the server: of another key, or forgotten

/** Votes that may still be learned from. */
const pending = () =>
  votes.get().filter(
    (vote) =>
      vote.state === "stored" && !vote.learned_in && !vote.superseded &&
      vote.body.feedback.kind !== "comment" && !unknown.has(vote.id),
  );

/** Return the server's version of a vote, or null if it is unknown. */
async function readVote({ id }) {
  try {
    return await getJson(`/v1/feedback/${id}`);
  } catch (error) {
    if (error.status !== 404 || error.retryable) throw error;
    return null;
  }
}

function note(vote, answer) {
  const { learned_in, superseded = false } = answer;
  if (learned_in || superseded) put(current(vote) ?? vote, { learned_in, superseded });
}

// The server lists votes in order of arrival, so pages are read from the oldest pending vote on.
async function refresh() {
  const missing = new Map(pending().map((vote) => [vote.id, vote]));
  let after = null;
  for (const [id, vote] of missing) {
    const answer = await readVote(vote);
    missing.delete(id);
    if (answer) {
      note(vote, answer);
      after = id;
      break;
    }
    unknown.add(id);
  }
  for (let page = 0; after && missing.size && page < PAGES; page++) {
    const { data, has_more } = await getJson(`/v1/feedback?limit=${PAGE}&after=${after}`);
    for (const answer of data) {
      const vote = missing.get(answer.id);
      if (vote) note(vote, answer);
      missing.delete(answer.id);
    }
    after = has_more && data.at(-1)?.id;
  }
}

let refreshing = null;

/** Refresh which versions have learned from votes. */
async function refreshLearned() {
  refreshing ??= refresh().finally(() => (refreshing = null));
  try {
    await refreshing;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // otherwise refreshed at the next news
  }
}

async function announce(version, before) {
  const news = `Version ${version} is live${version > before ? "" : " again"}.`;
  const action = { label: "See what changed", href: `#/learning/${version}` };
  const change = showToast(news, action);
  await refreshLearned();
  const learned = votes.get().filter((vote) => vote.learned_in === version);
  const effective = learned.filter(isEffective).length;
  if (effective) change(`${news} It has learned from ${count(effective, "vote")} of yours.`);
  setTimeout(refreshLearned, LATER); // the server may know later which votes counted
}

// Versions that are held back or on trial have learned from votes too.
let newest = 0;
learning.follow(({ versions }) => {
  const last = versions.at(-1)?.version ?? 0;
  if (last === newest) return;
  newest = last;
  refreshLearned();
});

onVersion(announce);
onUp(() => {
  unknown.clear(); // the key may have changed
  sendAll();
  refreshLearned();
});
