import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { follow, type Listener } from '../src/api/event';

const opened: AbortSignal[] = [];
let hidden = false;

function hide(value: boolean): void {
  hidden = value;
  document.dispatchEvent(new Event('visibilitychange'));
}

function listen(): Listener {
  const ignore = () => undefined;
  return {
    onOpen: vi.fn(),
    onSession: ignore,
    onMessage: ignore,
    onReading: ignore,
    onScore: ignore,
    onVersion: ignore,
    onGone: vi.fn(),
  };
}

/** A stream that stays open until its signal aborts. */
function answer(signal: AbortSignal): Response {
  opened.push(signal);
  const body = new ReadableStream({
    start: (control) => signal.addEventListener('abort', () => control.error(new DOMException('left', 'AbortError'))),
  });
  return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
}

describe('following a session', () => {
  beforeEach(() => {
    opened.length = 0;
    hidden = false;
    vi.spyOn(document, 'hidden', 'get').mockImplementation(() => hidden);
    vi.stubGlobal('fetch', (_: unknown, init: RequestInit) => Promise.resolve(answer(init.signal as AbortSignal)));
  });
  afterEach(() => {
    vi.restoreAllMocks();
    vi.unstubAllGlobals();
  });

  it('gives the connection back while the tab is hidden, and joins again when it is looked at', async () => {
    const ending = new AbortController();
    const listener = listen();
    const following = follow('sess_1', listener, ending.signal);
    await vi.waitFor(() => expect(opened).toHaveLength(1));
    hide(true);
    await vi.waitFor(() => expect(opened[0]?.aborted).toBe(true));
    expect(opened).toHaveLength(1);
    hide(false);
    await vi.waitFor(() => expect(opened).toHaveLength(2));
    await vi.waitFor(() => expect(listener.onOpen).toHaveBeenCalledTimes(2));
    ending.abort();
    await following;
    expect(opened[1]?.aborted).toBe(true);
  });

  it('does not connect from a tab that is hidden from the start, and can be left there', async () => {
    hidden = true;
    const ending = new AbortController();
    const following = follow('sess_1', listen(), ending.signal);
    await Promise.resolve();
    expect(opened).toHaveLength(0);
    ending.abort();
    await following;
    expect(opened).toHaveLength(0);
  });
});
