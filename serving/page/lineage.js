// The tree of versions, from left to right, with the number of votes behind each.
import { html } from "./ui.js";

const STEP = 116;
const LANE = 74;
const EDGE = 52;
const MOST = 40; // the latest versions

/** Return each version's lane: the ancestors of the live version in lane 0, others beside it. */
export function lanes(versions, live) {
  const parents = new Map(versions.map((v) => [v.version, v.parent]));
  const straight = new Set();
  for (let v = live; v && !straight.has(v); v = parents.get(v)) straight.add(v);
  const lane = new Map();
  let used = 0;
  for (const { version, parent } of versions) {
    if (straight.has(version)) lane.set(version, 0);
    else lane.set(version, lane.get(parent) || ++used);
  }
  return lane;
}

export function Lineage({ versions, live }) {
  const shown = versions.slice(-MOST);
  const lane = lanes(shown, live);
  const at = new Map(
    shown.map((v, place) => [v.version, [EDGE + place * STEP, 34 + lane.get(v.version) * LANE]]),
  );
  const width = 2 * EDGE + (shown.length - 1) * STEP;
  const height = 82 + Math.max(0, ...lane.values()) * LANE;
  return html`
    <section aria-labelledby="lineage">
      <h2 id="lineage">Lineage</h2>
      <div class="scrolls" tabindex="0" role="group" aria-label="Tree of versions">
        <svg class="lineage" width=${width} height=${height} viewBox="0 0 ${width} ${height}"
          role="group" aria-label="Versions and their parents">
          ${shown.map(({ version, parent }) => at.has(parent) && html`
            <path key=${`edge${version}`} class="edge" d=${edge(at.get(parent), at.get(version))} />
          `)}
          ${shown.map((v) => html`<${Node} key=${v.version} ...${v} at=${at.get(v.version)} />`)}
        </svg>
      </div>
    </section>
  `;
}

function edge([x0, y0], [x1, y1]) {
  const bend = x0 + STEP / 2;
  return y0 === y1 ? `M${x0} ${y0}H${x1}` : `M${x0} ${y0}C${bend} ${y0} ${bend} ${y1} ${x1} ${y1}`;
}

function Node({ version, parent, state, votes, has_report, at: [x, y] }) {
  const label = `Version ${version}${parent ? ` from version ${parent}` : ""}, ${votes ?? 0} votes`;
  const node = html`
    <g class="node" data-state=${state}>
      <circle cx=${x} cy=${y} r="21" />
      <text x=${x} y=${y + 5} text-anchor="middle">${version}</text>
    </g>
    <text class="under" x=${x} y=${y + 39} text-anchor="middle">
      ${parent ? `${votes ?? 0} votes` : "start"}
    </text>
  `;
  return has_report
    ? html`<a href=${`#/learning/${version}`} aria-label=${`${label}: report`}>${node}</a>`
    : html`<g role="img" aria-label=${label}>${node}</g>`;
}
