// Short messages at the edge of the screen. They never take the focus, and vanish after a while.
import { createStore, html, IconButton, useStore } from "./ui.js";

const SECONDS = 8;
const MOST = 4;
const toasts = createStore([]);
let last = 0;

const dismiss = (id) => toasts.set(toasts.get().filter((toast) => toast.id !== id));

/**
 * Show a message, with an optional button: `{label, run}` (or `{label, href}`). Return a function
 * that changes the text while it is shown.
 */
export function showToast(text, action = null) {
  const id = ++last;
  toasts.set([...toasts.get(), { id, text, action }].slice(-MOST));
  setTimeout(() => dismiss(id), (action ? 2 : 1) * SECONDS * 1000);
  return (changed) => {
    const all = toasts.get();
    toasts.set(all.map((toast) => (toast.id === id ? { ...toast, text: changed } : toast)));
  };
}

export function Toasts() {
  const all = useStore(toasts);
  return html`
    <div class="toasts" role="status" aria-live="polite">
      ${all.map(({ id, text, action }) => {
        const run = () => {
          dismiss(id);
          action.run?.();
        };
        return html`
          <div class="toast" key=${id}>
            <span>${text}</span>
            ${action?.href && html`<a href=${action.href} onClick=${run}>${action.label}</a>`}
            ${action?.run &&
            html`<button type="button" class="link" onClick=${run}>${action.label}</button>`}
            <${IconButton} icon="close" label="Dismiss" onClick=${() => dismiss(id)} />
          </div>
        `;
      })}
    </div>
  `;
}
