/** What to tell people about an error: in their language where the code is known, else in the server's own words. */

import { RequestError } from '../api/client';
import { t } from './preference.svelte';

export function explain(error: unknown): string {
  if (!(error instanceof RequestError)) return t().error.unknown;
  const known = t().error.known[error.code] ?? error.message;
  if (known) return known;
  return error.unreachable ? t().error.unreachable : t().error.unknown;
}
