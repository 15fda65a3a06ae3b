/** What the scores say, in sums. Bits are weighted by bytes: long chunks count for more. */

import type { Score } from '../api/type';

export interface Summary {
  chunks: number;
  tokens: number;
  bytes: number;
  frozenBitsPerByte: number;
  adaptedBitsPerByte: number;
  /** Share of the frozen model's surprise that learning removed; negative where it made things worse. */
  gain: number;
}

/** Keeps the newest score of each place (work lost in a crash is scored again), in reading order. */
export function orderScores(scores: readonly Score[]): Score[] {
  const byPlace = new Map<string, Score>();
  for (const score of scores) {
    const place = `${score.reading} ${score.start}`;
    const known = byPlace.get(place);
    if (!known || known.index <= score.index) byPlace.set(place, score);
  }
  return [...byPlace.values()].sort((a, b) => a.index - b.index);
}

/** Sums scores up; null where there is nothing to compare. */
export function summarise(scores: readonly Score[]): Summary | null {
  let tokens = 0;
  let bytes = 0;
  let frozenBits = 0;
  let adaptedBits = 0;
  for (const score of scores) {
    tokens += score.tokens;
    bytes += score.bytes;
    frozenBits += score.frozen_bits_per_byte * score.bytes;
    adaptedBits += score.adapted_bits_per_byte * score.bytes;
  }
  if (bytes === 0 || frozenBits <= 0) return null;
  return {
    chunks: scores.length,
    tokens,
    bytes,
    frozenBitsPerByte: frozenBits / bytes,
    adaptedBitsPerByte: adaptedBits / bytes,
    gain: 1 - adaptedBits / frozenBits,
  };
}

/** The gain over all chunks up to and including each one. */
export function gainsSoFar(scores: readonly Score[]): number[] {
  let frozenBits = 0;
  let adaptedBits = 0;
  return scores.map((score) => {
    frozenBits += score.frozen_bits_per_byte * score.bytes;
    adaptedBits += score.adapted_bits_per_byte * score.bytes;
    return frozenBits > 0 ? 1 - adaptedBits / frozenBits : 0;
  });
}
