/** Names under which versions are published. */

import type { Publication } from '../api/type';

const NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const SUGGESTED = 40;

/** Whether the server takes this as a name. */
export const isName = (name: string): boolean => NAME.test(name);

/** Suggests a free name from a conversation's title; empty where the title has no letter that a name may have. */
export function suggestName(title: string, number: number, taken: readonly Publication[]): string {
  const words = title.normalize('NFKD').toLowerCase().replace(/[\u0300-\u036f]/g, '');
  const stem = words.replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '').slice(0, SUGGESTED).replace(/-$/, '');
  if (!stem) return '';
  const name = `${stem}-${number}`;
  return taken.some((one) => one.name === name) ? '' : name;
}
