/** What versions are made of, and how far they went. */

import type { Version } from '../api/type';

export const BASE = 0;
const SHORT = 12;

/** One parent: its number, or the beginning of its id where this conversation has no such version. */
export type Parent = number | string;

/** What a version was made from; the base where nothing else is named. */
export function parentsOf(version: Version, all: readonly Version[]): Parent[] {
  if (!version.parents.length) return [BASE];
  return version.parents.map((id) => all.find((one) => one.id === id && one !== version)?.number ?? id.slice(0, SHORT));
}

/** Worth a word: not simply the next one after the version before. */
export function isOrdinary(version: Version, all: readonly Version[]): boolean {
  const [parent, ...others] = parentsOf(version, all);
  return version.origin === 'read' && !others.length && parent === version.number - 1;
}

/** Share of the drift budget that is used, 0 to 1; null where drift or budget say nothing. */
export function driftShare(drift: number | null, budget: number): number | null {
  if (drift === null || !(budget > 0)) return null;
  return Math.min(1, Math.max(0, drift / budget));
}

/** Whether its rule moves the gains of activations, which formats of low-rank terms alone can't say. */
export function learnsGains(version: Version): boolean {
  if (!version.rule) return false;
  try {
    return (JSON.parse(version.rule) as { learn_gains?: unknown }).learn_gains === true;
  } catch {
    return false;
  }
}

/** Share of the frozen model's surprise that was removed before this version learned; null if unknown. */
export function gainBefore(version: Version): number | null {
  const { score_before_bits_per_byte: adapted, frozen_bits_per_byte: frozen } = version;
  return adapted === null || frozen === null || frozen <= 0 ? null : 1 - adapted / frozen;
}
