/** What the panel shows and does, drawn for real, against a server in the hands of the test. */

import { flushSync, mount, unmount, type Component } from 'svelte';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Note } from '../src/api/type';
import type { Conversation } from '../src/state/conversation.svelte';
import { FakeServer, makeReading, makeScore, makeSession, makeVersion, refuse } from './fake';

let drawn: Record<string, unknown> | null = null;
let server: FakeServer;

const VERSIONS = '/v1/sessions/sess_1/versions';

function serve(routes: Record<string, (body: unknown) => unknown>): void {
  server = new FakeServer(routes);
  vi.stubGlobal('fetch', server.fetch);
}

async function makeConversation(): Promise<Conversation> {
  const module = await import('../src/state/conversation.svelte');
  const conversation = new module.Conversation('sess_1', () => undefined);
  conversation.session = makeSession();
  conversation.learning.driftBudget = 0.1;
  conversation.learning.limitBytes = 64_000_000;
  conversation.learning.versions = [makeVersion(1), makeVersion(2)];
  return conversation;
}

function draw<P extends Record<string, unknown>>(component: Component<P>, props: P): void {
  drawn = mount(component, { target: document.body, props });
  flushSync();
}

async function drawVersions(conversation: Conversation): Promise<void> {
  const { default: VersionList } = await import('../src/components/VersionList.svelte');
  draw(VersionList, { conversation, session: conversation.session ?? makeSession() });
  server.calls.length = 0; // it asks what is published
}

const find = <E extends Element = HTMLElement>(query: string): E => {
  const found = document.querySelector<E>(query);
  if (!found) throw new Error(`nothing matches ${query}`);
  return found;
};
const item = (number: number): HTMLElement => find(`[data-testid="version-item"][data-version="${number}"]`);
const button = (number: number, name: string): HTMLButtonElement => {
  const found = item(number).querySelector<HTMLButtonElement>(`[data-testid="${name}"]`);
  if (!found) throw new Error(`version ${number} has no ${name}`);
  return found;
};
const text = (element: Element): string => (element.textContent ?? '').replace(/\s+/g, ' ').trim();

async function settle(): Promise<void> {
  for (let turn = 0; turn < 12; turn++) await new Promise((resolve) => setTimeout(resolve));
  flushSync();
}

beforeEach(() => {
  // jsdom has none of these.
  vi.stubGlobal('matchMedia', () => Object.assign(new EventTarget(), { matches: false }));
  HTMLDialogElement.prototype.showModal = function () {
    this.open = true;
  };
  HTMLDialogElement.prototype.close = function () {
    this.open = false;
  };
  serve({});
});

afterEach(async () => {
  if (drawn) await unmount(drawn);
  drawn = null;
  const { toasts } = await import('../src/state/toast.svelte');
  toasts.list = [];
  vi.unstubAllGlobals();
});

