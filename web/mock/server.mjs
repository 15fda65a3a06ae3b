// A stand-in for the server, for work on the page alone: docs/api.md in memory, with invented answers
// and scores. `npm run mock` serves the built page and the API at http://127.0.0.1:8421.

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ANSWERS } from './answer.mjs';

const PORT = Number(process.env.PORT ?? 8421);
const PAGE = join(dirname(fileURLToPath(import.meta.url)), '../../fluvial/server/page');
const MODEL = 'qwen2.5-coder-0.5b-instruct';
const RELEASE = { mode: 'development', status: 'not released', reason: 'not released', expires_at: null, plan: null };
const SUBJECTS = { weights: '1d9614638d18', template: 'cd8e9439f057', guard: '40f4a02aee31' };
const CHUNK_TOKENS = 512;
const DRIFT_BUDGET = 0.1;
const TICK_MS = Number(process.env.TICK_MS ?? 300);
const TOKEN_MS = Number(process.env.TOKEN_MS ?? 25);
const POLICY =
  "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'";
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2' };

const sessions = new Map();
const published = new Map();
let last = 0;
const now = () => Date.now() / 1000;
const id = (kind) => `${kind}_${(++last).toString(36).padStart(6, '0')}`;
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Failure extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

function begin(title = '') {
  const at = now();
  const session = {
    id: id('sess'), object: 'session', title, model: MODEL, learning: 'on', version: 0, created_at: at, updated_at: at,
    busy: false, reading: false, available: true, context: { used_tokens: 0, limit_tokens: 32768 },
  };
  const kept = { session, messages: [], readings: [], scores: [], versions: [], listeners: new Set(), stop: null, numbers: 0 };
  sessions.set(session.id, kept);
  return kept;
}

function tell(kept, name, record) {
  for (const listener of kept.listeners) listener.write(`event: ${name}\ndata: ${JSON.stringify(record)}\n\n`);
}

function touch(kept, change = {}) {
  Object.assign(kept.session, change, { updated_at: now() });
  tell(kept, 'session', kept.session);
}

function store(kept, role, content, finish, passages = []) {
  const message = { id: id('msg'), role, content, created_at: now(), version: kept.session.version, finish, passages };
  kept.messages.push(message);
  tell(kept, 'message', message);
  return message;
}

// Reading

function beginReading(kept, name, text, kind = 'document') {
  const bytes = Buffer.byteLength(text);
  const reading = {
    id: id('read'), session: kept.session.id, kind, name, status: 'queued', bytes, text: true, tokens_total: null, tokens_read: 0,
    tokens_per_s: null, seconds_left: null, created_at: now(), error: null,
  };
  kept.readings.push(reading);
  tell(kept, 'reading', reading);
  void read(kept, reading, bytes);
  return reading;
}

async function read(kept, reading, bytes) {
  await wait(TICK_MS);
  reading.tokens_total = Math.max(1, Math.round(bytes / 4.1));
  reading.status = 'reading';
  touch(kept, { reading: true });
  while (reading.status === 'reading' && reading.tokens_read < reading.tokens_total) {
    await wait(TICK_MS);
    if (reading.status === 'reading') readChunk(kept, reading);
  }
  if (reading.status === 'reading') reading.status = 'done';
  Object.assign(reading, { tokens_per_s: null, seconds_left: null });
  tell(kept, 'reading', reading);
  touch(kept, { reading: kept.readings.some((one) => one.status === 'reading') });
}

function readChunk(kept, reading) {
  const tokens = Math.min(CHUNK_TOKENS, reading.tokens_total - reading.tokens_read);
  const place = reading.tokens_read / CHUNK_TOKENS;
  const frozen = 1.12 + 0.22 * Math.sin(place * 0.9) + 0.12 * Math.sin(place * 2.3 + 1) + 0.05 * Math.random();
  const gain = kept.session.version === 0 ? 0 : 0.13 * (1 - Math.exp(-place / 9)) + 0.02 * Math.sin(place * 5);
  const frozenSession = kept.session.learning !== 'on';
  const reason = frozenSession ? 'frozen' : tokens < 32 ? 'short' : frozen < 0.95 ? 'unsurprising' : '';
  const learned = reason === '';
  const score = {
    index: kept.scores.length + 1, reading: reading.id, start: reading.tokens_read, tokens, bytes: Math.round(tokens * 4.1),
    frozen_bits_per_byte: frozen, adapted_bits_per_byte: frozen * (1 - gain), version: kept.session.version, learned, reason,
    seconds: TICK_MS / 1000, created_at: now(),
  };
  kept.scores.push(score);
  tell(kept, 'score', score);
  reading.tokens_read += tokens;
  const speed = CHUNK_TOKENS / (TICK_MS / 1000);
  Object.assign(reading, { tokens_per_s: speed, seconds_left: (reading.tokens_total - reading.tokens_read) / speed });
  if (!frozenSession && (place + 1) % 4 === 0) addVersion(kept, { reading: reading.id, tokens_learned: CHUNK_TOKENS * 4, skipped: Math.floor(place) % 3 });
  tell(kept, 'reading', reading);
}

