// Asking for answers: one request streams all candidates of a turn.
import { ApiError, chatChunks } from "./api.js";
import { addTurn, finish, messagesFor, touch } from "./conversations.js";
import { model, onUp } from "./connection.js";
import { sawVersion } from "./live.js";
import { sampling, settings } from "./settings.js";

const TOO_LONG = "This conversation is longer than the model can read. Start a new chat.";

const running = new Map(); // turn id -> AbortController
const waiting = new Map(); // turn id -> what asks again when the server is back

function shuffled(places) {
  const result = [...places];
  for (let i = result.length - 1; i > 0; i--) {
    const j = crypto.getRandomValues(new Uint32Array(1))[0] % (i + 1);
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

const blank = (choice) => ({ completion_id: "", choice, text: "", finish: null, version: 0 });

/** Ask a new question; the answers stream into the turn. */
export function ask(parent, prompt) {
  const turn = addTurn(parent, prompt);
  return answer(parent, turn, settings.get().answers);
}

/** Answer a turn afresh with `number` candidates. */
export function answer(parent, turn, number) {
  const candidates = Array.from({ length: number }, (_, choice) => blank(choice));
  const shown = shuffled(candidates.keys());
  Object.assign(turn, { candidates, shown, chosen: null, own: null });
  return stream(parent, turn, candidates, () => answer(parent, turn, number));
}

/** Ask once more; the new answer is compared with the one that stands. */
export function regenerate(parent, turn) {
  const added = blank(0);
  const standing = turn.chosen;
  turn.candidates.push(added);
  const places = standing === null ? [] : [standing];
  turn.shown = shuffled([...places, turn.candidates.length - 1]);
  Object.assign(turn, { chosen: null, own: null });
  return stream(parent, turn, [added], () => regenerate(parent, turn));
}

export const stop = (turn) => running.get(turn.id)?.abort();
export const isRunning = (turn) => running.has(turn.id);

async function stream(parent, turn, candidates, again) {
  const control = new AbortController();
  running.set(turn.id, control);
  waiting.delete(turn.id);
  turn.status = "streaming";
  turn.error = null;
  touch(parent, turn);
  let reason = null;
  try {
    const body = {
      model: model.get() ?? "plaudit",
      messages: messagesFor(parent, turn),
      n: candidates.length,
      ...sampling(),
    };
    for await (const chunk of chatChunks(body, control.signal)) {
      take(chunk, candidates);
      touch(parent, turn);
    }
  } catch (error) {
    reason = "abort";
    if (error.name !== "AbortError") failed(turn, candidates, error, again);
  } finally {
    running.delete(turn.id);
  }
  ended(turn, reason);
  touch(parent, turn);
}

function take(chunk, candidates) {
  const version = Number(/^policy-v(\d+)$/.exec(chunk.system_fingerprint ?? "")?.[1] ?? 0);
  if (version) sawVersion(version);
  for (const candidate of candidates) {
    candidate.completion_id = chunk.id;
    if (version) candidate.version = version;
  }
  for (const { index, delta, finish_reason } of chunk.choices) {
    candidates[index].text += delta?.content ?? "";
    candidates[index].finish ??= finish_reason ?? null;
  }
}

/** Keep what came. Where nothing did, the question is asked again when the server is back. */
function failed(turn, candidates, error, again) {
  if (!(error instanceof ApiError)) throw error;
  const nothing = candidates.every((candidate) => !candidate.completion_id);
  const long = /maximum context length/i.test(error.message);
  turn.error = { message: long ? TOO_LONG : error.message };
  if (nothing && (error.away || error.status === 401)) {
    turn.error.message = `${error.message} Your question is sent as soon as it can be.`;
    waiting.set(turn.id, again);
  }
}

function ended(turn, reason) {
  // What never began is no candidate; of a regeneration, the answer before it stands again.
  turn.candidates = turn.candidates.filter((candidate) => candidate.completion_id);
  turn.shown = turn.shown.filter((place) => place < turn.candidates.length);
  finish(turn, reason);
}

onUp(() => {
  for (const again of [...waiting.values()]) again();
});
