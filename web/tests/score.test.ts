import { describe, expect, it } from 'vitest';
import type { Score } from '../src/api/type';
import { gainsSoFar, orderScores, summarise } from '../src/learning/score';

let index = 0;
function score(change: Partial<Score>): Score {
  index += 1;
  return {
    index, reading: 'read_1', start: index * 512, tokens: 512, bytes: 2000,
    frozen_bits_per_byte: 1, adapted_bits_per_byte: 0.9, version: 0, learned: true, reason: '', seconds: 0.5, created_at: 0, ...change,
  };
}

describe('summarise', () => {
  it('weights by bytes', () => {
    const long = score({ bytes: 9000, frozen_bits_per_byte: 1, adapted_bits_per_byte: 0.8 });
    const short = score({ bytes: 1000, frozen_bits_per_byte: 3, adapted_bits_per_byte: 3 });
    const summary = summarise([long, short]);
    expect(summary?.frozenBitsPerByte).toBeCloseTo(1.2);
    expect(summary?.adaptedBitsPerByte).toBeCloseTo(1.02);
    expect(summary?.gain).toBeCloseTo(0.15);
    expect(summary).toMatchObject({ chunks: 2, tokens: 1024, bytes: 10000 });
  });

  it('tells when learning made things worse', () => {
    expect(summarise([score({ adapted_bits_per_byte: 1.1 })])?.gain).toBeCloseTo(-0.1);
  });

  it('says nothing about nothing', () => {
    expect(summarise([])).toBeNull();
    expect(summarise([score({ bytes: 0 })])).toBeNull();
  });
});

describe('what was left out, and what it cost', () => {
  it('is counted by reason', () => {
    const skipped = score({ learned: false, reason: 'unsurprising' });
    const summary = summarise([score({}), skipped, skipped, score({ learned: false, reason: 'short' })]);
    expect(summary?.skipped).toEqual(new Map([['unsurprising', 2], ['short', 1]]));
    expect(summary?.seconds).toBe(2);
  });

  it('has no sum where a part of it is not known', () => {
    expect(summarise([score({}), score({ seconds: null })])?.seconds).toBeNull();
  });
});

describe('gainsSoFar', () => {
  it('ends at the gain of the whole', () => {
    const scores = [score({}), score({ bytes: 10, adapted_bits_per_byte: 0.5 }), score({ adapted_bits_per_byte: 1.2 })];
    expect(gainsSoFar(scores).at(-1)).toBeCloseTo(summarise(scores)?.gain ?? NaN);
  });
});

describe('orderScores', () => {
  it('keeps the newest score of each place, in order', () => {
    const old = score({ index: 5, start: 0, adapted_bits_per_byte: 9 });
    const next = score({ index: 6, start: 512 });
    const again = score({ index: 9, start: 0 });
    expect(orderScores([again, next, old])).toEqual([next, again]);
  });

  it('tells readings apart', () => {
    const both = [score({ index: 1, start: 0 }), score({ index: 2, start: 0, reading: 'read_2' })];
    expect(orderScores(both)).toEqual(both);
  });
});