function addVersion(kept, change = {}) {
  const parent = kept.session.version;
  const before = kept.versions.find((one) => one.number === parent);
  const number = ++kept.numbers;
  const drift = 0.02 * Math.sqrt(number);
  const isBack = number % 5 === 0;
  const version = {
    number, id: hash(number), short: hash(number).slice(0, 12), parent, parents: before ? [before.id] : [], origin: 'read', reading: null,
    text_sha256: hash(number + 100), tokens_learned: 0, updates: 4, skipped: 0, score_before_bits_per_byte: 1.21 - 0.02 * Math.min(number, 6),
    frozen_bits_per_byte: 1.24, drift: Math.min(drift, DRIFT_BUDGET), scale: isBack ? 0.62 : 1,
    notes: isBack ? [{ code: 'scaled_back', drift: 0.161, budget: DRIFT_BUDGET }] : [], rule: '{"learn_gains":true}', pinned: false, expires_at: null,
    bytes: 2_482_240, sha256: 'f'.repeat(64), created_at: now(), ...change,
  };
  kept.versions.push(version);
  tell(kept, 'version', version);
  touch(kept, { version: number });
  return version;
}

const hash = (number) => createHash('sha256').update(`${number}`).digest('hex');

function findVersion(kept, which) {
  const found = kept.versions.find((one) => one.number === Number(which));
  if (!found) throw new Failure(404, 'not_found', `no version ${which} in this session`);
  return found;
}

function branch(kept, which, { title, messages }) {
  const made = begin(title ?? kept.session.title);
  if (messages) made.messages = kept.messages.map((one) => ({ ...one, id: id('msg') }));
  if (Number(which)) addVersion(made, { ...findVersion(kept, which), number: 1, parent: 0, origin: 'branch', pinned: false });
  return made.session;
}

async function compare({ a, b, text }) {
  await wait(3 * TICK_MS);
  if (text.length > 30_000) throw new Failure(413, 'too_large', 'the text has 9,120 tokens; compare on at most 8,192');
  const score = (number) => ({ number: Number(number), bits_per_byte: 1.3 * 0.97 ** Math.min(Number(number), 8) });
  return { object: 'comparison', tokens: Math.ceil(text.length / 4), bytes: text.length, a: score(a), b: score(b), base: score(0) };
}

function publish(kept, which, { name }) {
  const version = findVersion(kept, which);
  if (!/^[a-z0-9][a-z0-9._-]{0,63}$/.test(name)) throw new Failure(400, 'invalid_request', 'a published name has 1 to 64 of a-z 0-9 . _ -');
  if (published.has(name)) throw new Failure(409, 'name_taken', `'${name}' is published already; choose another name`);
  const made = { name, object: 'publication', yours: true, model: MODEL, checkpoint: hash('base'), version };
  published.set(name, made);
  return viewPublication(made);
}

function viewPublication({ version, ...rest }) {
  const { id, short, parents, origin, tokens_learned, drift, notes, bytes, sha256, created_at } = version;
  return { ...rest, id, short, parents, origin, tokens_learned, drift, notes, bytes, sha256, created_at };
}

function adopt(kept, { published: name }) {
  const found = published.get(name);
  if (!found) throw new Failure(404, 'not_found', `nothing is published as '${name}'`);
  const { id, short, parents, drift, tokens_learned } = found.version;
  return addVersion(kept, { id, short, parents, drift, tokens_learned, origin: 'adopt', notes: [{ code: 'adopted', name }] });
}

async function merge(kept, { parts, rank }) {
  await wait(3 * TICK_MS);
  if (parts.some((part) => part.weight > 3)) throw new Failure(409, 'drift_over_budget', "this adapter's drift is over the budget, and stays so when it is scaled back");
  const find = (part) => published.get(part.published)?.version ?? findVersion(part.session ? sessions.get(part.session) : kept, part.version);
  const parents = parts.map((part) => find(part).id);
  const notes = [{ code: 'compressed', rank: rank ?? 8, from_rank: 8 * parts.length, loss: 0.0312 }];
  return { ...addVersion(kept, { origin: 'merge', parents, notes }), loss: 0.0312 };
}

