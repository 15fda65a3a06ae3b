/** What was not learned from, and why, in words. */

import type { Unlearned } from '../api/type';
import { t } from '../state/preference.svelte';

/** Names counts of chunks by reason, most first; null where there are none. */
export function nameSkipped(counts: ReadonlyMap<Unlearned, number>): string | null {
  const reasons = [...counts].sort(([, a], [, b]) => b - a);
  if (!reasons.length) return null;
  const { skipped, unlearned, reasonsJoin } = t().reading;
  const total = reasons.reduce((sum, [, count]) => sum + count, 0);
  const [only] = reasons;
  if (reasons.length === 1 && only) return skipped(total, unlearned[only[0]]);
  return skipped(total, reasons.map(([reason, count]) => `${count} ${unlearned[reason]}`).join(reasonsJoin));
}
