// The drawer with the settings of this chat.
import { touch } from "./conversations.js";
import { browserUser, change, DEFAULTS, settings } from "./settings.js";
import { Dialog, html, useStore } from "./ui.js";

// Settings made before a conversation has begun apply to the next one.
export const nextChat = { system: "" };

function Slider({ label, help, name, min, max, step, zero, unset }) {
  const value = useStore(settings)[name];
  const shown = value === null ? unset : value === 0 && zero ? zero : String(value);
  return html`
    <label class="field">
      <span class="field-head">
        <span>${label}</span><span aria-hidden="true">${shown}</span>
      </span>
      <input type="range" min=${min} max=${max} step=${step} value=${value ?? 1}
        aria-valuetext=${shown}
        onInput=${(event) => change({ [name]: Number(event.target.value) })} />
      <small class="muted">${help}</small>
    </label>
  `;
}

export function Options({ parent, onClose }) {
  const write = (event) => {
    const system = event.target.value;
    if (!parent) nextChat.system = system;
    else {
      parent.system = system;
      touch(parent);
    }
  };
  return html`
    <${Dialog} title="Chat settings" onClose=${onClose} side>
      <label class="field">
        <span>System prompt</span>
        <textarea rows="4" defaultValue=${parent?.system ?? nextChat.system} onInput=${write}
          placeholder="You are …"></textarea>
        <small class="muted">Precedes the conversation, from the next message on.</small>
      </label>
      <${Slider} label="Temperature" name="temperature" min="0" max="2" step="0.1"
        unset="the model's own" help="Higher: more varied answers." />
      <${Slider} label="Top p" name="top_p" min="0.1" max="1" step="0.05"
        help="Below 1, unlikely words are left out, and PPO cannot replay the answers." />
      <${Slider} label="Longest answer, in tokens" name="max_tokens" min="0" max="2048" step="32"
        zero="no limit" help="Longer answers are cut off." />
      <p class="muted">
        This browser is known as <code>${browserUser()}</code>. An operator can find and erase what
        was sent from it by this name.
      </p>
      <div class="row-end">
        <button type="button" onClick=${() => change(DEFAULTS)}>Defaults</button>
        <button type="button" class="primary" onClick=${onClose}>Done</button>
      </div>
    <//>
  `;
}
