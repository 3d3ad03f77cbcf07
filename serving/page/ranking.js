// Putting three or four answers in order: drag them, or choose one (A to D, or a tap) and then its
// rank (1 to 4, or a tap). Answers on one rank are tied.
import { html, Icon, isTyping, LETTERS, useLayoutEffect, useRef, useState } from "./ui.js";

const TITLES = ["Best", "2nd", "3rd", "4th"];
const DRAG_DISTANCE = 6; // pixels after which a press is a drag

export function Ranking({ places, keys, onRanked }) {
  const [ranks, setRanks] = useState({}); // place -> rank, 0 for the best
  const [chosen, setChosen] = useState(null);
  const complete = places.every((place) => ranks[place] !== undefined);

  const put = (place, rank) => {
    setRanks((all) => ({ ...all, [place]: rank }));
    setChosen(null);
  };
  const submit = () => {
    const groups = places.map((_, rank) => places.filter((place) => ranks[place] === rank));
    onRanked(groups.filter((group) => group.length));
  };

  useLayoutEffect(() => {
    if (!keys) return undefined;
    const press = (event) => {
      if (isTyping(event) || event.repeat) return;
      const letter = LETTERS.indexOf(event.key.toUpperCase());
      const rank = Number(event.key) - 1;
      if (letter >= 0 && letter < places.length) setChosen(places[letter]);
      else if (chosen !== null && rank >= 0 && rank < places.length) put(chosen, rank);
      else if (event.key === "Enter" && complete && !event.target.closest("button, a")) submit();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  });

  const chips = (rank) =>
    places
      .map((place, i) => [place, LETTERS[i]])
      .filter(([place]) => ranks[place] === rank)
      .map(
        ([place, letter]) => html`
          <${Chip} key=${place} letter=${letter} chosen=${chosen === place}
            onChoose=${() => setChosen(chosen === place ? null : place)}
            onDrop=${(to) => put(place, to)} />
        `,
      );
  return html`
    <div class="ranking" role="group" aria-label="Put the answers in order">
      <div class="ranking-head">
        <p class="muted">
          <span class="for-keys">Drag each answer to its rank, or press its letter, then${" "}
            <kbd>1</kbd> to <kbd>${places.length}</kbd>.</span>
          <span class="for-touch">Tap an answer, then its rank; or drag it there.</span>
          ${" "}Answers on one rank are tied.
        </p>
        <button type="button" class="primary" disabled=${!complete} onClick=${submit}>
          <${Icon} name="check" />Send the order
        </button>
      </div>
      <div class="ranks" data-count=${places.length}>
        <div class="unranked" role="group" aria-label="Not ranked yet">${chips(undefined)}</div>
        ${places.map(
          (_, rank) => html`
            <div class="rank" key=${rank} data-rank=${rank} role="group" aria-label=${TITLES[rank]}>
              <button type="button" class="rank-title" disabled=${chosen === null}
                aria-label=${`${TITLES[rank]}: put it here`}
                onClick=${() => put(chosen, rank)}>${TITLES[rank]}</button>
              <div class="rank-chips">${chips(rank)}</div>
            </div>
          `,
        )}
      </div>
    </div>
  `;
}

/** Return the rank under the pointer, if any. */
const rankAt = (event) =>
  document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-rank]");

function Chip({ letter, chosen, onChoose, onDrop }) {
  const chip = useRef(null);
  const drag = useRef(null); // {x, y, moved} while it is pressed
  const mark = (rank) => {
    for (const other of document.querySelectorAll("[data-rank]")) {
      other.classList.toggle("over", other === rank);
    }
  };
  const press = (event) => {
    chip.current.setPointerCapture(event.pointerId);
    drag.current = { x: event.clientX, y: event.clientY, moved: false };
  };
  const move = (event) => {
    if (!drag.current) return;
    const [dx, dy] = [event.clientX - drag.current.x, event.clientY - drag.current.y];
    drag.current.moved ||= Math.hypot(dx, dy) > DRAG_DISTANCE;
    if (!drag.current.moved) return;
    chip.current.classList.add("dragged");
    chip.current.style.transform = `translate(${dx}px, ${dy}px)`;
    mark(rankAt(event));
  };
  const release = (event) => {
    const moved = drag.current?.moved;
    const rank = event.type === "pointerup" && moved ? rankAt(event) : null;
    drag.current = null;
    chip.current.classList.remove("dragged");
    chip.current.style.transform = "";
    mark(null);
    if (rank) onDrop(Number(rank.dataset.rank));
    else if (!moved && event.type === "pointerup") onChoose();
  };
  // A key press arrives only as a click, without pointer events.
  const click = (event) => event.detail === 0 && onChoose();
  return html`
    <button type="button" class="chip" data-letter=${letter} ref=${chip} aria-pressed=${chosen}
      aria-label=${`Answer ${letter}`} onPointerDown=${press} onPointerMove=${move}
      onPointerUp=${release} onPointerCancel=${release} onClick=${click}>${letter}</button>
  `;
}
