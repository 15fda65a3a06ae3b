/** Publishing, adopting and merging, drawn for real, against a server in the hands of the test. */

import { flushSync, mount, unmount } from 'svelte';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Publication } from '../src/api/type';
import { isName, suggestName } from '../src/learning/publication';
import type { Conversation } from '../src/state/conversation.svelte';
import { FakeServer, makePublication, makeSession, makeVersion, refuse } from './fake';

const VERSIONS = '/v1/sessions/sess_1/versions';
const LIST = 'GET /v1/published';

let drawn: Record<string, unknown> | null = null;
let server: FakeServer;
let conversation: Conversation;

const find = <E extends Element = HTMLElement>(query: string): E => {
  const found = document.querySelector<E>(query);
  if (!found) throw new Error(`nothing matches ${query}`);
  return found;
};
const byId = <E extends Element = HTMLElement>(id: string): E => find<E>(`[data-testid="${id}"]`);
const isOpen = (id: string): boolean => document.querySelector(`dialog[data-testid="${id}"]`) !== null;
const inVersion = (number: number, id: string): HTMLButtonElement =>
  find<HTMLButtonElement>(`[data-testid="version-item"][data-version="${number}"] [data-testid="${id}"]`);
const choice = (key: string): HTMLElement => find(`[data-testid="merge-choice"][data-key="${key}"]`);

async function settle(): Promise<void> {
  for (let turn = 0; turn < 12; turn++) await new Promise((resolve) => setTimeout(resolve));
  flushSync();
}

function click(element: HTMLElement): void {
  element.click();
  flushSync();
}

function write(field: HTMLInputElement, value: string): void {
  field.value = value;
  field.dispatchEvent(new Event('input', { bubbles: true }));
  flushSync();
}

async function toast(): Promise<{ text: string; undo: () => void } | null> {
  const { toasts } = await import('../src/state/toast.svelte');
  const last = toasts.list.at(-1);
  return last ? { text: last.text, undo: last.action?.run ?? (() => { throw new Error('there is no undo'); }) } : null;
}

/** Draws the list of versions 1 and 2, of which 2 is in force. */
async function draw(routes: Record<string, (body: unknown) => unknown>, published: Publication[] = []): Promise<void> {
  server = new FakeServer({ [LIST]: () => ({ data: published }), 'GET /v1/sessions/sess_1': () => makeSession({ version: 3 }), ...routes });
  vi.stubGlobal('fetch', server.fetch);
  const module = await import('../src/state/conversation.svelte');
  conversation = new module.Conversation('sess_1', () => undefined);
  conversation.session = makeSession();
  conversation.learning.driftBudget = 0.1;
  conversation.learning.versions = [makeVersion(1), makeVersion(2)];
  const { default: VersionList } = await import('../src/components/VersionList.svelte');
  drawn = mount(VersionList, { target: document.body, props: { conversation, session: conversation.session } });
  await settle();
  server.calls.length = 0;
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
});

afterEach(async () => {
  if (drawn) await unmount(drawn);
  drawn = null;
  const { toasts } = await import('../src/state/toast.svelte');
  const { published } = await import('../src/state/published.svelte');
  const { list } = await import('../src/state/list.svelte');
  toasts.list = [];
  published.list = [];
  list.sessions = [];
  vi.unstubAllGlobals();
});

describe('names', () => {
  it('are what the server takes', () => {
    for (const name of ['a', '0', 'team.a-1_b', 'a'.repeat(64)]) expect(isName(name)).toBe(true);
    for (const name of ['', 'A', 'a b', '-a', '.a', 'a/b', 'ä', 'a'.repeat(65), 'a\n']) expect(isName(name)).toBe(false);
  });

  it('are suggested from the title, if it has letters for one, and are free', () => {
    expect(suggestName('  How Rivers é shape…', 3, [])).toBe('how-rivers-e-shape-3');
    expect(suggestName('河流', 3, [])).toBe('');
    expect(suggestName('Rivers', 1, [makePublication('rivers-1')])).toBe('');
    expect(isName(suggestName('x'.repeat(200), 12345, []))).toBe(true);
  });
});

