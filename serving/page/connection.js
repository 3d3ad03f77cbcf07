// Who we are to the server, and coming back by itself when it was away.
import { getJson, server, setApiKey } from "./api.js";
import { createStore } from "./ui.js";

const PAUSES = [1000, 1000, 2000, 3000, 5000]; // milliseconds between looks; the last one stays

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
  } catch {
    return; // `server` says why, and away is looked after below
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
  for (let look = 0; server.get().state === "away"; look++) {
    const pause = PAUSES[Math.min(look, PAUSES.length - 1)];
    await new Promise((resolve) => {
      woken = resolve;
      setTimeout(resolve, pause);
    });
    const ready = await fetch("/readyz", { cache: "no-store" }).then((r) => r.ok, () => false);
    if (ready) await connect();
  }
  looking = false;
}

/** Look now, not after the pause. */
export const lookNow = () => woken();

server.follow(({ state }) => state === "away" && lookUntilBack());
addEventListener("online", lookNow);
document.addEventListener("visibilitychange", () => document.hidden || lookNow());
