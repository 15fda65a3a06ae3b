/** What can be merged, and with what weight. The limits are the server's. */

import type { Part, Publication, Version } from '../api/type';

export const MOST_PARTS = 8;
export const MOST_WEIGHT = 4;
export const MOST_RANK = 64;

/** One version that may be chosen. `key` names it among all. */
export interface Choice {
  key: string;
  short: string;
  tokens: number;
  drift: number | null;
  /** A version's number, or the name of what is published. */
  handle: number | string;
  session: string | null;
}

export const chooseVersion = (version: Version, session: string | null): Choice => ({
  key: `${session ?? ''}/${version.number}`,
  short: version.short,
  tokens: version.tokens_learned,
  drift: version.drift,
  handle: version.number,
  session,
});

export const choosePublication = (publication: Publication): Choice => ({
  key: `@${publication.name}`,
  short: publication.short,
  tokens: publication.tokens_learned,
  drift: publication.drift,
  handle: publication.name,
  session: null,
});

export const isWeight = (weight: number | null | undefined): weight is number =>
  typeof weight === 'number' && Number.isFinite(weight) && weight !== 0 && Math.abs(weight) <= MOST_WEIGHT;

/** Whether a rank can be asked for; null leaves it to the server. */
export const isRank = (rank: number | null): boolean => rank === null || (Number.isInteger(rank) && rank >= 1 && rank <= MOST_RANK);

export function makePart(choice: Choice, weight: number): Part {
  if (typeof choice.handle === 'string') return { weight, published: choice.handle };
  const part = { weight, version: `${choice.handle}` };
  return choice.session === null ? part : { ...part, session: choice.session };
}