function hand(response, kept, which, query) {
  const format = query.get('format') ?? 'fluvial';
  const lossy = format !== 'fluvial';
  if (lossy && query.get('lossy') !== 'true') throw new Failure(400, 'unsupported', 'this adapter has gains, which LoRA can\'t say; add lossy=true');
  const name = `${kept.session.id}-${which}.${{ fluvial: 'safetensors', peft: 'zip', gguf: 'gguf' }[format]}`;
  response.writeHead(200, { 'content-disposition': `attachment; filename="${name}"`, 'fluvial-loss': lossy ? '0.031' : '0' }).end('tensors');
}

// Talking

async function chat(request, response, body) {
  const kept = find(body.fluvial?.session);
  const text = body.messages.at(-1).content;
  if (kept.session.busy) throw new Failure(409, 'session_busy', 'An answer is being written in this session.');
  const seen = body.fluvial.parent;
  if (seen !== undefined && seen !== (kept.messages.at(-1)?.id ?? null))
    throw new Failure(409, 'session_changed', 'The session has messages that this client has not seen.');
  if (text.includes('too long')) throw new Failure(400, 'context_length_exceeded', 'The conversation has 40,112 tokens; 32,768 fit.');
  touch(kept, { busy: true, title: kept.session.title || text.slice(0, 60) });
  const question = store(kept, 'user', text, null);
  const documents = kept.readings.filter((one) => one.kind === 'document' && one.text);
  const passages = documents.map(({ id: reading, name }) => ({ reading, name, tokens: 312 }));
  const answer = store(kept, 'assistant', '', null, passages);
  const turn = { session: kept.session.id, user_message: question.id, message: answer.id, version: kept.session.version, passages };
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const write = (delta, finish, extra) =>
    response.write(`data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: finish }], ...extra })}\n\n`);
  write({ role: 'assistant', content: '' }, null, { fluvial: turn });
  let stopped = false;
  kept.stop = () => (stopped = true);
  response.on('close', kept.stop);
  const whole = ANSWERS[text.trim()] ?? ANSWERS[kept.messages.length % 4 === 2 ? 'prose' : 'code'];
  const broken = text.includes('break');
  for (const piece of whole.match(/\s*\S{1,6}/g)) {
    await wait(TOKEN_MS);
    if (stopped || (broken && answer.content.length > 80)) break;
    answer.content += piece;
    write({ content: piece }, null);
  }
  answer.finish = broken ? 'error' : stopped ? 'cancelled' : 'stop';
  const used = kept.session.context.used_tokens + Math.ceil((answer.content.length + text.length) / 4);
  kept.session.context.used_tokens = used;
  touch(kept, { busy: false });
  tell(kept, 'message', answer);
  if (broken) return void response.destroy();
  write({}, 'stop', { fluvial: turn });
  response.end('data: [DONE]\n\n');
}

// Routes

function find(key) {
  const kept = sessions.get(key);
  if (!kept) throw new Failure(404, 'not_found', `There is no session ${key}.`);
  return kept;
}

async function take(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return Buffer.concat(pieces);
}

function takeFile(request, data) {
  const boundary = /boundary=(.+)$/.exec(request.headers['content-type'])[1];
  const whole = data.toString('utf8');
  const name = /filename="([^"]*)"/.exec(whole)[1];
  const text = whole.slice(whole.indexOf('\r\n\r\n') + 4, whole.lastIndexOf(`\r\n--${boundary}`));
  if (name.endsWith('.png')) throw new Failure(400, 'invalid_request', `${name} is not text: expected UTF-8 text, Markdown, HTML or PDF.`);
  return { name, text };
}

function listVersions(kept) {
  const bytes = kept.versions.reduce((sum, one) => sum + one.bytes, 0);
  return { current: kept.session.version, drift_budget: DRIFT_BUDGET, bytes, limit_bytes: 64_000_000, data: kept.versions };
}

