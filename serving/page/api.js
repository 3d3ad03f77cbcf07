// Requests to the server: the key, errors that say what to do, and streams.
import { createStore } from "./ui.js";

const KEY = "plaudit.key";
const TIMEOUT = 15_000; // milliseconds for an answer that is no stream

/** How the server is: `up`, `away` (with why), or `key` (it wants one, or another one). */
export const server = createStore({ state: "up", reason: "" });

export const apiKey = () => localStorage.getItem(KEY) ?? "";

export function setApiKey(key) {
  if (key) localStorage.setItem(KEY, key);
  else localStorage.removeItem(KEY);
}

export class ApiError extends Error {
  constructor(status, code, message, retryAfter = 0) {
    super(message);
    this.status = status; // 0: no answer came
    this.code = code; // empty where the answer is none of ours, but that of something between
    this.retryAfter = retryAfter; // seconds
  }

  /** Whether the same request may do later: nothing was wrong with it, as far as we know. */
  get passing() {
    return !this.code || [0, 401, 429].includes(this.status) || this.status >= 500;
  }

  /** Whether the server, or its policy, is not there at all. */
  get away() {
    return [0, 502, 504].includes(this.status) || this.code === "not_ready";
  }
}

const isAbort = (error) => error?.name === "AbortError";

async function errorOf(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  let error = {};
  try {
    const body = await response.json();
    error = body.error ?? { message: typeof body.detail === "string" ? body.detail : "" };
  } catch {
    // A proxy's page, or nothing: its status must do.
  }
  const message = error.message || `The server answered ${response.status}.`;
  return new ApiError(response.status, error.code ?? "", message, retryAfter);
}

/**
 * Send a request and give its response; whatever is no success is an ApiError. Streams, which may
 * take as long as they like, bring a signal of their own.
 */
export async function request(path, options = {}) {
  const { method = "GET", body, headers, signal = AbortSignal.timeout(TIMEOUT) } = options;
  const sent = { ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (apiKey()) sent.Authorization = `Bearer ${apiKey()}`;
  let response;
  try {
    const json = body === undefined ? undefined : JSON.stringify(body);
    response = await fetch(path, { method, headers: sent, body: json, signal, cache: "no-store" });
  } catch (error) {
    if (isAbort(error)) throw error;
    server.set({ state: "away", reason: "It does not answer." });
    throw new ApiError(0, "unreachable", "The server does not answer.");
  }
  if (!response.ok) {
    const error = await errorOf(response);
    if (error.away) server.set({ state: "away", reason: error.message });
    else if (error.status === 401) server.set({ state: "key", reason: error.message });
    throw error;
  }
  return response;
}

async function jsonOf(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError(0, "broken", "The answer came broken.");
  }
}

export const getJson = async (path) => jsonOf(await request(path));
export const postJson = async (path, body, more) =>
  jsonOf(await request(path, { method: "POST", body, ...more }));

/** The server-sent events of a response, as `{event, data}`; `heard` is called for any bytes. */
export async function* serverEvents(response, heard = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      heard();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const parsed = parseEvent(block);
        if (parsed.data) yield parsed;
      }
    }
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError(0, "broken", "The connection broke.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseEvent(block) {
  const parsed = { event: "message", data: "" };
  for (const line of block.split(/\r?\n/)) {
    const [, field, value] = /^([a-z]+): ?(.*)$/s.exec(line) ?? [];
    if (field === "data") parsed.data += (parsed.data && "\n") + value;
    else if (field === "event") parsed.event = value;
  }
  return parsed;
}

/**
 * The chunks of a streamed chat completion. A stream that ends before the server has said that
 * it is done is an ApiError.
 */
export async function* chatChunks(body, signal) {
  const whole = { ...body, stream: true };
  const response = await request("/v1/chat/completions", { method: "POST", body: whole, signal });
  for await (const { data } of serverEvents(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(500, chunk.error.code ?? "", chunk.error.message);
    yield chunk;
  }
  throw new ApiError(0, "broken", "The connection broke while the answer was on its way.");
}
