import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Conversation } from '../src/state/conversation.svelte';

const SESSION = {
  id: 'sess_1',
  title: '',
  model: 'small',
  learning: 'on',
  version: 0,
  created_at: 0,
  updated_at: 0,
  busy: false,
  reading: false,
  available: true,
  context: { used_tokens: 0, limit_tokens: 2048 },
};
const TURN = { session: 'sess_1', user_message: 'msg_1', message: 'msg_2', version: 0, passages: [] };

/** Answers in the hands of the test: the list of messages, and the stream of an answer. */
class Server {
  giveMessages!: (messages: unknown[]) => void;
  #stream!: ReadableStreamDefaultController<Uint8Array>;

  readonly fetch = (path: string, init: RequestInit = {}): Promise<Response> => {
    if (path === '/v1/chat/completions') return Promise.resolve(new Response(this.#open()));
    if (path.endsWith('/messages'))
      return new Promise((resolve) => (this.giveMessages = (data) => resolve(Response.json({ data }))));
    if (path.endsWith('/events')) return Promise.resolve(new Response(this.#stay(init)));
    if (path.endsWith('/versions')) return Promise.resolve(Response.json({ current: 0, data: [] }));
    if (/readings|scores/.test(path)) return Promise.resolve(Response.json({ data: [] }));
    return Promise.resolve(Response.json(SESSION));
  };

  tell(chunk: unknown): void {
    this.#stream.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(chunk)}\n\n`));
  }

  end(): void {
    this.#stream.close();
  }

  #open(): ReadableStream<Uint8Array> {
    return new ReadableStream({ start: (control) => void (this.#stream = control) });
  }

  #stay(init: RequestInit): ReadableStream {
    return new ReadableStream({ start: (control) => init.signal?.addEventListener('abort', () => control.close()) });
  }
}

describe('an answer that comes while the lists are being read', () => {
  const server = new Server();
  beforeEach(() => {
    vi.stubGlobal('fetch', server.fetch);
    // jsdom has none; the page asks for the colour scheme as it is loaded.
    vi.stubGlobal('matchMedia', () => Object.assign(new EventTarget(), { matches: false }));
  });
  afterEach(() => {
    vi.unstubAllGlobals();
  });

  it('is not lost to a list that was read before the question was stored', async () => {
    const { Conversation } = await import('../src/state/conversation.svelte');
    const conversation: Conversation = new Conversation(null, (made) => made.enter());
    const asked = conversation.ask('hello');
    await vi.waitFor(() => expect(server.giveMessages).toBeDefined());
    server.tell({ choices: [{ delta: { content: 'Good ' } }], fluvial: TURN });
    await vi.waitFor(() => expect(conversation.messages).toHaveLength(2));
    server.giveMessages([]);
    await vi.waitFor(() => expect(conversation.loaded).toBe(true));
    server.tell({ choices: [{ delta: { content: 'day' }, finish_reason: 'stop' }] });
    server.end();
    await asked;
    conversation.leave();
    expect(conversation.problem).toBeNull();
    expect(conversation.messages.map((message) => message.content)).toEqual(['hello', 'Good day']);
    expect(conversation.messages.at(-1)?.finish).toBe('stop');
  });

  it('shows the question as the guard had it stored, and what the guard did to the answer', async () => {
    const { Conversation } = await import('../src/state/conversation.svelte');
    const conversation: Conversation = new Conversation('sess_1', () => undefined);
    conversation.messages = [];
    const asked = conversation.ask('I am Ada');
    const stored = { id: 'msg_1', role: 'user', content: 'I am [name]', created_at: 0, version: 0, finish: null, passages: [] };
    conversation.onMessage({ ...stored, role: 'user' });
    const guard = { action: 'stop', category: 'name', message: 'Ask about the weather.' };
    await vi.waitFor(() => server.tell({ choices: [{ delta: { content: 'Good ' } }], fluvial: TURN }));
    server.tell({ choices: [{ delta: {}, finish_reason: 'content_filter' }], fluvial: { ...TURN, finish: 'content_filter', guard } });
    server.end();
    await asked;
    expect(conversation.messages.map((message) => message.content)).toEqual(['I am [name]', 'Good ']);
    expect(conversation.messages.at(-1)).toMatchObject({ finish: 'content_filter', guard });
  });
});
