import { describe, expect, it } from 'vitest';
import { SseParser, readEvents, type SseEvent } from '../src/api/sse';

const TEXT =
  ': hello\n\nevent: score\ndata: {"name":"数据 😀 é"}\n\ndata: one\r\ndata: two\r\n\r\ndata:[DONE]\r\revent: lost\n\nid: 3\ndata\n\n';
const WANTED: SseEvent[] = [
  { name: 'score', data: '{"name":"数据 😀 é"}' },
  { name: 'message', data: 'one\ntwo' },
  { name: 'message', data: '[DONE]' },
  { name: 'message', data: '' },
];
const BYTES = new TextEncoder().encode(TEXT);

function parse(...pieces: Uint8Array[]): SseEvent[] {
  const parser = new SseParser();
  return pieces.flatMap((piece) => parser.push(piece));
}

describe('SseParser', () => {
  it('reads a whole stream', () => expect(parse(BYTES)).toEqual(WANTED));

  it('reads the same events split in two at any byte', () => {
    for (let cut = 0; cut <= BYTES.length; cut++)
      expect(parse(BYTES.slice(0, cut), BYTES.slice(cut)), `cut at ${cut}`).toEqual(WANTED);
  });

  it('reads the same events byte by byte', () => {
    expect(parse(...Array.from(BYTES, (byte) => Uint8Array.of(byte)))).toEqual(WANTED);
  });

  it('holds an unfinished event back', () => {
    expect(parse(new TextEncoder().encode('data: half\n'))).toEqual([]);
  });

  it('reads a response body to its end', async () => {
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (const byte of BYTES) controller.enqueue(Uint8Array.of(byte));
        controller.close();
      },
    });
    const events: SseEvent[] = [];
    for await (const event of readEvents(body)) events.push(event);
    expect(events).toEqual(WANTED);
  });
});
