// The user's votes, grouped by status and by the version that learned from them.
import { conversation, conversations } from "./conversations.js";
import { ago, count, html, useStore } from "./ui.js";
import { voteStatus, VoteLine } from "./vote_line.js";
import { unsent, votes } from "./votes.js";

const SHOWN = 200; // of each group

/** Return [heading, votes] for each group: waiting ones first, then by version, latest first. */
function grouped(all) {
  const effective = all.filter((vote) => vote.state !== "undone").toReversed();
  const of = (...names) => effective.filter((vote) => names.includes(voteStatus(vote).name));
  const learned = of("learned");
  const versions = new Set(learned.map((v) => v.learned_in));
  const learnedIn = (version) => learned.filter((v) => v.learned_in === version);
  const groups = [
    ["Waiting to be sent", of("unsent", "undoing")],
    ["Rejected", of("refused")],
    ["Stored, not learned from yet", of("stored")],
    ...[...versions].sort((a, b) => b - a).map((v) => [`Learned in version ${v}`, learnedIn(v), v]),
    ["Stored, not for learning", of("done")],
  ];
  return groups.filter(([, found]) => found.length);
}

export function MyVotes() {
  const all = useStore(votes);
  useStore(conversations);
  const groups = grouped(all);
  return html`
    <div class="view">
      <header class="view-head"><h1>Your votes</h1></header>
      <div class="view-body" tabindex="0" role="region" aria-label="Your votes">
        <p class="muted">Votes given in this browser. The learner trains on new votes once there are
          enough; the resulting version goes live if it is better.</p>
        ${groups.length
          ? groups.map(([title, found, version]) => html`
              <section key=${title} aria-label=${title}>
                <h2>${version ? html`<a href=${`#/learning/${version}`}>${title}</a>` : title}
                  <span class="muted">, ${count(found.length, "vote")}</span></h2>
                <ul class="votes">
                  ${found.slice(0, SHOWN).map(
                    (vote) => html`<${Row} key=${vote.key} vote=${vote} />`,
                  )}
                </ul>
              </section>
            `)
          : html`<p class="muted empty">No votes yet. <a href="#/">Ask something</a>, and say which
              answer is better.</p>`}
      </div>
    </div>
  `;
}

function Row({ vote }) {
  const known = conversation(vote.conversation);
  return html`
    <li>
      <span class="votes-prompt">
        ${known ? html`<a href=${`#/c/${known.id}`}>${vote.prompt}</a>` : vote.prompt}
        <time class="muted" datetime=${new Date(vote.made).toISOString()}>${ago(vote.made)}</time>
      </span>
      <${VoteLine} vote=${vote} />
    </li>
  `;
}

/** The number of unsent votes, for the sidebar. */
export function Waiting() {
  const number = unsent(useStore(votes));
  if (!number) return null;
  return html`<span class="count">${number}<span class="unseen"> not sent</span></span>`;
}