describe('publishing', () => {
  const made = (name: string): Publication => makePublication(name, { yours: true, id: '1'.repeat(64) });

  it('asks for a name, shows it at the version, and is taken back', async () => {
    await draw({
      [`POST ${VERSIONS}/1/publish`]: (body) => made((body as { name: string }).name),
      'DELETE /v1/published/valleys': () => new Response(null, { status: 204 }),
    });
    click(inVersion(1, 'publish-version'));
    expect(byId<HTMLInputElement>('publish-name').value).toBe('rivers-1');
    write(byId('publish-name'), 'My Rivers');
    expect(byId<HTMLButtonElement>('publish-go').disabled).toBe(true);
    write(byId('publish-name'), ' valleys ');
    click(byId('publish-go'));
    await settle();
    expect(server.calls[0]?.body).toEqual({ name: 'valleys' });
    expect(isOpen('publish')).toBe(false);
    expect(inVersion(1, 'version-published').textContent).toContain('published as valleys');
    expect(document.querySelectorAll('[data-testid="version-published"]')).toHaveLength(1);
    const told = await toast();
    expect(told?.text).toBe('Published as “valleys”.');
    told?.undo();
    await settle();
    expect(document.querySelector('[data-testid="version-published"]')).toBeNull();
  });

  it('stays open where the name is taken, and says so', async () => {
    await draw({ [`POST ${VERSIONS}/1/publish`]: () => refuse(409, 'name_taken', "'rivers-1' is published already") });
    click(inVersion(1, 'publish-version'));
    click(byId('publish-go'));
    await settle();
    expect(byId('publish-problem').textContent).toBe("'rivers-1' is published already");
    write(byId('publish-name'), 'rivers-2');
    expect(document.querySelector('[data-testid="publish-problem"]')).toBeNull();
    expect(byId<HTMLButtonElement>('publish-go').disabled).toBe(false);
  });

  it('says it in the language of the page, where the error is a known one', async () => {
    await draw({ [`POST ${VERSIONS}/1/publish`]: () => refuse(409, 'name_taken', "'rivers-1' is published already") });
    const { preference } = await import('../src/state/preference.svelte');
    preference.toggleLanguage();
    click(inVersion(1, 'publish-version'));
    click(byId('publish-go'));
    await settle();
    expect(byId('publish-problem').textContent).toContain('这个名称已被使用');
    preference.toggleLanguage();
  });

  it('is withdrawn at the version after a yes, and can be done again', async () => {
    let there = [made('valleys')];
    await draw(
      {
        'DELETE /v1/published/valleys': () => ((there = []), new Response(null, { status: 204 })),
        [`POST ${VERSIONS}/1/publish`]: (body) => made((body as { name: string }).name),
      },
      there,
    );
    const { questions } = await import('../src/state/question.svelte');
    click(inVersion(1, 'withdraw-version'));
    questions.answer(false);
    await settle();
    expect(server.calls).toEqual([]);
    click(inVersion(1, 'withdraw-version'));
    questions.answer(true);
    await settle();
    expect(there).toEqual([]);
    expect(document.querySelector('[data-testid="withdraw-version"]')).toBeNull();
    (await toast())?.undo();
    await settle();
    expect(inVersion(1, 'version-published').textContent).toContain('valleys');
  });

  it('of others does not show at versions with the same content', async () => {
    await draw({}, [makePublication('theirs', { id: '1'.repeat(64) })]);
    expect(document.querySelector('[data-testid="version-published"]')).toBeNull();
  });
});

