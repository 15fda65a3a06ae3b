import { afterEach, describe, expect, it, vi } from 'vitest';
import { ask, type Piece } from '../src/api/chat';
import { RequestError } from '../src/api/client';

const QUESTION = { session: 'sess_1', parent: null, text: 'Hi', model: 'm' };
const TURN = { session: 'sess_1', user_message: 'msg_1', message: 'msg_2', version: 0, passages: [] };

function answerWith(body: string, status = 200): void {
  const type = status === 200 ? 'text/event-stream' : 'application/json';
  const response = new Response(body, { status, headers: { 'content-type': type } });
  vi.stubGlobal('fetch', vi.fn(() => Promise.resolve(response)));
}

async function collect(): Promise<Piece[]> {
  const pieces: Piece[] = [];
  for await (const piece of ask(QUESTION, new AbortController().signal)) pieces.push(piece);
  return pieces;
}

const chunk = (delta: object, finish: string | null = null, fluvial: object | null = null): string =>
  `data: ${JSON.stringify({ choices: [{ delta, finish_reason: finish }], ...(fluvial && { fluvial }) })}\n\n`;

afterEach(() => vi.unstubAllGlobals());

describe('ask', () => {
  it('sends only what is new, with the last message it has seen', async () => {
    answerWith('data: [DONE]\n\n');
    await collect();
    const [path, init] = vi.mocked(fetch).mock.calls[0] ?? [];
    expect(path).toBe('/v1/chat/completions');
    expect(JSON.parse(init?.body as string)).toEqual({
      model: 'm', messages: [{ role: 'user', content: 'Hi' }], stream: true, fluvial: { session: 'sess_1', parent: null },
    });
  });

  it('yields text, the turn, and our own word for how it ended', async () => {
    const end = { ...TURN, version: 3, finish: 'cancelled' };
    answerWith(chunk({ content: '' }, null, TURN) + chunk({ content: '你' }) + chunk({}, 'stop', end) + 'data: [DONE]\n\n');
    const pieces = await collect();
    expect(pieces.map((piece) => piece.text).join('')).toBe('你');
    expect(pieces[0]?.turn?.message).toBe('msg_2');
    expect(pieces.at(-1)).toMatchObject({ finish: 'cancelled', turn: { version: 3 } });
  });

  it('reads chunks without choices, such as the usage', async () => {
    answerWith('data: {"choices":[],"usage":{"total_tokens":3}}\n\n');
    expect(await collect()).toEqual([{ text: '', finish: null, turn: null, guard: null }]);
  });

  it('fails with the words of an error in the stream', async () => {
    answerWith(`${chunk({ content: 'a' })}event: error\ndata: {"error":{"message":"the engine stopped","code":"engine"}}\n\n`);
    await expect(collect()).rejects.toThrow('the engine stopped');
  });

  it('fails with the words of a refused request', async () => {
    answerWith('{"error":{"message":"moved on","code":"session_changed"}}', 409);
    const error = await collect().catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(RequestError);
    expect(error).toMatchObject({ message: 'moved on', status: 409, code: 'session_changed' });
  });

  it('tells silence from refusal', async () => {
    vi.stubGlobal('fetch', vi.fn(() => Promise.reject(new TypeError('network'))));
    await expect(collect()).rejects.toMatchObject({ status: 0, unreachable: true });
  });

  it('survives an error that is no JSON', async () => {
    answerWith('<html>bad gateway</html>', 502);
    await expect(collect()).rejects.toMatchObject({ status: 502 });
  });
});
