/** The last gate before HTML meets the page: DOMPurify, narrowed to what our renderer writes. */

import DOMPurify from 'dompurify';
import type { Config } from 'dompurify';

const purify = DOMPurify(window);

const SAFE_LINK = /^(?:https?:|mailto:)/i;

purify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName !== 'A') return;
  if (!SAFE_LINK.test(node.getAttribute('href') ?? '')) return node.removeAttribute('href');
  node.setAttribute('target', '_blank');
  node.setAttribute('rel', 'noopener noreferrer nofollow');
});

// `button` is our own copy button; it carries no behaviour of its own.
const config: Config = {
  USE_PROFILES: { html: true, svg: true, mathMl: true },
  FORBID_TAGS: [
    'style', 'form', 'input', 'textarea', 'select', 'option', 'label', 'dialog', 'img', 'image', 'picture', 'source',
    'video', 'audio', 'track', 'map', 'area', 'iframe', 'object', 'embed', 'animate', 'animatetransform',
    'animatemotion', 'set', 'use', 'feimage', 'filter', 'mglyph', 'maction', 'title', 'details', 'marquee',
  ],
  FORBID_ATTR: ['id', 'name', 'src', 'srcset', 'background', 'poster', 'action', 'formaction', 'autofocus', 'usemap'],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: true,
  RETURN_TRUSTED_TYPE: false,
};

export function sanitise(html: string): string {
  return purify.sanitize(html, config) as string;
}
