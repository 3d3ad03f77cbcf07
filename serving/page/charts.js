// Small SVG line charts: a few series, their axes, and a table of the numbers.
import { html } from "./ui.js";

const WIDTH = 420;
const HEIGHT = 220;
const LEFT = 46;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 34;
const STEPS = [1, 2, 2.5, 5, 10];

/** Return about `wanted` round numbers from `low` to `high`. */
export function ticks(low, high, wanted = 5) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = STEPS.find((s) => s * power >= rough) * power;
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
    found.push(Number((k * step).toPrecision(12)));
  }
  return found;
}

function span(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  return [low - room, high + room];
}

const plain = (value) => String(Number(value.toPrecision(3)));

/**
 * A chart of `series`: [{name, points: [{x, y, low}]}], where `low` is a lower bound, drawn as a
 * whisker. Points that are not finite are left out.
 * @param whole  whether x are whole numbers, such as versions
 * @param range  [lowest, highest] of y; fitted to the points by default
 * @param level  a horizontal line, {y, label}
 */
export function LineChart({ title, series, xLabel, whole = false, range, level, format = plain }) {
  const drawn = series.map(({ name, points }) => ({
    name,
    points: points.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y)),
  }));
  const all = drawn.flatMap(({ points }) => points);
  if (!all.length) {
    return html`<figure class="chart">
      <figcaption>${title}</figcaption>
      <p class="muted empty">Nothing yet.</p>
    </figure>`;
  }
  const xs = all.map(({ x }) => x);
  const [x0, x1] = whole ? [Math.min(...xs) - 0.4, Math.max(...xs) + 0.4] : span(xs);
  const lows = all.map(({ y, low }) => Math.min(y, low ?? y));
  const [y0, y1] = range ?? span([...all.map(({ y }) => y), ...lows, ...(level ? [level.y] : [])]);
  const x = (value) => LEFT + ((value - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  const xTicks = ticks(x0, x1, 6).filter((tick) => !whole || Number.isInteger(tick));
  return html`
    <figure class="chart">
      <figcaption>${title}</figcaption>
      <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label=${title}>
        ${ticks(y0, y1).map(
          (tick) => html`<g key=${`y${tick}`}>
            <line class="grid" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y(tick)} y2=${y(tick)} />
            <text x=${LEFT - 7} y=${y(tick) + 4} text-anchor="end">${format(tick)}</text>
          </g>`,
        )}
        ${xTicks.map(
          (tick) => html`<text key=${`x${tick}`} x=${x(tick)} y=${HEIGHT - BOTTOM + 17}
            text-anchor="middle">${plain(tick)}</text>`,
        )}
        <text x=${(LEFT + WIDTH - RIGHT) / 2} y=${HEIGHT - 2} text-anchor="middle">${xLabel}</text>
        ${level &&
        html`<line class="level" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y(level.y)}
          y2=${y(level.y)} />`}
        ${drawn.map(
          ({ name, points }, number) => html`<g key=${name} class="series" data-series=${number}>
            <polyline points=${points.map((p) => `${x(p.x)},${y(p.y)}`).join(" ")} />
            ${points.map(
              (p) => html`<g key=${p.x}>
                ${Number.isFinite(p.low) &&
                html`<line class="whisker" x1=${x(p.x)} x2=${x(p.x)} y1=${y(p.low)}
                  y2=${y(p.y)} />`}
                <circle cx=${x(p.x)} cy=${y(p.y)} r="3.5">
                  <title>${name}: ${format(p.y)} (${xLabel} ${plain(p.x)})</title>
                </circle>
              </g>`,
            )}
          </g>`,
        )}
      </svg>
      ${drawn.length > 1 &&
      html`<ul class="legend">
        ${drawn.map(({ name }, number) => html`<li key=${name} data-series=${number}>${name}</li>`)}
      </ul>`}
      ${level && html`<p class="note">${level.label}</p>`}
      <${Numbers} ...${{ drawn, xLabel, format, title }} />
    </figure>
  `;
}

function Numbers({ drawn, xLabel, format, title }) {
  const xs = [...new Set(drawn.flatMap(({ points }) => points.map(({ x }) => x)))];
  xs.sort((a, b) => a - b);
  const at = (points, x) => points.find((point) => point.x === x);
  return html`
    <details class="numbers">
      <summary>Numbers<span class="unseen"> of ${title}</span></summary>
      <div class="scrolls" tabindex="0" role="group" aria-label=${`Numbers: ${title}`}>
        <table>
          <thead><tr>
            <th>${xLabel}</th>
            ${drawn.map(({ name }) => html`<th key=${name}>${name}</th>`)}
          </tr></thead>
          <tbody>
            ${xs.map((x) => html`<tr key=${x}>
              <td>${plain(x)}</td>
              ${drawn.map(({ name, points }) => html`<td key=${name}>
                ${at(points, x) ? format(at(points, x).y) : ""}
              </td>`)}
            </tr>`)}
          </tbody>
        </table>
      </div>
    </details>
  `;
}

/** Horizontal bars: [[label, value]]. */
export function Bars({ title, bars }) {
  const most = Math.max(1, ...bars.map(([, value]) => value));
  return html`
    <figure class="chart">
      <figcaption>${title}</figcaption>
      <dl class="bars">
        ${bars.map(
          ([label, value]) => html`<div key=${label}>
            <dt>${label}</dt>
            <dd>
              <span class="bar"><i style=${{ width: `${(100 * value) / most}%` }}></i></span>
              ${value.toLocaleString("en")}
            </dd>
          </div>`,
        )}
      </dl>
    </figure>
  `;
}