describe('what is published', () => {
  it('is listed, and adopted, and that is undone', async () => {
    await draw(
      {
        [`POST ${VERSIONS}/adopt`]: () => makeVersion(3, { origin: 'adopt', notes: [{ code: 'adopted', name: 'theirs' }] }),
        [`POST ${VERSIONS}/2/restore`]: () => makeSession({ version: 2 }),
      },
      [makePublication('mine', { yours: true }), makePublication('other', { model: 'large' }), makePublication('theirs')],
    );
    click(byId('show-published'));
    await settle();
    const rows = [...document.querySelectorAll<HTMLElement>('[data-testid="publication"]')];
    expect(rows.map((row) => row.dataset.name)).toEqual(['mine', 'other', 'theirs']);
    expect(rows.map((row) => row.querySelector('[data-testid="withdraw"]') !== null)).toEqual([true, false, false]);
    expect(rows.map((row) => row.querySelector<HTMLButtonElement>('[data-testid="adopt"]')?.disabled)).toEqual([false, true, false]);
    expect(rows[1]?.textContent).toContain('Learned on large');
    click(find('[data-name="theirs"] [data-testid="adopt"]'));
    await settle();
    expect(server.calls.find((call) => call.method === 'POST')?.body).toEqual({ published: 'theirs' });
    expect(isOpen('published')).toBe(false);
    expect(conversation.session?.version).toBe(3);
    const told = await toast();
    expect(told?.text).toBe('Adopted “theirs” as version 3, now in force.');
    told?.undo();
    await settle();
    expect(conversation.session?.version).toBe(2);
  });

  it('stays open where adopting fails, and says why', async () => {
    await draw({ [`POST ${VERSIONS}/adopt`]: () => refuse(409, 'quota_reached', 'no room') }, [makePublication('theirs')]);
    click(byId('show-published'));
    await settle();
    click(byId('adopt'));
    await settle();
    expect(byId('published-problem').textContent).toBe('no room');
    expect(byId<HTMLButtonElement>('adopt').disabled).toBe(false);
  });

  it('asks before a reading stops, and does nothing on a no', async () => {
    await draw({}, [makePublication('theirs')]);
    const { makeReading } = await import('./fake');
    conversation.learning.readings = [makeReading()];
    const { questions } = await import('../src/state/question.svelte');
    click(byId('show-published'));
    await settle();
    click(byId('adopt'));
    expect(questions.current?.title).toBe('Stop reading and change the version?');
    questions.answer(false);
    await settle();
    expect(server.paths('POST')).toEqual([]);
    expect(isOpen('published')).toBe(true);
  });

  it('tells where it can not be listed, and where there is none', async () => {
    await draw({ [LIST]: () => refuse(500, 'internal_error', 'it broke') });
    click(byId('show-published'));
    await settle();
    expect(byId('published-problem').textContent).toBe('it broke');
    click(byId('published-close'));
    server = new FakeServer({ [LIST]: () => ({ data: [] }) });
    vi.stubGlobal('fetch', server.fetch);
    click(byId('show-published'));
    await settle();
    expect(byId('published-empty').textContent).toBe('Nothing is published on this server.');
  });
});

