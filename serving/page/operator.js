// The operators' view: the policies, the live version, and actions on them.
import { ApiError, getJson, postJson } from "./api.js";
import { STATES } from "./learning.js";
import { learning } from "./live.js";
import { showToast } from "./toasts.js";
import {
  ago, createStore, Dialog, html, Icon, joinWords, percent, useEffect, useRef, useState, useStore,
} from "./ui.js";

const AUDITED = 50; // entries shown
const TIMEOUT = 600_000; // milliseconds; a version's files are verified before it goes live

const policies = createStore(null);
const audit = createStore([]);

async function refresh() {
  try {
    policies.set(await getJson("/v1/policies"));
    audit.set((await getJson(`/v1/audit?limit=${AUDITED}`)).data);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (!error.unavailable) showToast(error.message);
  }
}

/** Describe what happens when `version` goes live; an older version is a rollback. */
function activationEffects(version, { data, live, on_trial }) {
  const undone = data
    .filter((v) => v.version > version && v.version <= live && v.state !== "rolled_back")
    .map((v) => v.version);
  return [
    `All new answers come from version ${version}, no longer from version ${live}.`,
    on_trial && `The trial of version ${on_trial} ends now, whatever its votes say so far.`,
    "Running answers are finished; no request is lost.",
    "The next learning cycle starts from it.",
    undone.length > 0 &&
      `Rolled back, and never again a parent: version ${joinWords(undone)}.`,
    version < live &&
      "Publishing is then held: no new version goes live until you resume it.",
  ];
}

/** Describe what happens to the newest version that was held back. */
function resumeEffects({ data, on_trial }) {
  const waiting = data.findLast((v) => v.state === "waiting")?.version;
  return [
    "New versions that pass the gate go live automatically again.",
    waiting && `Version ${waiting}, which was held back, goes live at once` +
      (on_trial
        ? `, and the trial of version ${on_trial} ends; if it is for a trial itself, it waits on.`
        : ", or on trial if it was published for one."),
  ];
}

/** The actions and descriptions of their effects. */
const ACTIONS = {
  activate: ({ version, ...list }) => ({
    path: `/v1/policies/${version}/activate`,
    title: `Make version ${version} live?`,
    button: `Make version ${version} live`,
    danger: version < list.live,
    text: activationEffects(version, list),
  }),
  rollback: (list) => ({
    path: "/v1/policies/rollback",
    title: `Roll back version ${list.live}?`,
    button: "Roll back",
    danger: true,
    text: activationEffects(list.previous, list),
  }),
  hold: () => ({
    path: "/v1/policies/hold",
    title: "Hold publishing?",
    button: "Hold publishing",
    text: [
      "What is live stays live. Chats and votes go on.",
      "No new version goes live until you resume publishing.",
    ],
  }),
  resume: (list) => ({
    path: "/v1/policies/resume",
    title: "Resume publishing?",
    button: "Resume publishing",
    text: resumeEffects(list),
  }),
};

export function Operator() {
  const list = useStore(policies);
  const [asked, setAsked] = useState(null);
  const snapshot = useStore(learning);
  useEffect(() => {
    refresh();
  }, [snapshot?.live, snapshot?.on_trial, snapshot?.held, snapshot?.versions.length]);

  const offer = (name, version) => () =>
    setAsked(ACTIONS[name]({ ...list, version }));
  return html`
    <div class="view">
      <header class="view-head"><h1>Operator</h1></header>
      <div class="view-body" tabindex="0" role="region" aria-label="Operator">
        ${list
          ? html`
              <section class="tiles" aria-label="Now">
                <div class="tile"><span class="muted">Live</span>
                  <strong>${list.live ? `Version ${list.live}` : "None"}</strong></div>
                <div class="tile"><span class="muted">On trial</span>
                  <strong>${list.on_trial ? `Version ${list.on_trial}` : "None"}</strong></div>
                <div class="tile"><span class="muted">Publishing</span>
                  <strong>${list.held ? "Held" : "Open"}</strong></div>
              </section>
              <div class="row">
                <button type="button" class="danger" disabled=${!list.previous}
                  onClick=${offer("rollback")}><${Icon} name="undo" />Roll back</button>
                ${list.held
                  ? html`<button type="button" onClick=${offer("resume")}>
                      <${Icon} name="check" />Resume publishing</button>`
                  : html`<button type="button" onClick=${offer("hold")}>
                      <${Icon} name="stop" />Hold publishing</button>`}
              </div>
              <${Policies} list=${list} offer=${offer} />
              <${Audit} />
            `
          : html`<p class="muted empty">Loading the policies…</p>`}
      </div>
      ${asked && html`<${Confirm} ...${asked} onClose=${() => setAsked(null)} />`}
    </div>
  `;
}

