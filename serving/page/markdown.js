// Rendering the untrusted Markdown of a model: HTML is shown as text, the rest passes DOMPurify,
// and images become links, so that nothing is loaded from other hosts.
import DOMPurify from "./vendor/purify.js";
import { Marked } from "./vendor/marked.js";
import { html, useLayoutEffect, useMemo, useRef } from "./ui.js";

const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "em", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol",
    "p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["href", "title", "align", "start"],
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const escape = (text) =>
  text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

const markdown = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    // One level below the page's own headings.
    heading({ tokens, depth }) {
      const level = Math.min(depth + 1, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    // Task list checkboxes are not controls.
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/**
 * Return the blocks of a text; text that the parser fails on becomes one verbatim block.
 *
 * Deep nesting exhausts the stack, which V8 reports as a RangeError, or as a SyntaxError where
 * it happens while a regular expression is compiled.
 */
function blocksOf(text) {
  try {
    return markdown.lexer(text).filter(({ type }) => type !== "space" && type !== "def");
  } catch {
    return [{ type: "code", raw: text, text }];
  }
}

function htmlOf(token) {
  try {
    return markdown.parser([token]);
  } catch {
    return `<pre>${escape(token.raw)}</pre>`;
  }
}

/** Return a top-level block of Markdown as safe nodes. */
function safeNodes(token) {
  const fragment = DOMPurify.sanitize(htmlOf(token), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const wide of fragment.querySelectorAll("pre, table")) wide.tabIndex = 0; // may scroll
  return fragment;
}

// Rendered again only if its text has changed: in a stream, only the last block.
function Block({ token }) {
  const element = useRef(null);
  useLayoutEffect(() => element.current.replaceChildren(safeNodes(token)), [token.raw]);
  return html`<div ref=${element}></div>`;
}

/** Text as Markdown. */
export function Markdown({ text }) {
  const tokens = useMemo(() => blocksOf(text), [text]);
  return html`<div class="markdown">
    ${tokens.map((token, place) => html`<${Block} key=${place} token=${token} />`)}
  </div>`;
}
