/** What the page says of an answer that the guard refused, stopped, masked, or still holds. */

import { flushSync, mount, unmount } from 'svelte';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Guard, Message } from '../src/api/type';

let drawn: Record<string, unknown> | null = null;

const STOP: Guard = { action: 'stop', category: 'card', message: 'Ask about the weather.' };

function make(content: string, finish: Message['finish'], guard: Guard | null): Message {
  return { id: 'm', role: 'assistant', content, created_at: 0, version: 0, finish, passages: [], guard };
}

async function draw(message: Message, live = false, guard: 'on' | 'off' = 'on'): Promise<void> {
  const { health } = await import('../src/state/health.svelte');
  const { default: AssistantMessage } = await import('../src/components/AssistantMessage.svelte');
  health.current = { status: 'ok', model: 'm', version: '1', learner: 'ready', guard };
  vi.useFakeTimers();
  drawn = mount(AssistantMessage, { target: document.body, props: { message, live, elsewhere: false, onretry: null } });
  flushSync();
}

const at = (name: string): HTMLElement | null => document.querySelector(`[data-testid="${name}"]`);

beforeEach(() => {
  // jsdom has none.
  vi.stubGlobal('matchMedia', () => ({ matches: false, addEventListener: () => undefined }));
});

afterEach(() => {
  if (drawn) void unmount(drawn);
  drawn = null;
  document.body.replaceChildren();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe('the guard', () => {
  it('stops an answer with a notice below what was shown', async () => {
    await draw(make('So far', 'content_filter', STOP));
    expect(document.body.textContent).toContain('So far');
    expect(at('guard-notice')?.textContent).toContain('Ask about the weather.');
    expect(at('guard-notice')?.textContent).toContain('a card number');
  });

  it('says a refusal once, in its notice', async () => {
    await draw(make(STOP.message, 'content_filter', { ...STOP, action: 'refuse', category: 'toString' }));
    expect(document.body.textContent.split(STOP.message)).toHaveLength(2);
    expect(at('guard-notice')?.textContent).toContain('Reason: toString');
  });

  it('tells that parts were masked', async () => {
    await draw(make('So [email]', 'stop', { action: 'redact', category: 'email', message: '' }));
    expect(at('guard-notice')).toBeNull();
    expect(at('guard-masked')).not.toBeNull();
  });

  it.each([
    ['on', true],
    ['off', false],
  ] as const)('with the guard %s, shows that text is checked only after a long wait', async (guard, told) => {
    await draw(make('So far', null, null), true, guard);
    vi.advanceTimersByTime(2900);
    flushSync();
    expect(at('held')).toBeNull();
    vi.advanceTimersByTime(200);
    flushSync();
    expect(at('held') !== null).toBe(told);
  });
});
