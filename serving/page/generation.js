// Requesting answers: one request streams all candidates of a turn.
import { ApiError, chatChunks, server } from "./api.js";
import {
  abandoned, addTurn, conversations, finish, isOpen, loaded, messagesFor, save, settle, touch,
  working,
} from "./conversations.js";
import { model, onUp } from "./connection.js";
import { noteVersion } from "./live.js";
import { browserUser, sampling, settings } from "./settings.js";
import { onTabMessage, postToTabs } from "./tabs.js";

const TOO_LONG = "This conversation is longer than the model's context. Start a new chat.";

const running = new Map(); // turn id -> AbortController

function shuffled(places) {
  const result = [...places];
  for (let i = result.length - 1; i > 0; i--) {
    const j = crypto.getRandomValues(new Uint32Array(1))[0] % (i + 1);
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

const blank = (choice) => ({ completion_id: "", choice, text: "", finish: null, version: 0 });

/** Send a new message; the answers stream into the turn. */
export function ask(parent, prompt) {
  const turn = addTurn(parent, prompt);
  return answer(parent, turn, settings.get().answers);
}

/** Answer a turn again with `number` new candidates. */
export function answer(parent, turn, number) {
  const candidates = Array.from({ length: number }, (_, choice) => blank(choice));
  const shown = shuffled(candidates.keys());
  Object.assign(turn, { candidates, shown, chosen: null, own: null });
  return stream(parent, turn, candidates);
}

/** Request another answer, to be compared with the chosen one. */
export function regenerate(parent, turn) {
  const added = blank(0);
  const chosen = turn.chosen;
  turn.candidates.push(added);
  const places = chosen === null ? [] : [chosen];
  turn.shown = shuffled([...places, turn.candidates.length - 1]);
  Object.assign(turn, { chosen: null, own: null });
  return stream(parent, turn, [added]);
}

/** Stop a turn's answers, whichever tab has requested them. */
export async function stop(parent, turn) {
  if (running.has(turn.id)) running.get(turn.id).abort();
  else if (working.delete(turn.id)) settle(parent, turn, turn.chosen);
  else if (isOpen(turn)) {
    const asked = abandoned([turn]); // first: a stopped tab no longer reports it
    postToTabs({ kind: "stop", id: turn.id });
    for (const orphan of await asked) {
      finish(orphan, "abort");
      touch(parent, orphan);
    }
  }
}

async function stream(parent, turn, candidates) {
  const control = new AbortController();
  running.set(turn.id, control);
  working.add(turn.id);
  turn.status = "streaming";
  turn.error = null;
  touch(parent, turn);
  let reason = "abort";
  let retry = false;
  try {
    const body = {
      model: model.get() ?? "plaudit",
      messages: messagesFor(parent, turn),
      n: candidates.length,
      user: browserUser(),
      ...sampling(),
    };
    for await (const chunk of chatChunks(body, control.signal)) {
      take(chunk, candidates);
      touch(parent, turn);
    }
    reason = null;
  } catch (error) {
    if (error.name !== "AbortError") retry = failed(turn, candidates, error);
  } finally {
    running.delete(turn.id);
    finish(turn, reason);
    if (retry) turn.status = "waiting";
    else working.delete(turn.id);
    touch(parent, turn);
    if (reason === null) save(); // the page may be closed at any time
  }
}

function take(chunk, candidates) {
  const version = Number(/^policy-v(\d+)$/.exec(chunk.system_fingerprint ?? "")?.[1] ?? 0);
  if (version) noteVersion(version);
  for (const candidate of candidates) {
    candidate.completion_id = chunk.id;
    if (version) candidate.version = version;
  }
  for (const { index, delta, finish_reason } of chunk.choices) {
    candidates[index].text += delta?.content ?? "";
    candidates[index].finish ??= finish_reason ?? null;
  }
}

/** Record an error; return whether to retry once the server is back, as nothing was received. */
function failed(turn, candidates, error) {
  if (!(error instanceof ApiError)) throw error;
  const nothing = candidates.every((candidate) => !candidate.completion_id);
  const long = /maximum context length/i.test(error.message);
  turn.error = { message: long ? TOO_LONG : error.message };
  if (!nothing || !(error.unavailable || error.status === 401)) return false;
  // A lost connection does not prove that the server is down, but it must be checked.
  if (server.get().state === "up") server.set({ state: "away", reason: error.message });
  return true;
}

// Only the last message of a conversation can be waiting: no other is sent meanwhile.
function resendWaiting() {
  for (const parent of conversations.get()) {
    const turn = parent.turns.at(-1);
    if (turn?.status !== "waiting" || !working.has(turn.id)) continue;
    if (turn.candidates.length) regenerate(parent, turn);
    else answer(parent, turn, settings.get().answers);
  }
}

loaded.follow(() => onUp(resendWaiting));

onTabMessage(({ kind, id }) => {
  if (kind !== "stop" || !working.has(id)) return;
  for (const parent of conversations.get()) {
    for (const turn of parent.turns) if (turn.id === id) stop(parent, turn);
  }
});
