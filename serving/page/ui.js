// Shared by all views: markup, hooks, stores, icons and small controls.
import { h, render } from "./vendor/preact.js";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
export { render, useEffect, useLayoutEffect, useMemo, useRef, useState };

/** Create an observable value; setting it notifies all followers synchronously. */
export function createStore(value) {
  const followers = new Set();
  return {
    get: () => value,
    set(next) {
      if (Object.is(next, value)) return;
      value = next;
      for (const follower of [...followers]) follower(value);
    },
    follow(follower) {
      followers.add(follower);
      return () => followers.delete(follower);
    },
  };
}

/** Return the store's value, or a selection of it; the component is rendered again on changes. */
export function useStore(store, select = (value) => value) {
  const [, redraw] = useState(0);
  const selected = select(store.get());
  const last = useRef(selected);
  last.current = selected;
  useLayoutEffect(
    () =>
      store.follow((value) => {
        if (!Object.is(select(value), last.current)) redraw((n) => n + 1);
      }),
    [store],
  );
  return selected;
}

/** Return whether a media query matches; the component follows changes. */
export function useMedia(query) {
  const list = useMemo(() => matchMedia(query), [query]);
  const [matches, setMatches] = useState(list.matches);
  useEffect(() => {
    const follow = () => setMatches(list.matches);
    list.addEventListener("change", follow);
    return () => list.removeEventListener("change", follow);
  }, [list]);
  return matches;
}

// Paths of 24 × 24 line icons.
const THUMB = "M7 11v9H4v-9zM7 11l4-8c1.5 0 2.5 1 2.5 2.5V9H19a2 2 0 0 1 2 2.3l-1.2 7A2 2 0 0 1 " +
  "17.8 20H7";
const PATHS = {
  chat: "M4 5h16v11H9l-5 4z",
  votes: THUMB,
  learning: "M4 19V5M4 19h16M8 15l4-5 3 3 5-7",
  operator: "M4 7h10M18 7h2M4 17h2M10 17h10M14 4v6M8 14v6",
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  again: "M20 12a8 8 0 1 1-2.5-5.8M20 4v4h-4",
  up: THUMB,
  down: "M17 13V4h3v9zM17 13l-4 8c-1.5 0-2.5-1-2.5-2.5V15H5a2 2 0 0 1-2-2.3l1.2-7A2 2 0 0 1 6.2 " +
    "4H17",
  comment: "M4 5h16v11H9l-5 4zM8 9h8M8 12h5",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  settings: "M4 8h9M17 8h3M4 16h3M11 16h9M15 5.5v5M9 13.5v5",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 " +
    "19M5 19l1.5-1.5M17.5 6.5L19 5",
  moon: "M20 14A8 8 0 0 1 10 4a8 8 0 1 0 10 10",
  check: "M5 12l5 5 9-10",
  undo: "M9 7L4 12l5 5M4 12h10a6 6 0 0 1 6 6",
  layers: "M12 4l8 4-8 4-8-4zM4 12l8 4 8-4M4 16l8 4 8-4",
};

export const Icon = ({ name, size = 18 }) => html`
  <svg class="icon" width=${size} height=${size} viewBox="0 0 24 24" aria-hidden="true">
    <path d=${PATHS[name]} />
  </svg>
`;

/** A button with only an icon; its label is for screen readers and shown on hover. */
export const IconButton = ({ icon, label, pressed, ...more }) => html`
  <button type="button" class="icon-button" aria-label=${label} title=${label}
    aria-pressed=${pressed} ...${more}>
    <${Icon} name=${icon} />
  </button>
`;

/** A row of radio buttons that look like one switch. */
export function Segments({ legend, name, options, value, onChange }) {
  return html`
    <fieldset class="segments">
      <legend>${legend}</legend>
      ${options.map(
        ([option, label]) => html`
          <label key=${option}>
            <input type="radio" name=${name} value=${option} checked=${option === value}
              onChange=${() => onChange(option)} />
            <span>${label}</span>
          </label>
        `,
      )}
    </fieldset>
  `;
}

/** A modal dialog; Escape or a click outside closes it. */
export function Dialog({ title, onClose, children, side = false }) {
  const dialog = useRef(null);
  useLayoutEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    return () => before?.focus?.();
  }, []);
  const outside = (event) => event.target === dialog.current && onClose();
  return html`
    <dialog ref=${dialog} class=${side ? "drawer" : "dialog"} aria-label=${title}
      onClose=${onClose} onPointerDown=${outside}>
      <div class="dialog-body">
        <header class="dialog-head">
          <h2>${title}</h2>
          <${IconButton} icon="close" label="Close" onClick=${onClose} />
        </header>
        ${children}
      </div>
    </dialog>
  `;
}

/** Names of the answers side by side, left to right. */
export const LETTERS = ["A", "B", "C", "D"];

/** `2 votes`, `1 vote`. */
export const count = (number, noun) =>
  `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** `A, B and C`. */
export const joinWords = (words) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;

export const percent = (ratio) => `${Math.round(ratio * 100)}%`;

/** `just now`, `5 min ago`, `3 h ago`, `12 May`. */
export function ago(milliseconds) {
  const seconds = (Date.now() - milliseconds) / 1000;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(milliseconds).toLocaleDateString("en", { day: "numeric", month: "short" });
}

/** Return a random id; `crypto.randomUUID` is missing on plain HTTP except on localhost. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether a key event is text input rather than a shortcut of the page. */
export const isTyping = (event) =>
  event.ctrlKey || event.metaKey || event.altKey ||
  event.target.closest?.("input, textarea, select, [contenteditable], dialog") != null;
