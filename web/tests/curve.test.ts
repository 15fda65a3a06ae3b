import { describe, expect, it } from 'vitest';
import type { Score } from '../src/api/type';
import { between, digitsOf, layOut, line, smooth, smoothingOf, surpriseRange, ticks } from '../src/learning/curve';

function score(tokens: number, version: number, frozen = 1, adapted = 0.9): Score {
  return {
    index: 0, reading: 'read_1', start: 0, tokens, bytes: tokens * 4, frozen_bits_per_byte: frozen,
    adapted_bits_per_byte: adapted, version, learned: true, reason: '', seconds: 0.5, created_at: 0,
  };
}

describe('layOut', () => {
  it('counts tokens over the whole selection and marks where the version changes', () => {
    const parts = layOut([score(512, 0), score(512, 1), score(100, 1)]);
    expect(parts.map(({ start, end, isNewVersion }) => [start, end, isNewVersion])).toEqual([
      [0, 512, false], [512, 1024, true], [1024, 1124, false],
    ]);
  });
});

describe('ticks', () => {
  it('are round and inside the range', () => {
    expect(ticks(0, 7759, 4)).toEqual([0, 2000, 4000, 6000]);
    expect(ticks(0.81, 1.42, 4).map((tick) => tick.toFixed(1))).toEqual(['1.0', '1.2', '1.4']);
  });

  it('survive a range without extent', () => expect(ticks(1, 1, 4)).toEqual([1]));
});

describe('digitsOf', () => {
  it.each([[500, 0], [1, 0], [0.5, 1], [0.25, 2], [0.025, 3], [0.1 + 0.2, 1]])('writes a step of %d with %d decimals', (step, digits) => {
    expect(digitsOf(step)).toBe(digits);
  });
});

describe('surpriseRange', () => {
  it('covers both lines with air, and never goes below zero', () => {
    const [low, high] = surpriseRange([score(1, 0, 1.4, 1.2), score(1, 0, 0.01, 0)]);
    expect(low).toBe(0);
    expect(high).toBeGreaterThan(1.4);
  });

  it('has a range for nothing', () => expect(surpriseRange([])).toEqual([0, 1]));
});

describe('paths', () => {
  const points = [[0, 1], [2, 3]] as const;
  it('draw a line', () => expect(line(points)).toBe('M0.0 1.0L2.0 3.0'));
  it('close an area', () => expect(between(points, [[0, 5], [2, 6]])).toBe('M0.0 1.0L2.0 3.0L2.0 6.0L0.0 5.0Z'));
  it('draw nothing for nothing', () => expect(between([], [])).toBe(''));
});

describe('smooth', () => {
  const scores = [score(10, 0, 1), score(30, 0, 2), score(10, 0, 4)];

  it('weights by bytes and shrinks at the ends', () => {
    expect(smooth(scores, (one) => one.frozen_bits_per_byte, 3)).toEqual([70 / 40, 110 / 50, 100 / 40]);
  });

  it('leaves values alone with a window of one', () => {
    expect(smooth(scores, (one) => one.frozen_bits_per_byte, 1)).toEqual([1, 2, 4]);
  });

  it('is asked for only where there are many parts, and is always odd', () => {
    expect(smoothingOf(60)).toBe(1);
    for (const parts of [61, 100, 301, 5000]) expect(smoothingOf(parts) % 2).toBe(1);
  });
});