async function answer(request, response, path, method, query) {
  const [, key, what, which, act] = /^\/v1\/sessions(?:\/([^/]+))?(?:\/([^/]+))?(?:\/([^/]+))?(?:\/([^/]+))?$/.exec(path) ?? [];
  const data = method === 'GET' ? null : await take(request);
  const json = () => JSON.parse(data.toString() || '{}');
  if (path === '/healthz') return [200, { status: 'ok', model: MODEL, version: '0.1.0', learner: 'ready', release: RELEASE, subjects: SUBJECTS }];
  if (path === '/v1/chat/completions') return chat(request, response, json());
  if (path === '/v1/published') return [200, { data: [...published.values()].map(viewPublication) }];
  if (path.startsWith('/v1/published/')) return published.delete(decodeURIComponent(path.slice(14))), [204];
  if (!path.startsWith('/v1/sessions')) throw new Failure(404, 'not_found', `There is nothing at ${path}.`);
  if (!key && method === 'POST') return [201, begin(json().title).session];
  if (!key) return [200, { data: [...sessions.values()].map((one) => one.session).sort((a, b) => b.updated_at - a.updated_at) }];
  const kept = find(key);
  const route = `${method} ${what ?? ''}`;
  if (route === 'GET ') return [200, kept.session];
  if (route === 'PATCH ') return touch(kept, json()), [200, kept.session];
  if (route === 'DELETE ') return sessions.delete(key), [204];
  if (route === 'GET messages') return [200, { data: kept.messages }];
  if (route === 'POST stop') return kept.stop?.(), [204];
  if (route === 'GET readings') return [200, { data: kept.readings }];
  if (route === 'POST readings') return [202, startReading(kept, request, data)];
  if (route === 'DELETE readings') return [200, stopReading(kept, which)];
  if (route === 'GET scores') return [200, { data: kept.scores }];
  if (route === 'GET versions' && act === 'export') return hand(response, kept, which, query);
  if (route === 'GET versions') return [200, listVersions(kept)];
  if (route === 'PATCH versions') return [200, Object.assign(findVersion(kept, which), json())];
  if (route === 'POST compare') return [200, await compare(json())];
  if (route === 'POST versions' && act === 'publish') return [201, publish(kept, which, json())];
  if (route === 'POST versions' && which === 'adopt') return [201, adopt(kept, json())];
  if (route === 'POST versions' && which === 'merge') return [201, await merge(kept, json())];
  if (route === 'POST versions' && act === 'branch') return [201, branch(kept, which, json())];
  if (route === 'POST versions' && which === 'import') return [201, { ...addVersion(kept, { origin: 'import', parents: [hash('elsewhere')] }), loss: 0.012 }];
  if (route === 'POST versions') return restore(kept, Number(which)), [200, kept.session];
  if (route === 'DELETE versions') return forget(kept, which);
  if (route === 'GET events') return follow(kept, response);
  throw new Failure(405, 'method_not_allowed', `${method} does not work at ${path}.`);
}

function startReading(kept, request, data) {
  const { name, text } = takeFile(request, data);
  return beginReading(kept, name, text);
}

function stopReading(kept, which) {
  const reading = kept.readings.find((one) => one.id === which);
  if (['queued', 'reading'].includes(reading.status)) reading.status = 'cancelled';
  reading.text = false;
  tell(kept, 'reading', reading);
  return reading;
}

function restore(kept, version) {
  for (const reading of kept.readings) if (reading.status === 'reading') reading.status = 'cancelled';
  touch(kept, { version });
}

function forget(kept, which) {
  kept.versions = which ? kept.versions.filter((one) => one.number !== Number(which)) : [];
  if (which) return [204];
  kept.scores = [];
  touch(kept, { version: 0 });
  return [200, kept.session];
}

function follow(kept, response) {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  response.write(': open\n\n');
  kept.listeners.add(response);
  response.on('close', () => kept.listeners.delete(response));
}

async function servePage(response, path) {
  const file = join(PAGE, normalize(path === '/' ? '/index.html' : path));
  const data = await readFile(file).catch(() => null);
  const headers = { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream', 'content-security-policy': POLICY, 'x-content-type-options': 'nosniff' };
  response.writeHead(data ? 200 : 404, headers).end(data ?? '');
}

createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://mock');
  if (!pathname.startsWith('/v1/') && pathname !== '/healthz') return servePage(response, pathname);
  try {
    const result = await answer(request, response, pathname, request.method, searchParams);
    if (result) response.writeHead(result[0], { 'content-type': 'application/json' }).end(result[1] ? JSON.stringify(result[1]) : '');
  } catch (error) {
    const { status = 500, code = 'internal_error', message } = error;
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ error: { message, type: 'invalid_request_error', code, param: null } }));
  }
}).listen(PORT, '127.0.0.1', () => console.log(`http://127.0.0.1:${PORT}`));
