/** Maths in Markdown: `$…$`, `$$…$$`, `\(…\)` and `\[…\]`, drawn by KaTeX. */

import katex from 'katex';
import type { MarkdownIt, StateBlock, StateInline } from 'markdown-it';

const LONGEST_CHARACTERS = 10_000;

/** Draws TeX as HTML with MathML beside it. Faulty TeX comes back as its own text, in red. */
function draw(tex: string, displayMode: boolean): string {
  const html = katex.renderToString(tex, {
    displayMode,
    throwOnError: false,
    strict: 'ignore',
    trust: false,
    maxSize: 20,
    maxExpand: 200,
  });
  // The sanitiser drops these two MathML elements but keeps what they hold; the TeX would show twice.
  return html.replace(/<annotation\b[^>]*>[^<]*<\/annotation>/g, '').replace(/<\/?semantics>/g, '');
}

/** Teaches a parser the four notations. */
export function addMath(md: MarkdownIt): void {
  md.inline.ruler.before('escape', 'math_bracket', readBracketed);
  md.inline.ruler.after('escape', 'math_dollar', readDollars);
  const alt = ['paragraph', 'reference', 'blockquote', 'list'];
  md.block.ruler.before('fence', 'math_block', readBlock, { alt });
  md.renderer.rules.math_inline = (tokens, index) => draw(tokens[index]?.content ?? '', false);
  md.renderer.rules.math_display = (tokens, index) =>
    `<div class="math">${draw(tokens[index]?.content ?? '', true)}</div>\n`;
}

function push(state: StateInline, silent: boolean, tex: string, end: number, display: boolean): boolean {
  if (!tex.trim() || tex.length > LONGEST_CHARACTERS) return false;
  if (!silent) state.push(display ? 'math_display' : 'math_inline', 'math', 0).content = tex;
  state.pos = end;
  return true;
}

function readBracketed(state: StateInline, silent: boolean): boolean {
  const open = state.src.slice(state.pos, state.pos + 2);
  if (open !== '\\(' && open !== '\\[') return false;
  const close = open === '\\(' ? '\\)' : '\\]';
  const end = state.src.indexOf(close, state.pos + 2);
  if (end < 0 || end >= state.posMax) return false;
  return push(state, silent, state.src.slice(state.pos + 2, end), end + 2, open === '\\[');
}

function readDollars(state: StateInline, silent: boolean): boolean {
  if (state.src[state.pos] !== '$') return false;
  const mark = state.src[state.pos + 1] === '$' ? '$$' : '$';
  const start = state.pos + mark.length;
  const end = closingDollar(state.src, mark, start, state.posMax);
  if (end < 0) return false;
  return push(state, silent, state.src.slice(start, end), end + mark.length, mark === '$$');
}

/** Finds the closing mark. A single dollar must hug its formula, so that prices stay prices. */
function closingDollar(source: string, mark: string, start: number, limit: number): number {
  if (mark === '$' && /\s/.test(source[start] ?? ' ')) return -1;
  for (let at = source.indexOf(mark, start); at >= 0 && at < limit; at = source.indexOf(mark, at + 1)) {
    if (source[at - 1] === '\\') continue;
    if (mark === '$$') return at;
    if (!/\s/.test(source[at - 1] ?? ' ') && !/[\d$]/.test(source[at + 1] ?? '')) return at;
  }
  return -1;
}

const CLOSING: Record<string, string> = { $$: '$$', '\\[': '\\]' };

function readBlock(state: StateBlock, startLine: number, endLine: number, silent: boolean): boolean {
  const lineAt = (line: number): string =>
    state.src.slice((state.bMarks[line] ?? 0) + (state.tShift[line] ?? 0), state.eMarks[line]);
  const first = lineAt(startLine);
  const close = CLOSING[first.slice(0, 2)];
  if (!close || (state.sCount[startLine] ?? 0) - state.blkIndent >= 4) return false;
  const lines = [first.slice(2)];
  let line = startLine;
  while (!(lines.at(-1) ?? '').trimEnd().endsWith(close)) {
    line += 1;
    if (line >= endLine || (state.sCount[line] ?? 0) < state.blkIndent) return false;
    lines.push(lineAt(line));
  }
  const tex = lines.join('\n').trimEnd().slice(0, -2);
  if (tex.includes(close) || !tex.trim() || tex.length > LONGEST_CHARACTERS) return false;
  if (silent) return true;
  const token = state.push('math_display', 'math', 0);
  Object.assign(token, { block: true, content: tex, map: [startLine, line + 1] });
  state.line = line + 1;
  return true;
}
