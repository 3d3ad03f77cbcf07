// The caller's identity, and reconnecting when the server was unavailable.
import { ApiError, getJson, server, setApiKey } from "./api.js";
import { createStore } from "./ui.js";

const PAUSES = [1000, 1000, 2000, 3000, 5000]; // milliseconds between checks; the last one repeats
const TIMEOUT = 15_000; // milliseconds for a check

/** `{role, name, keys_required}`; null before it is known. */
export const identity = createStore(null);
/** The name that requests give as `model`; null before it is known. */
export const model = createStore(null);

const upListeners = new Set();

/** Call `action` whenever the server becomes available; at once if it is available now. */
export function onUp(action) {
  upListeners.add(action);
  if (model.get() && server.get().state === "up") action();
}

/** Read the identity and the model, then resume what waits for the server. */
export async function connect() {
  try {
    const { data } = await getJson("/v1/models");
    identity.set(await getJson("/v1/me").catch(nullIfMissing));
    model.set(data[0]?.id ?? "plaudit");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    // In the other states the page waits until the server is back, or asks for a key.
    const pause = error.retryAfter * 1000 || PAUSES.at(-1);
    if (server.get().state === "up") setTimeout(connect, pause);
    return;
  }
  server.set({ state: "up", reason: "" });
  for (const action of upListeners) action();
}

function nullIfMissing(error) {
  if (error.status === 404) return null; // served without roles
  throw error;
}

/** Use this API key from now on; return whether the server accepts it. */
export async function useKey(key) {
  setApiKey(key.trim());
  await connect();
  return server.get().state === "up";
}

let waiting = false;
let wake = () => {};

async function waitUntilReady() {
  if (waiting) return;
  waiting = true;
  for (let checks = 0; server.get().state === "away"; checks++) {
    const pause = PAUSES[Math.min(checks, PAUSES.length - 1)];
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, pause);
    });
    const options = { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) };
    const ready = await fetch("/readyz", options).then((r) => r.ok, () => false);
    if (ready) await connect();
  }
  waiting = false;
}

/** Check now instead of after the pause. */
export const retryNow = () => wake();

server.follow(({ state }) => state === "away" && waitUntilReady());
addEventListener("online", retryNow);
document.addEventListener("visibilitychange", () => document.hidden || retryNow());
