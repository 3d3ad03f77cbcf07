// Settings for requesting answers, kept in this browser.
import { createStore } from "./ui.js";

const KEY = "plaudit.settings";

// Temperature null: the model's own; max_tokens 0: no limit.
export const DEFAULTS = { answers: 2, temperature: null, top_p: 1, max_tokens: 0 };

function read() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    return DEFAULTS;
  }
}

export const settings = createStore(read());

export function change(changes) {
  settings.set({ ...settings.get(), ...changes });
  localStorage.setItem(KEY, JSON.stringify(settings.get()));
}

/** Return the sampling parameters of a request's body. */
export function sampling() {
  const { temperature, top_p, max_tokens } = settings.get();
  return {
    ...(temperature !== null && { temperature }),
    ...(top_p < 1 && { top_p }),
    ...(max_tokens > 0 && { max_tokens }),
  };
}
