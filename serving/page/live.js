// The learner's state, followed over server-sent events, and the live version.
import { request, server, serverEvents } from "./api.js";
import { onUp } from "./connection.js";
import { createStore } from "./ui.js";

const PAUSE = 2000; // milliseconds before a broken stream is requested again
const SILENCE = 40_000; // milliseconds; the server sends something at least every 15 s

/** The latest snapshot (GET /v1/learning); null before the first. */
export const learning = createStore(null);
/** The live version; 0 before it is known. */
export const liveVersion = createStore(0);

const versionListeners = new Set();

/** Call `action(version, before)` when another version goes live. */
export const onVersion = (action) => versionListeners.add(action);

function setLive(version) {
  const before = liveVersion.get();
  liveVersion.set(version);
  if (before && version !== before) for (const action of versionListeners) action(version, before);
}

/** Note that an answer came from this version, which may be an old one if the answer took long. */
export function noteVersion(version) {
  if (version > liveVersion.get() && !learning.get()) setLive(version);
}

function take(snapshot) {
  learning.set(snapshot);
  if (snapshot.live) setLive(snapshot.live);
}

let following = false;
let control = null;

// Only while the page is visible: a browser has six connections to a server, for all its tabs.
async function follow() {
  if (following) return;
  following = true;
  while (server.get().state === "up" && !document.hidden) {
    control = new AbortController();
    let silence = null;
    const onData = () => {
      clearTimeout(silence);
      silence = setTimeout(() => control.abort(), SILENCE);
    };
    onData();
    try {
      const response = await request("/v1/learning/events", { signal: control.signal });
      for await (const { event, data } of serverEvents(response, onData)) {
        if (event === "learning") take(JSON.parse(data));
      }
    } catch (error) {
      if (error.status === 404) break; // this server does not report on a learner
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
