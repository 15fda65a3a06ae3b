/** What the scores say, in sums. Bits are weighted by bytes: long chunks count for more. */

import type { Score, Unlearned } from '../api/type';

export interface Summary {
  chunks: number;
  tokens: number;
  bytes: number;
  frozenBitsPerByte: number;
  adaptedBitsPerByte: number;
  /** Share of the frozen model's surprise that learning removed; negative where it made things worse. */
  gain: number;
  /** Chunks that were not learned from, by reason. */
  skipped: Map<Unlearned, number>;
  /** What reading took; null where the server did not measure every chunk. */
  seconds: number | null;
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
    skipped: countSkipped(scores),
    seconds: addSeconds(scores),
  };
}

function countSkipped(scores: readonly Score[]): Map<Unlearned, number> {
  const counts = new Map<Unlearned, number>();
  for (const score of scores) if (!score.learned) counts.set(score.reason, (counts.get(score.reason) ?? 0) + 1);
  return counts;
}

/** A sum that lacks chunks would understate the cost: then there is none. */
function addSeconds(scores: readonly Score[]): number | null {
  let seconds = 0;
  for (const score of scores) {
    if (score.seconds === null) return null;
    seconds += score.seconds;
  }
  return seconds;
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
