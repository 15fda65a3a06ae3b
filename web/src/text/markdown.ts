/** Markdown to safe HTML, block by block, so that a growing answer costs what is new and not what is there. */

import MarkdownIt from 'markdown-it';
import type { Env, Token } from 'markdown-it';
import { highlight } from './highlight';
import { addMath } from './math';
import { sanitise } from './sanitise';

const md = new MarkdownIt({ html: false, linkify: true, breaks: true });
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
addMath(md);

const escape = md.utils.escapeHtml;

function drawCode(code: string, info: string): string {
  const language = info.trim().split(/\s+/)[0]?.toLowerCase() ?? '';
  const body = highlight(code, language) ?? escape(code);
  const head = `<div class="code-head"><span>${escape(language)}</span><button type="button" class="code-copy"></button></div>`;
  return `<div class="code">${head}<pre tabindex="0"><code>${body}</code></pre></div>\n`;
}

md.renderer.rules.fence = (tokens, index) => drawCode(tokens[index]?.content ?? '', tokens[index]?.info ?? '');
md.renderer.rules.code_block = (tokens, index) => drawCode(tokens[index]?.content ?? '', '');
md.renderer.rules.table_open = () => '<div class="table" tabindex="0"><table>\n';
md.renderer.rules.table_close = () => '</table></div>\n';

/** No picture is fetched from elsewhere: it becomes a link to it. */
md.renderer.rules.image = (tokens, index) => {
  const source = String(tokens[index]?.attrGet('src') ?? '');
  const label = tokens[index]?.content || source;
  return `<a class="picture" href="${escape(source)}">${escape(label)}</a>`;
};

/** One top-level block: where it starts in the text, and its HTML. */
export interface Block {
  start: number;
  html: string;
}

/** Splits tokens at the top level: each group opens and closes itself. */
function group(tokens: Token[]): Token[][] {
  const groups: Token[][] = [];
  let depth = 0;
  for (const token of tokens) {
    if (depth === 0) groups.push([]);
    groups.at(-1)?.push(token);
    depth += token.nesting;
  }
  return groups;
}

/** Returns the offset at which each line starts. */
function lineStarts(text: string): number[] {
  const starts = [0];
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) starts.push(at + 1);
  return starts;
}

function render(text: string, offset: number, env: Env): Block[] {
  const starts = lineStarts(text);
  return group(md.parse(text, env)).map((tokens) => ({
    start: offset + (starts[tokens[0]?.map?.[0] ?? 0] ?? 0),
    html: sanitise(md.renderer.render(tokens, md.options, env)),
  }));
}

/** Renders a whole text. */
export function renderMarkdown(text: string): string {
  return render(text.replace(/\r\n?/g, '\n'), 0, {}).map((block) => block.html).join('');
}

/**
 * Renders a text that grows at its end. All blocks but the last two are settled: they are kept as they
 * are, and parsing starts after them. (Two, because a line may still join or retitle the block above it.)
 */
export class GrowingMarkdown {
  #text = '';
  #env: Env = {};
  #blocks: Block[] = [];

  /** Takes the text so far; returns all blocks, the settled ones as the same objects as before. */
  update(text: string): Block[] {
    const clean = text.replace(/\r\n?/g, '\n');
    if (!clean.startsWith(this.#text)) this.#blocks = [];
    const settled = this.#blocks.slice(0, -2);
    const offset = this.#blocks[settled.length]?.start ?? 0;
    this.#blocks = [...settled, ...render(clean.slice(offset), offset, this.#env)];
    this.#text = clean;
    return this.#blocks;
  }

  /** Renders the finished text once more as a whole: links defined at its end now reach its beginning. */
  finish(text: string): Block[] {
    this.#blocks = [];
    this.#env = {};
    return this.update(text);
  }
}
