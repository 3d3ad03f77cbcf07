// Votes: each is written down here first, then sent, then followed until a version has learned
// from it. A vote is
//   {key, body, made, state, id, learned_in, superseded, problem, conversation, turn, prompt,
//    undo, tried}
//   key:     Idempotency-Key, made once: however often it is sent, it counts once
//   state:   "unsent", "stored", "refused" (with `problem`) or "undone"
//   undo:    it is to be taken back; where it may have arrived, it is sent first to learn its id
// Each has a place of its own in localStorage, so that tabs do not write over one another.
import { ApiError, getJson, postJson, request, server } from "./api.js";
import { onUp } from "./connection.js";
import { learning, onVersion } from "./live.js";
import { say } from "./toasts.js";
import { count, createStore, randomId } from "./ui.js";

const PREFIX = "plaudit.vote.";
const MOST = 1000; // kept, beside those that are not sent
const PAUSES = [1, 2, 5, 10, 30]; // seconds between tries
const PAGE = 100;
const PAGES = 20; // read in one look
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

/** Write a vote down; where there is no room, the oldest that are done with make some. */
function keep(vote) {
  for (const oldest of [...done().filter(({ key }) => key !== vote.key), null]) {
    try {
      localStorage.setItem(PREFIX + vote.key, JSON.stringify(vote));
      return;
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      if (oldest) drop(oldest);
      else say("This browser cannot keep more: leave the page open until your votes are sent.");
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
const waits = (vote) => vote.state === "unsent" || vote.undo;
const done = () => votes.get().filter((vote) => !waits(vote));
const stands = (vote) => vote.state !== "undone" && !vote.undo;

/** The votes on a turn that stand, latest last. */
export const votesOn = (turn, all = votes.get()) =>
  all.filter((vote) => vote.turn === turn.id && stands(vote));

/** How many still have to reach the server. */
export const unsent = (all) => all.filter(waits).length;

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

/** Take a vote back. */
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

/** Send what waits; tries again by itself. */
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
    } // else `onUp` calls
  } finally {
    sending = false;
  }
}

/**
 * Send what waits, in order. What fails is left for later, and with it other votes on its turn,
 * since of two votes the later one counts. Gives the last error.
 */
async function sendRound() {
  const stuck = new Set(); // turns
  let failed = null;
  for (let next; (next = votes.get().find((v) => waits(v) && !stuck.has(v.turn))); ) {
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
    if (error.passing) {
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
      if (!(error instanceof ApiError) || error.passing) throw error;
      put(current(vote) ?? vote, { undo: false, problem: error.message });
      return;
    }
  }
  put(current(vote) ?? vote, { state: "undone", undo: false });
}

const unknown = new Set(); // ids that the server does not know: of another key, or forgotten

/** Votes that may yet be learned from. */
const pending = () =>
  votes.get().filter(
    (vote) =>
      vote.state === "stored" && !vote.learned_in && !vote.superseded &&
      vote.body.feedback.kind !== "comment" && !unknown.has(vote.id),
  );

/** What the server says of a vote; null: it does not know it. */
async function told({ id }) {
  try {
    return await getJson(`/v1/feedback/${id}`);
  } catch (error) {
    if (error.status !== 404 || error.passing) throw error;
    return null;
  }
}

function note(vote, answer) {
  const { learned_in, superseded = false } = answer;
  if (learned_in || superseded) put(current(vote) ?? vote, { learned_in, superseded });
}

// From the oldest vote that is pending on, the server lists them in the order of their coming.
async function look() {
  const wanted = new Map(pending().map((vote) => [vote.id, vote]));
  let after = null;
  for (const [id, vote] of wanted) {
    const answer = await told(vote);
    wanted.delete(id);
    if (answer) {
      note(vote, answer);
      after = id;
      break;
    }
    unknown.add(id);
  }
  for (let page = 0; after && wanted.size && page < PAGES; page++) {
    const { data, has_more } = await getJson(`/v1/feedback?limit=${PAGE}&after=${after}`);
    for (const answer of data) {
      const vote = wanted.get(answer.id);
      if (vote) note(vote, answer);
      wanted.delete(answer.id);
    }
    after = has_more && data.at(-1)?.id;
  }
}

let looking = null;

/** Ask which versions have learned from votes. */
async function lookLearned() {
  looking ??= look().finally(() => (looking = null));
  try {
    await looking;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // else looked at again when there is news
  }
}

async function announce(version, before) {
  const news = `Version ${version} is live${version > before ? "" : " again"}.`;
  const action = { label: "See what changed", href: `#/learning/${version}` };
  const change = say(news, action);
  await lookLearned();
  const own = votes.get().filter((vote) => vote.learned_in === version && stands(vote)).length;
  if (own) change(`${news} It has learned from ${count(own, "vote")} of yours.`);
  setTimeout(lookLearned, LATER); // the server may know a moment later which votes went in
}

// Also a version that is held back, or on trial, has learned from votes.
let newest = 0;
learning.follow(({ versions }) => {
  const last = versions.at(-1)?.version ?? 0;
  if (last === newest) return;
  newest = last;
  lookLearned();
});

onVersion(announce);
onUp(() => {
  unknown.clear(); // perhaps there is another key now
  sendAll();
  lookLearned();
});
