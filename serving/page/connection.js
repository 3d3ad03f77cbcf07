// Who we are to the server, and coming back by itself when it was away.
import { ApiError, getJson, server, setApiKey } from "./api.js";
import { createStore } from "./ui.js";

const PAUSES = [1000, 1000, 2000, 3000, 5000]; // milliseconds between looks; the last one stays
const TIMEOUT = 15_000; // milliseconds for a look

/** `{role, name, keys_required}`; null before it is known. */
export const identity = createStore(null);
/** The name that requests give as `model`; null before it is known. */
export const model = createStore(null);

const whenUp = new Set();

/** Call `action` whenever the server can be used (again), also now if it has been reached. */
export function onUp(action) {
  whenUp.add(action);
  if (model.get() && server.get().state === "up") action();
}

/** Look who we are; then whatever waits for the server goes on. */
export async function connect() {
  try {
    const { data } = await getJson("/v1/models");
    identity.set(await getJson("/v1/me").catch(unknownHere));
    model.set(data[0]?.id ?? "plaudit");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    // Otherwise `server` says why; away is looked after below, and a key is asked for.
    const pause = error.retryAfter * 1000 || PAUSES.at(-1);
    if (server.get().state === "up") setTimeout(connect, pause);
    return;
  }
  server.set({ state: "up", reason: "" });
  for (const action of whenUp) action();
}

function unknownHere(error) {
  if (error.status === 404) return null; // served without roles
  throw error;
}

/** Use this API key from now on; give whether the server takes it. */
export async function useKey(key) {
  setApiKey(key.trim());
  await connect();
  return server.get().state === "up";
}

let looking = false;
let woken = () => {};

async function lookUntilBack() {
  if (looking) return;
  looking = true;
  for (let looks = 0; server.get().state === "away"; looks++) {
    const pause = PAUSES[Math.min(looks, PAUSES.length - 1)];
    await new Promise((resolve) => {
      woken = resolve;
      setTimeout(resolve, pause);
    });
    const look = { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) };
    const ready = await fetch("/readyz", look).then((r) => r.ok, () => false);
    if (ready) await connect();
  }
  looking = false;
}

/** Look now, not after the pause. */
export const lookNow = () => woken();

server.follow(({ state }) => state === "away" && lookUntilBack());
addEventListener("online", lookNow);
document.addEventListener("visibilitychange", () => document.hidden || lookNow());