describe('the list of versions', () => {
  it('shows what each one is, what it cost in drift, and why', async () => {
    const conversation = await makeConversation();
    const notes: Note[] = [{ code: 'scaled_back', drift: 0.161, budget: 0.1 }];
    conversation.learning.versions.push(makeVersion(3, { parents: ['1'.repeat(64)], skipped: 2, pinned: true, scale: 0.62, notes }));
    await drawVersions(conversation);
    const shown = text(item(3));
    expect(shown).toContain('333333333333');
    expect(shown).toContain('2 parts left out by the rule');
    expect(shown).toContain('learned from version 1');
    expect(shown).toContain('1.000 → 0.900 bits per byte');
    expect(shown).toContain('10.0% less');
    expect(shown).toContain('Pinned');
    const meter = item(3).querySelector('[role="meter"]');
    expect(meter?.getAttribute('aria-valuenow')).toBe('50');
    expect(meter?.getAttribute('aria-valuetext')).toBe('drift 0.05 of 0.1 nats a token');
    expect(shown).toContain('62.0% of its change was kept; scaled back: its drift was 0.16, over the budget of 0.1');
    // An ordinary origin is in the details only.
    expect(item(2).querySelector('.facts .long')).toBeNull();
    expect(text(item(2))).toContain('Origin learned from version 1');
    expect(item(2).dataset.current).toBe('true');
    expect(text(find('[data-testid="version-quota"]'))).toBe('3 MB of 64 MB used');
  });

  it('says so where drift or surprise are not known', async () => {
    const conversation = await makeConversation();
    conversation.learning.versions = [makeVersion(1, { drift: null, score_before_bits_per_byte: null })];
    await drawVersions(conversation);
    expect(text(item(1))).toContain('drift not measured');
    expect(item(1).querySelector('[role="meter"]')).toBeNull();
    expect(item(1).querySelector('[data-testid="version-surprise"]')).toBeNull();
  });

  it('opens details by a button that tells its state, and can not delete what is in force', async () => {
    await drawVersions(await makeConversation());
    const more = button(2, 'version-more');
    expect(more.getAttribute('aria-expanded')).toBe('false');
    more.click();
    flushSync();
    expect(more.getAttribute('aria-expanded')).toBe('true');
    expect(document.getElementById(more.getAttribute('aria-controls') ?? '')?.hidden).toBe(false);
    expect(button(2, 'delete-version').disabled).toBe(true);
    expect(button(1, 'delete-version').disabled).toBe(false);
  });

  it('goes back, and takes that back', async () => {
    const conversation = await makeConversation();
    serve({
      [`POST ${VERSIONS}/1/restore`]: () => makeSession({ version: 1 }),
      [`POST ${VERSIONS}/2/restore`]: () => makeSession({ version: 2 }),
    });
    await drawVersions(conversation);
    const { toasts } = await import('../src/state/toast.svelte');
    button(1, 'undo-version').click();
    await settle();
    expect(conversation.session?.version).toBe(1);
    expect(toasts.list.at(-1)?.text).toBe('Version 1 is in force.');
    toasts.list.at(-1)?.action?.run();
    await settle();
    expect(conversation.session?.version).toBe(2);
    expect(server.paths('POST')).toEqual([`${VERSIONS}/1/restore`, `${VERSIONS}/2/restore`]);
  });

  it('pins, and unpins', async () => {
    const conversation = await makeConversation();
    serve({ [`PATCH ${VERSIONS}/1`]: (body) => makeVersion(1, body as { pinned: boolean }) });
    await drawVersions(conversation);
    button(1, 'pin-version').click();
    await settle();
    expect(server.calls.at(-1)?.body).toEqual({ pinned: true });
    expect(button(1, 'pin-version').getAttribute('aria-pressed')).toBe('true');
    button(1, 'pin-version').click();
    await settle();
    expect(server.calls.at(-1)?.body).toEqual({ pinned: false });
  });

  it('deletes only after a yes', async () => {
    const conversation = await makeConversation();
    serve({ [`DELETE ${VERSIONS}/1`]: () => new Response(null, { status: 204 }) });
    await drawVersions(conversation);
    const { questions } = await import('../src/state/question.svelte');
    button(1, 'delete-version').click();
    questions.answer(false);
    await settle();
    expect(server.calls).toEqual([]);
    button(1, 'delete-version').click();
    questions.answer(true);
    await settle();
    expect(conversation.learning.versions.map((one) => one.number)).toEqual([2]);
  });

  it('tells what the server said where something fails, and lets go of the buttons', async () => {
    const conversation = await makeConversation();
    serve({ [`PATCH ${VERSIONS}/1`]: () => refuse(507, 'storage_full', 'the disk is full') });
    await drawVersions(conversation);
    button(1, 'pin-version').click();
    flushSync();
    expect(button(1, 'branch-version').disabled).toBe(true);
    await settle();
    const { toasts } = await import('../src/state/toast.svelte');
    expect(toasts.list.at(-1)?.text).toBe('the disk is full');
    expect(button(1, 'branch-version').disabled).toBe(false);
  });

  it('is read again where a new version is over the quota, since the oldest go without a word', async () => {
    const conversation = await makeConversation();
    const big = makeVersion(3, { bytes: 63_500_000 });
    const list = { current: 3, drift_budget: 0.1, bytes: 63_500_000, limit_bytes: 64_000_000, data: [big] };
    serve({ [`GET ${VERSIONS}`]: () => list });
    conversation.onVersion(makeVersion(2, { updates: 9 }));
    expect(conversation.learning.versions.map((one) => one.updates)).toEqual([8, 9]);
    expect(server.calls).toEqual([]);
    conversation.onVersion(big);
    await settle();
    expect(conversation.learning.versions.map((one) => one.number)).toEqual([3]);
  });

  it('branches with the messages if asked to', async () => {
    const conversation = await makeConversation();
    conversation.messages = [{ id: 'm', role: 'user', content: 'x', created_at: 0, version: 0, finish: null, passages: [] }];
    serve({ [`POST ${VERSIONS}/1/branch`]: () => makeSession({ id: 'sess_2', version: 1 }) });
    await drawVersions(conversation);
    const { questions } = await import('../src/state/question.svelte');
    button(1, 'branch-version').click();
    expect(questions.current?.option).toBe('Copy the messages too');
    questions.ticked = true;
    questions.answer(true);
    await settle();
    expect(server.calls[0]?.body).toEqual({ title: 'Rivers', messages: true });
    expect(location.hash).toBe('#/s/sess_2');
  });
});

