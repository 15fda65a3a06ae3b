/** Messages and documents as one line of time. */

import type { Message, Reading } from '../api/type';

export type Entry = { kind: 'message'; message: Message } | { kind: 'reading'; reading: Reading };

/** Messages keep their order; each document stands before the first message that came after it. */
export function buildTimeline(messages: readonly Message[], documents: readonly Reading[]): Entry[] {
  const waiting = [...documents].sort((a, b) => a.created_at - b.created_at);
  const entries: Entry[] = [];
  for (const message of messages) {
    while (waiting[0] && waiting[0].created_at < message.created_at) {
      const reading = waiting.shift();
      if (reading) entries.push({ kind: 'reading', reading });
    }
    entries.push({ kind: 'message', message });
  }
  return [...entries, ...waiting.map((reading) => ({ kind: 'reading' as const, reading }))];
}
