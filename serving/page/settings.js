// Settings for requesting answers, kept in this browser.
import { createStore, randomId } from "./ui.js";

const KEY = "plaudit.settings";
const USER = "plaudit.user";

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

/**
 * Return the random id of this browser, which requests name as their user. By it, an operator can
 * find and erase what was sent from here.
 */
export function browserUser() {
  if (!localStorage.getItem(USER)) localStorage.setItem(USER, `page-${randomId()}`);
  return localStorage.getItem(USER);
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