describe('downloads', () => {
  const name = 'attachment; filename="sess_1-1.zip"';
  let saved: string[];

  beforeEach(() => {
    saved = [];
    URL.createObjectURL = () => 'blob:1';
    URL.revokeObjectURL = () => undefined;
    vi.spyOn(HTMLAnchorElement.prototype, 'click').mockImplementation(function (this: HTMLAnchorElement) {
      saved.push(this.download);
    });
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });

  const download = (number: number, format: string): void =>
    item(number).querySelector<HTMLButtonElement>(`[data-testid="export-version"][data-format="${format}"]`)?.click();
  const hand = (loss: string): Response => new Response('data', { headers: { 'content-disposition': name, 'fluvial-loss': loss } });

  it('ask before a format loses something, and tell how much it lost', async () => {
    const conversation = await makeConversation();
    serve({
      [`GET ${VERSIONS}/1/export?format=peft&lossy=false`]: () => refuse(400, 'unsupported', 'it has gains'),
      [`GET ${VERSIONS}/1/export?format=peft&lossy=true`]: () => hand('0.031'),
    });
    await drawVersions(conversation);
    const { questions } = await import('../src/state/question.svelte');
    const { toasts } = await import('../src/state/toast.svelte');
    download(1, 'peft');
    await settle();
    expect(questions.current?.title).toBe('Convert to PEFT with a loss?');
    expect(saved).toEqual([]);
    questions.answer(true);
    await settle();
    expect(saved).toEqual(['sess_1-1.zip']);
    expect(toasts.list.at(-1)?.text).toContain('3.1%');
  });

  it('ask at once where the rule says that there are gains', async () => {
    const conversation = await makeConversation();
    conversation.learning.versions = [makeVersion(1, { rule: '{"learn_gains":true}' }), makeVersion(2)];
    await drawVersions(conversation);
    const { questions } = await import('../src/state/question.svelte');
    download(1, 'gguf');
    await settle();
    expect(questions.current?.title).toContain('GGUF');
    questions.answer(false);
    await settle();
    expect(server.calls).toEqual([]);
    expect(saved).toEqual([]);
  });

  it('of everything need no question', async () => {
    const conversation = await makeConversation();
    serve({ [`GET ${VERSIONS}/2/export?format=fluvial&lossy=false`]: () => hand('0') });
    await drawVersions(conversation);
    download(2, 'fluvial');
    await settle();
    expect(saved).toEqual(['sess_1-1.zip']);
  });
});