describe('merging', () => {
  const OTHER = '/v1/sessions/sess_2/versions';
  const tick = (key: string): void => click(find(`[data-key="${key}"] input[type="checkbox"]`));
  const weigh = (key: string, value: string): void => write(choice(key).querySelector<HTMLInputElement>('[data-testid="merge-weight"]')!, value);
  const go = (): HTMLButtonElement => byId('merge-go');

  it('adds up what was chosen by its weights, tells the loss, and is undone', async () => {
    await draw(
      {
        [`POST ${VERSIONS}/merge`]: () => ({ ...makeVersion(3, { origin: 'merge' }), loss: 0.0312 }),
        [`POST ${VERSIONS}/2/restore`]: () => makeSession({ version: 2 }),
      },
      [makePublication('theirs'), makePublication('foreign', { model: 'large' })],
    );
    click(byId('merge-versions'));
    await settle();
    const keys = [...document.querySelectorAll<HTMLElement>('[data-testid="merge-choice"]')].map((one) => one.dataset.key);
    expect(keys).toEqual(['/2', '/1', '@theirs']);
    tick('/1');
    expect(go().disabled).toBe(true);
    expect(byId('merge-hint').textContent).toBe('Choose 2 to 8 versions.');
    tick('@theirs');
    expect(go().disabled).toBe(false);
    weigh('/1', '0');
    expect(byId('merge-hint').textContent).toContain('not 0');
    weigh('/1', '4.5');
    expect(go().disabled).toBe(true);
    weigh('/1', '-0.5');
    write(byId('merge-rank'), '65');
    expect(go().disabled).toBe(true);
    write(byId('merge-rank'), '4');
    click(go());
    await settle();
    const asked = server.calls.find((call) => call.method === 'POST');
    expect(asked?.body).toEqual({ parts: [{ weight: -0.5, version: '1' }, { weight: 1, published: 'theirs' }], rank: 4 });
    expect(isOpen('merge')).toBe(false);
    const told = await toast();
    expect(told?.text).toBe('Merged as version 3, now in force; compression lost 3.12% of the sum.');
    told?.undo();
    await settle();
    expect(conversation.session?.version).toBe(2);
  });

  it('takes the mean, leaves the rank to the server, and says where nothing was lost', async () => {
    await draw({ [`POST ${VERSIONS}/merge`]: () => ({ ...makeVersion(3), loss: 0.00001 }) });
    click(byId('merge-versions'));
    tick('/1');
    tick('/2');
    click(byId('merge-mean'));
    click(go());
    await settle();
    const asked = server.calls.find((call) => call.method === 'POST');
    expect(asked?.body).toEqual({ parts: [{ weight: 0.5, version: '2' }, { weight: 0.5, version: '1' }] });
    expect((await toast())?.text).toBe('Merged as version 3, now in force; nothing was lost.');
  });

  it('takes versions of another conversation, and lets go of them with it', async () => {
    await draw({
      [`GET ${OTHER}`]: () => ({ current: 1, drift_budget: 0.1, bytes: 1, limit_bytes: 1, data: [makeVersion(1, { id: 'a'.repeat(64) })] }),
      [`POST ${VERSIONS}/merge`]: () => ({ ...makeVersion(3), loss: 0 }),
    });
    const { list } = await import('../src/state/list.svelte');
    list.sessions = [
      makeSession(), makeSession({ id: 'sess_2', title: 'Valleys', version: 1 }), makeSession({ id: 'sess_3', version: 0 }),
      makeSession({ id: 'sess_4', model: 'large' }),
    ];
    click(byId('merge-versions'));
    const select = byId<HTMLSelectElement>('merge-other');
    expect([...select.options].map((option) => option.value)).toEqual(['', 'sess_2']);
    const choose = async (id: string): Promise<void> => {
      select.value = id;
      select.dispatchEvent(new Event('change', { bubbles: true }));
      await settle();
    };
    await choose('sess_2');
    tick('sess_2/1');
    tick('/2');
    expect(go().disabled).toBe(false);
    await choose('');
    expect(go().disabled).toBe(true);
    await choose('sess_2');
    expect(find<HTMLInputElement>('[data-key="sess_2/1"] input').checked).toBe(false);
    tick('sess_2/1');
    click(go());
    await settle();
    const asked = server.calls.find((call) => call.method === 'POST');
    expect(asked?.body).toEqual({ parts: [{ weight: 1, version: '2' }, { weight: 1, version: '1', session: 'sess_2' }] });
  });

  it('stays open where the server refuses, and says why', async () => {
    await draw({ [`POST ${VERSIONS}/merge`]: () => refuse(409, 'drift_over_budget', 'over the budget') });
    click(byId('merge-versions'));
    tick('/1');
    tick('/2');
    click(go());
    expect(byId<HTMLButtonElement>('merge-close').disabled).toBe(true);
    await settle();
    expect(byId('merge-problem').textContent).toBe('over the budget');
    expect(go().disabled).toBe(false);
  });
});
