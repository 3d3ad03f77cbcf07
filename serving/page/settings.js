// How answers are asked for; kept in this browser.
import { createStore } from "./ui.js";

const KEPT = "plaudit.settings";

export const DEFAULTS = { answers: 2, temperature: 1, top_p: 1, max_tokens: 0 }; // 0: to the end

function read() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEPT) ?? "{}") };
  } catch {
    return DEFAULTS;
  }
}

export const settings = createStore(read());

export function change(changes) {
  settings.set({ ...settings.get(), ...changes });
  localStorage.setItem(KEPT, JSON.stringify(settings.get()));
}

/** The part of a request's body that says how to sample. */
export function sampling() {
  const { temperature, top_p, max_tokens } = settings.get();
  return { temperature, ...(top_p < 1 && { top_p }), ...(max_tokens > 0 && { max_tokens }) };
}
