// Requests to the server: the API key, errors and streams.
import { createStore } from "./ui.js";

const KEY = "plaudit.key";
const TIMEOUT = 15_000; // milliseconds, for responses that are not streams

/** State of the server: `up`, `away` (with a reason), or `key` (a valid API key is required). */
export const server = createStore({ state: "up", reason: "" });

export const apiKey = () => localStorage.getItem(KEY) ?? "";

export function setApiKey(key) {
  if (key) localStorage.setItem(KEY, key);
  else localStorage.removeItem(KEY);
}

export class ApiError extends Error {
  constructor(status, code, message, retryAfter = 0) {
    super(message);
    this.status = status; // 0: there was no response
    this.code = code; // empty if the response came from something else, such as a proxy
    this.retryAfter = retryAfter; // seconds
  }

  /** Whether the same request may succeed later. */
  get retryable() {
    return !this.code || [0, 401, 429].includes(this.status) || this.status >= 500;
  }

  /** Whether the server, or its policy, is unavailable. */
  get unavailable() {
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
    // Not JSON, such as a proxy's page: only the status is known.
  }
  const message = error.message || `The server responded with status ${response.status}.`;
  return new ApiError(response.status, error.code ?? "", message, retryAfter);
}

/**
 * Send a request and return its response. Throws an ApiError if it did not succeed. Streams, which
 * have no time limit, pass their own signal.
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
    server.set({ state: "away", reason: "It does not respond." });
    throw new ApiError(0, "unreachable", "The server does not respond.");
  }
  if (!response.ok) {
    const error = await errorOf(response);
    if (error.unavailable) server.set({ state: "away", reason: error.message });
    else if (error.status === 401) server.set({ state: "key", reason: error.message });
    throw error;
  }
  return response;
}

async function jsonOf(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError(0, "broken", "The response was malformed.");
  }
}

export const getJson = async (path) => jsonOf(await request(path));
export const postJson = async (path, body, more) =>
  jsonOf(await request(path, { method: "POST", body, ...more }));

/** Yield the server-sent events of a response as `{event, data}`; call `onData` for any bytes. */
export async function* serverEvents(response, onData = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      onData();
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
    throw new ApiError(0, "broken", "The connection was lost.");
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
 * Yield the chunks of a streamed chat completion. Throws an ApiError if the stream ends before the
 * server has marked it as done.
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
  throw new ApiError(0, "broken", "The connection was lost before the answer was complete.");
}