function Policies({ list, offer }) {
  return html`
    <section aria-labelledby="policies">
      <h2 id="policies">Policies</h2>
      <div class="scrolls" tabindex="0" role="group" aria-label="All policies">
        <table>
          <thead><tr><th>Version</th><th>State</th><th>From</th><th>Votes</th><th>Win rate</th>
            <th>Replicas</th><th>Made</th><th><span class="unseen">Action</span></th></tr></thead>
          <tbody>
            ${list.data.toReversed().map((v) => html`<tr key=${v.version}>
              <th scope="row">${v.has_report
                ? html`<a href=${`#/learning/${v.version}`}>Version ${v.version}</a>`
                : `Version ${v.version}`}</th>
              <td><span class="badge" data-state=${v.state}>
                ${STATES[v.state] ?? v.state}</span></td>
              <td>${v.parent || "—"}</td>
              <td>${v.votes ?? 0}</td>
              <td>${v.figures?.win_rate === undefined ? "—" : percent(v.figures.win_rate)}</td>
              <td>${v.replicas?.join(", ") || "—"}</td>
              <td>${ago(v.created * 1000)}</td>
              <td>${v.state !== "live" &&
              html`<button type="button" aria-label=${`Make live: version ${v.version}`}
                onClick=${offer("activate", v.version)}>Make live</button>`}</td>
            </tr>`)}
          </tbody>
        </table>
      </div>
    </section>
  `;
}

function Audit() {
  const entries = useStore(audit);
  return html`
    <section aria-labelledby="audit">
      <h2 id="audit">Audit trail</h2>
      ${entries.length
        ? html`<ol class="audit">
            ${entries.map(({ created, by, text }, place) => html`<li key=${`${created} ${place}`}>
              <time datetime=${new Date(created * 1000).toISOString()}>${ago(created * 1000)}</time>
              <strong>${by}</strong><span>${text}</span>
            </li>`)}
          </ol>`
        : html`<p class="muted empty">No operator has done anything yet.</p>`}
    </section>
  `;
}

function Confirm({ path, title, button, text, danger = false, onClose }) {
  const reason = useRef(null);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      const body = { reason: reason.current.value.trim() };
      policies.set(await postJson(path, body, { signal: AbortSignal.timeout(TIMEOUT) }));
      showToast(`${title.replace("?", "")}: done.`);
      onClose();
      refresh();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`
    <${Dialog} title=${title} onClose=${onClose}>
      <form onSubmit=${submit}>
        <ul>${text.filter(Boolean).map((line) => html`<li key=${line}>${line}</li>`)}</ul>
        <label class="field"><span>Reason, for the audit trail</span>
          <input type="text" ref=${reason} maxlength="200" /></label>
        ${problem && html`<p class="problem" role="alert">${problem}</p>`}
        <div class="dialog-foot">
          <button type="button" onClick=${onClose} autofocus>Cancel</button>
          <button type="submit" class=${danger ? "danger" : "primary"} disabled=${busy}>
            ${button}</button>
        </div>
      </form>
    <//>
  `;
}

