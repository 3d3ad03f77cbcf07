// The message input: Enter sends, Shift+Enter starts a new line, Escape stops.
import { change, settings } from "./settings.js";
import { html, Icon, Segments, useLayoutEffect, useRef, useStore } from "./ui.js";

const NUMBERS = [1, 2, 3, 4].map((number) => [number, String(number)]);
const drafts = new Map(); // unsent text by conversation

export function Composer({ id, running, hint, onSend, onStop, field }) {
  const fallback = useRef(null);
  const area = field ?? fallback;
  const { answers } = useStore(settings);

  const fit = () => {
    area.current.style.height = "auto";
    area.current.style.height = `${area.current.scrollHeight + 2}px`;
  };
  useLayoutEffect(() => {
    area.current.value = drafts.get(id) ?? "";
    fit();
    // In a new chat typing goes here at once; elsewhere keys may vote. On a touch screen the focus
    // would open a keyboard.
    const focused = document.activeElement;
    const idle = focused === document.body || focused.matches(".new-chat");
    if (!id && idle && matchMedia("(hover: hover)").matches) area.current.focus();
  }, [id]);
  useLayoutEffect(() => {
    const keys = (event) => {
      if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) onStop();
      const free = !event.target.closest?.("input, textarea, select, dialog");
      if (event.key === "/" && free && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        area.current.focus();
      }
    };
    document.addEventListener("keydown", keys);
    return () => document.removeEventListener("keydown", keys);
  });

  const submit = (event) => {
    event.preventDefault();
    const text = area.current.value.trim();
    if (!text || running) return;
    drafts.delete(id);
    area.current.value = "";
    fit();
    onSend(text);
  };
  const keys = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  const written = () => {
    drafts.set(id, area.current.value);
    fit();
  };
  return html`
    <form class="composer" onSubmit=${submit}>
      <textarea ref=${area} rows="1" aria-label="Your message" placeholder=${hint}
        onInput=${written} onKeyDown=${keys}></textarea>
      <div class="composer-foot">
        <${Segments} legend="Answers" name="answers" options=${NUMBERS} value=${answers}
          onChange=${(number) => change({ answers: number })} />
        <span class="muted keys-help"><kbd>Enter</kbd> sends, <kbd>/</kbd> focuses this field</span>
        ${running
          ? html`<button type="button" class="round stop" aria-label="Stop" title="Stop (Esc)"
              onClick=${onStop}><${Icon} name="stop" /></button>`
          : html`<button type="submit" class="round" aria-label="Send" title="Send (Enter)">
              <${Icon} name="send" /></button>`}
      </div>
    </form>
  `;
}
