/** Text that was typed but not sent, kept for this tab across reloads. */

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
