import { describe, expect, it } from 'vitest';
import type { Message, Reading } from '../src/api/type';
import { buildTimeline } from '../src/state/timeline';

const message = (id: string, created_at: number): Message =>
  ({ id, role: 'user', content: id, created_at, version: 0, finish: null, passages: [] });

const reading = (id: string, created_at: number): Reading => ({
  id, session: 's', kind: 'document', name: id, status: 'done', bytes: 1, text: true, tokens_total: 1, tokens_read: 1,
  tokens_per_s: null, seconds_left: null, created_at, error: null,
});

function order(messages: Message[], readings: Reading[]): string[] {
  return buildTimeline(messages, readings).map((entry) => (entry.kind === 'message' ? entry.message.id : entry.reading.id));
}

describe('buildTimeline', () => {
  it('puts each document before the first message that came after it', () => {
    expect(order([message('a', 1), message('b', 5)], [reading('y', 6), reading('x', 3)])).toEqual(['a', 'x', 'b', 'y']);
  });

  it('never reorders messages, whatever their clocks say', () => {
    expect(order([message('a', 9), message('b', 2)], [reading('x', 5)])).toEqual(['x', 'a', 'b']);
  });

  it('shows documents where there are no messages', () => {
    expect(order([], [reading('x', 1)])).toEqual(['x']);
  });
});
