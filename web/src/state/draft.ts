/** Text that was typed but not sent, kept for this tab across reloads. And the passages of answers. */

import type { Passage } from '../api/type';

function recall(key: string): string | null {
  try {
    return sessionStorage.getItem(key);
  } catch {
    return null;
  }
}

function remember(key: string, value: string): void {
  try {
    if (value) sessionStorage.setItem(key, value);
    else sessionStorage.removeItem(key);
  } catch {
    return;
  }
}

const draftKey = (session: string | null): string => `fluvial.draft.${session ?? 'new'}`;

export const recallDraft = (session: string | null): string => recall(draftKey(session)) ?? '';
export const rememberDraft = (session: string | null, text: string): void => remember(draftKey(session), text);

/** The API tells passages once, in the stream: keep them for a reload. */
export function recallPassages(message: string): Passage[] {
  return JSON.parse(recall(`fluvial.passages.${message}`) ?? '[]') as Passage[];
}

export function rememberPassages(message: string, passages: Passage[]): void {
  if (passages.length) remember(`fluvial.passages.${message}`, JSON.stringify(passages));
}