describe('the comparison', () => {
  const answer = (a: number, b: number) => ({
    tokens: 40, bytes: 160, a: { number: 1, bits_per_byte: a }, b: { number: 2, bits_per_byte: b }, base: { number: 0, bits_per_byte: 1.25 },
  });

  async function open(): Promise<void> {
    await drawVersions(await makeConversation());
    button(1, 'compare-version').click();
    flushSync();
  }

  function write(value: string): void {
    const field = find<HTMLTextAreaElement>('[data-testid="compare-text"]');
    field.value = value;
    field.dispatchEvent(new Event('input', { bubbles: true }));
    flushSync();
  }

  const go = (): HTMLButtonElement => find('[data-testid="compare-go"]');

  it('sets the asked version against the one in force, and needs a text', async () => {
    await open();
    expect(find<HTMLSelectElement>('[data-testid="compare-a"]').selectedOptions[0]?.label).toBe('Version 1');
    expect(find<HTMLSelectElement>('[data-testid="compare-b"]').selectedOptions[0]?.label).toBe('Version 2');
    expect(go().disabled).toBe(true);
    write('  ');
    expect(go().disabled).toBe(true);
    write('A river');
    expect(go().disabled).toBe(false);
  });

  it('says which one predicts the text better', async () => {
    serve({ 'POST /v1/sessions/sess_1/compare': () => answer(1.1, 1.0) });
    await open();
    write('A river');
    go().click();
    await settle();
    expect(server.calls[0]?.body).toEqual({ a: '1', b: '2', text: 'A river' });
    expect(text(find('[data-testid="compare-verdict"]'))).toBe('Version 2 predicts this text 9.1% better than Version 1');
    expect(document.querySelectorAll('[data-testid="compare-result"] tbody tr')).toHaveLength(3);
    write('Another river');
    expect(document.querySelector('[data-testid="compare-result"]')).toBeNull();
  });

  it('does not call a draw a win', async () => {
    serve({ 'POST /v1/sessions/sess_1/compare': () => answer(1, 1) });
    await open();
    write('A river');
    go().click();
    await settle();
    expect(text(find('[data-testid="compare-verdict"]'))).toBe('Both predict this text equally well.');
  });

  it('shows what the server refused, and can be tried again', async () => {
    serve({ 'POST /v1/sessions/sess_1/compare': () => refuse(413, 'too_large', 'the text has 9,000 tokens') });
    await open();
    write('A river');
    go().click();
    await settle();
    expect(text(find('[data-testid="compare-problem"]'))).toBe('the text has 9,000 tokens');
    expect(go().disabled).toBe(false);
  });
});

describe('a text being read', () => {
  it('shows surprise so far, what was left out and why, speed and cost', async () => {
    const conversation = await makeConversation();
    const { default: ReadingCard } = await import('../src/components/ReadingCard.svelte');
    conversation.learning.readings = [makeReading()];
    for (const score of [
      makeScore(1),
      makeScore(2, { learned: false, reason: 'unsurprising' }),
      makeScore(3, { learned: false, reason: 'unsurprising' }),
      makeScore(4, { learned: false, reason: 'short', adapted_bits_per_byte: 0.5 }),
    ])
      conversation.learning.putScore(score);
    draw(ReadingCard, { reading: makeReading(), conversation });
    const card = text(find('[data-testid="reading-card"]'));
    expect(card).toContain('512 of 1,024 tokens');
    expect(card).toContain('128 tokens/s');
    expect(card).toContain('1.000 → 0.800 bits per byte');
    expect(card).toContain('20.0% better');
    expect(card).toContain('2s of computing');
    expect(card).toContain('3 parts not learned from: 2 left out by the rule, 1 too short');
    expect(find('[data-testid="reading-stop"]').getAttribute('aria-label')).toBe('Stop reading “manual.txt”');
  });

  it('shows no cost that it does not know', async () => {
    const conversation = await makeConversation();
    const { default: ReadingCard } = await import('../src/components/ReadingCard.svelte');
    conversation.learning.readings = [makeReading()];
    conversation.learning.putScore(makeScore(1));
    conversation.learning.putScore(makeScore(2, { seconds: null }));
    draw(ReadingCard, { reading: makeReading({ status: 'done' }), conversation });
    expect(text(find('[data-testid="reading-measure"]'))).not.toContain('computing');
    expect(document.querySelector('[data-testid="reading-skipped"]')).toBeNull();
  });
});
