/** What to tell people about an error: the server's own words where it gave some. */

import { RequestError } from '../api/client';
import { t } from './preference.svelte';

export function explain(error: unknown): string {
  if (!(error instanceof RequestError)) return t().error.unknown;
  if (error.message) return error.message;
  return error.unreachable ? t().error.unreachable : t().error.unknown;
}
