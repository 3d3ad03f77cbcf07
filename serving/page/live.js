// What the learner does, followed over server-sent events, and which version is live.
import { request, server, serverEvents } from "./api.js";
import { onUp } from "./connection.js";
import { createStore } from "./ui.js";

const PAUSE = 2000; // milliseconds before a stream that broke is asked for again
const SILENCE = 40_000; // milliseconds; the server says something, if nothing new, every 15 s

/** The latest snapshot (GET /v1/learning); null before it came. */
export const learning = createStore(null);
/** The version that is live, by all that is known; 0 before it is known. */
export const liveVersion = createStore(0);

const whenNew = new Set();

/** Call `action(version, before)` when another version goes live. */
export const onVersion = (action) => whenNew.add(action);

function nowLive(version) {
  const before = liveVersion.get();
  liveVersion.set(version);
  if (before && version !== before) for (const action of whenNew) action(version, before);
}

/** An answer said that it came from this version; it may be an old one, if it took long. */
export function sawVersion(version) {
  if (version > liveVersion.get() && !learning.get()) nowLive(version);
}

function take(snapshot) {
  learning.set(snapshot);
  if (snapshot.live) nowLive(snapshot.live);
}

let following = false;
let control = null;

// Only while the page is looked at: a browser has six connections to a server, for all its tabs.
async function follow() {
  if (following) return;
  following = true;
  while (server.get().state === "up" && !document.hidden) {
    control = new AbortController();
    let silence = null;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => control.abort(), SILENCE);
    };
    heard();
    try {
      const response = await request("/v1/learning/events", { signal: control.signal });
      for await (const { event, data } of serverEvents(response, heard)) {
        if (event === "learning") take(JSON.parse(data));
      }
    } catch (error) {
      if (error.status === 404) break; // this server tells nothing of its learner
    } finally {
      clearTimeout(silence);
    }
    if (!document.hidden) await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
  following = false;
}

onUp(follow);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) control?.abort();
  else follow();
});
