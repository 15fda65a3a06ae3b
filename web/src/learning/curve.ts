/** From scores to the chart's geometry: what lies where, and what the axes say. */

import type { Score } from '../api/type';

/** One chunk on the chart. `start` and `end` count tokens over the whole selection. */
export interface Part {
  score: Score;
  start: number;
  end: number;
  /** The version changed between the part before and this one. */
  isNewVersion: boolean;
}

export function layOut(scores: readonly Score[]): Part[] {
  let end = 0;
  return scores.map((score, index) => {
    const start = end;
    end += score.tokens;
    const before = scores[index - 1];
    return { score, start, end, isNewVersion: before !== undefined && before.version !== score.version };
  });
}

/** How many parts a smoothed line averages: 1 (none) while single parts can be told apart. */
export const smoothingOf = (parts: number): number => (parts <= 60 ? 1 : 2 * Math.round(parts / 60) + 1);

/** Averages each value with its neighbours, weighted by bytes; `window` parts, fewer at the ends. */
export function smooth(scores: readonly Score[], value: (score: Score) => number, window: number): number[] {
  const reach = (window - 1) / 2;
  return scores.map((_, index) => {
    let bits = 0;
    let bytes = 0;
    for (const score of scores.slice(Math.max(0, index - reach), index + reach + 1)) {
      bits += value(score) * score.bytes;
      bytes += score.bytes;
    }
    return bytes > 0 ? bits / bytes : 0;
  });
}

/** Round values that cover `low` to `high` in about `count` steps. */
export function ticks(low: number, high: number, count: number): number[] {
  const span = high - low;
  if (!(span > 0)) return [low];
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw) ?? 10) * power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}

/** Decimals that a step needs to be written exactly. */
export function digitsOf(step: number): number {
  let digits = 0;
  while (digits < 4 && Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) > 1e-6) digits += 1;
  return digits;
}

/** The range of the surprise axis: all values, with a little air. */
export function surpriseRange(scores: readonly Score[]): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const score of scores) {
    low = Math.min(low, score.frozen_bits_per_byte, score.adapted_bits_per_byte);
    high = Math.max(high, score.frozen_bits_per_byte, score.adapted_bits_per_byte);
  }
  if (!(high >= low)) return [0, 1];
  const air = Math.max((high - low) * 0.08, 0.02);
  return [Math.max(0, low - air), high + air];
}

export const line = (points: readonly (readonly [number, number])[]): string =>
  points.map(([x, y], index) => `${index ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');

/** The area between two lines with the same places. */
export const between = (upper: readonly (readonly [number, number])[], lower: readonly (readonly [number, number])[]): string =>
  upper.length ? `${line(upper)}${line([...lower].reverse()).replace('M', 'L')}Z` : '';
