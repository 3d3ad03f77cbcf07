// The page's frame: the view for the address after #, the sidebar, the theme.
import { apiKey, server } from "./api.js";
import { Chat } from "./chat.js";
import { connect, identity, useKey } from "./connection.js";
import { conversations, discard, load, loaded } from "./conversations.js";
import { stop } from "./generation.js";
import { Learning } from "./learning.js";
import { liveVersion } from "./live.js";
import { MyVotes, Waiting } from "./my_votes.js";
import { Operator } from "./operator.js";
import { Report } from "./report.js";
import { StatusBar } from "./status_bar.js";
import { showToast, Toasts } from "./toasts.js";
import {
  createStore, html, Icon, IconButton, render, useEffect, useMedia, useState, useStore,
} from "./ui.js";

const VIEWS = [
  ["chat", "Chat", "#/"],
  ["votes", "Your votes", "#/votes"],
  ["learning", "Learning", "#/learning"],
  ["operator", "Operator", "#/operator"],
];

/** `#/c/ID` -> ["c", "ID"] */
const parsed = () => location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
const route = createStore(parsed());
addEventListener("hashchange", () => route.set(parsed()));

function View({ name, id }) {
  const role = useStore(identity)?.role;
  if (name === "votes") return html`<${MyVotes} />`;
  if (name === "learning" && id) return html`<${Report} key=${id} version=${Number(id)} />`;
  if (name === "learning") return html`<${Learning} />`;
  if (name === "operator" && role === "operator") return html`<${Operator} />`;
  return html`<${Chat} id=${name === "c" ? id : null} />`;
}

function App() {
  const [name, id] = useStore(route);
  const narrow = useMedia("(max-width: 760px)");
  const [open, setOpen] = useState(false);
  useEffect(() => {
    if (!open) return undefined;
    const close = (event) => event.key === "Escape" && setOpen(false);
    addEventListener("keydown", close);
    return () => removeEventListener("keydown", close);
  }, [open]);
  useStore(loaded);
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to content</a>
    <aside class="sidebar" data-open=${open} inert=${narrow && !open}
      onClick=${(event) => event.target.closest("a") && setOpen(false)}>
      <${Sidebar} view=${name} id=${id} />
    </aside>
    ${narrow && open && html`<div class="shade" onClick=${() => setOpen(false)}></div>`}
    <div class="main-column" inert=${narrow && open}>
      ${narrow &&
      html`<header class="topbar">
        <${IconButton} icon="menu" label="Menu" aria-expanded=${open}
          onClick=${() => setOpen(true)} />
        <span class="brand">Plaudit</span>
        <a class="icon-button" href="#/" aria-label="New chat" title="New chat">
          <${Icon} name="plus" /></a>
      </header>`}
      <${StatusBar} />
      <main id="main" tabindex="-1"><${View} name=${name} id=${id} /></main>
    </div>
    <${Toasts} />
  `;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function Sidebar({ view, id }) {
  const role = useStore(identity)?.role;
  const current = ["votes", "learning", "operator"].includes(view) ? view : "chat";
  return html`
    <div class="side-head"><span class="brand">Plaudit</span><${Live} /></div>
    <a class="button new-chat" href="#/"><${Icon} name="plus" />New chat</a>
    <nav aria-label="Views">
      ${VIEWS.filter(([name]) => name !== "operator" || role === "operator").map(
        ([name, label, address]) => html`
          <a key=${name} href=${address} aria-current=${name === current ? "page" : undefined}>
            <${Icon} name=${name} />${label}${name === "votes" && html`<${Waiting} />`}
          </a>
        `,
      )}
    </nav>
    <${History} current=${view === "c" ? id : null} />
    <div class="side-foot"><${Theme} /><${Account} /></div>
  `;
}

function Live() {
  const version = useStore(liveVersion);
  const { state } = useStore(server);
  if (state === "away") return html`<span class="live" data-state="away">offline</span>`;
  return version > 0 && html`<a class="live" data-state="up" href="#/learning">
    v${version}<span class="unseen"> is live</span></a>`;
}

function History({ current }) {
  const all = useStore(conversations);
  const remove = (conversation) => {
    for (const turn of conversation.turns) stop(conversation, turn);
    const restore = discard(conversation);
    if (conversation.id === current) location.hash = "#/";
    showToast("Conversation deleted.", { label: "Restore it", run: restore });
  };
  return html`
    <nav class="history" aria-label="Conversations" tabindex="0">
      <ul>
        ${all.map((c) => html`
          <li key=${c.id}>
            <a href=${`#/c/${c.id}`} aria-current=${c.id === current ? "page" : undefined}>
              ${c.title}</a>
            <${IconButton} icon="trash" label=${`Delete “${c.title}”`}
              onClick=${() => remove(c)} />
          </li>
        `)}
      </ul>
    </nav>
  `;
}

function Theme() {
  const system = useMedia("(prefers-color-scheme: dark)") ? "dark" : "light";
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? system);
  const other = theme === "dark" ? "light" : "dark";
  const toggle = () => {
    document.documentElement.dataset.theme = other;
    localStorage.setItem("plaudit.theme", other);
    setTheme(other);
  };
  return html`<${IconButton} icon=${other === "dark" ? "moon" : "sun"}
    label=${`Use the ${other} theme`} onClick=${toggle} />`;
}

function Account() {
  const who = useStore(identity);
  if (!who?.keys_required || !apiKey()) return null;
  return html`<span class="muted account">${who.name}, ${who.role}
    <button type="button" class="link" onClick=${() => useKey("")}>Change key</button></span>`;
}

const TITLES = { votes: "Your votes", learning: "Learning", operator: "Operator" };
const setTitle = ([name]) => (document.title = `${TITLES[name] ?? "Chat"} – Plaudit`);
route.follow(setTitle);
setTitle(route.get());

load();
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
connect();
