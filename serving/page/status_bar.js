// The bar over the page while the server cannot be used.
import { server } from "./api.js";
import { retryNow, useKey } from "./connection.js";
import { count, html, useRef, useState, useStore } from "./ui.js";
import { unsent, votes } from "./votes.js";

export function StatusBar() {
  const { state, reason } = useStore(server);
  if (state === "away") return html`<${Away} reason=${reason} />`;
  if (state === "key") return html`<${Key} reason=${reason} />`;
  return null;
}

function Away({ reason }) {
  const waiting = unsent(useStore(votes));
  const kept = `${count(waiting, "vote")} of yours ${waiting === 1 ? "is" : "are"} sent then.`;
  return html`
    <div class="status-bar" role="alert">
      <span><strong>The server is unavailable.</strong> ${reason} This page reconnects
        automatically. ${waiting > 0 && kept}</span>
      <button type="button" onClick=${retryNow}>Retry now</button>
    </div>
  `;
}

function Key({ reason }) {
  const field = useRef(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    await useKey(field.current.value);
    setBusy(false);
  };
  return html`
    <form class="status-bar" aria-label="API key" onSubmit=${submit}>
      <label><span><strong>An API key is needed.</strong> ${reason}</span>
        <input type="password" ref=${field} required autocomplete="off" spellcheck=${false}
          placeholder="API key" /></label>
      <button type="submit" class="primary" disabled=${busy}>Use this key</button>
    </form>
  `;
}
