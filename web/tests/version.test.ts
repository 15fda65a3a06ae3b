import { describe, expect, it } from 'vitest';

import { driftShare, gainBefore, isOrdinary, learnsGains, parentsOf } from '../src/learning/version';
import { makeVersion } from './fake';

const first = makeVersion(1);
const second = makeVersion(2);

describe('parentsOf', () => {
  it('names the base, versions by number, and what is not here by its id', () => {
    expect(parentsOf(first, [first])).toEqual([0]);
    expect(parentsOf(second, [first, second])).toEqual([1]);
    const merged = makeVersion(3, { origin: 'merge', parents: [second.id, 'ab'.repeat(32)] });
    expect(parentsOf(merged, [first, second, merged])).toEqual([2, 'abababababab']);
  });

  it('does not take a copy for its own parent', () => {
    const copy = makeVersion(2, { parents: [second.id] });
    expect(parentsOf(copy, [copy])).toEqual(['222222222222']);
  });
});

describe('isOrdinary', () => {
  it('holds for what was read after the version before, and for nothing else', () => {
    const all = [first, second];
    expect(isOrdinary(second, all)).toBe(true);
    expect(isOrdinary(makeVersion(3, { parents: [first.id] }), all)).toBe(false);
    expect(isOrdinary(makeVersion(3, { parents: [second.id], origin: 'import' }), all)).toBe(false);
    expect(isOrdinary(makeVersion(3, { parents: [second.id, first.id] }), all)).toBe(false);
  });
});

describe('driftShare', () => {
  it('is a share of the budget, never more than all of it', () => {
    expect(driftShare(0.025, 0.1)).toBeCloseTo(0.25);
    expect(driftShare(0.3, 0.1)).toBe(1);
    expect(driftShare(-0.001, 0.1)).toBe(0);
  });

  it('says nothing about what nobody measured', () => {
    expect(driftShare(null, 0.1)).toBeNull();
    expect(driftShare(0.1, 0)).toBeNull();
  });
});

describe('gainBefore', () => {
  it('compares with the frozen model', () => {
    expect(gainBefore(makeVersion(1))).toBeCloseTo(0.1);
    expect(gainBefore(makeVersion(1, { score_before_bits_per_byte: 1.2 }))).toBeCloseTo(-0.2);
    expect(gainBefore(makeVersion(1, { frozen_bits_per_byte: null }))).toBeNull();
    expect(gainBefore(makeVersion(1, { frozen_bits_per_byte: 0 }))).toBeNull();
  });
});

describe('learnsGains', () => {
  it('reads the rule, and does not guess where there is none', () => {
    expect(learnsGains(makeVersion(1, { rule: '{"learn_gains":true,"rank":8}' }))).toBe(true);
    expect(learnsGains(makeVersion(1, { rule: '{"learn_gains":false}' }))).toBe(false);
    expect(learnsGains(makeVersion(1, { rule: '' }))).toBe(false);
    expect(learnsGains(makeVersion(1, { rule: 'not json' }))).toBe(false);
  });
});
