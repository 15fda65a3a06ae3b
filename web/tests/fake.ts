/** Records as the API gives them, for tests. */

import type { Publication, Reading, Score, Session, Version } from '../src/api/type';

export const makeSession = (change: Partial<Session> = {}): Session => ({
  id: 'sess_1', title: 'Rivers', model: 'small', learning: 'on', version: 2, created_at: 0, updated_at: 0, busy: false,
  reading: false, available: true, context: { used_tokens: 0, limit_tokens: 2048 }, ...change,
});

/** Ids are the number, repeated: version 3 is 3333… */
export const makeVersion = (number: number, change: Partial<Version> = {}): Version => ({
  number, id: `${number}`.repeat(64), short: `${number}`.repeat(12), parent: number - 1,
  parents: number > 1 ? [`${number - 1}`.repeat(64)] : [], origin: 'read', reading: 'read_1', tokens_learned: 2048,
  updates: 8, skipped: 0, score_before_bits_per_byte: 0.9, frozen_bits_per_byte: 1, drift: 0.05, scale: 1, notes: [],
  rule: '', pinned: false, expires_at: null, bytes: 1_000_000, sha256: '', created_at: 0, ...change,
});

export const makePublication = (name: string, change: Partial<Publication> = {}): Publication => ({
  name, yours: false, model: 'small', checkpoint: '', id: '9'.repeat(64), short: '9'.repeat(12), origin: 'read', tokens_learned: 2048,
  drift: 0.02, notes: [], bytes: 1_000_000, created_at: 0, ...change,
});

export const makeScore = (index: number, change: Partial<Score> = {}): Score => ({
  index, reading: 'read_1', start: (index - 1) * 256, tokens: 256, bytes: 1000, frozen_bits_per_byte: 1,
  adapted_bits_per_byte: 0.9, version: 0, learned: true, reason: '', seconds: 0.5, created_at: 0, ...change,
});

export const makeReading = (change: Partial<Reading> = {}): Reading => ({
  id: 'read_1', session: 'sess_1', kind: 'document', name: 'manual.txt', status: 'reading', bytes: 4000, text: true,
  tokens_total: 1024, tokens_read: 512, tokens_per_s: 128, seconds_left: 4, created_at: 0, error: null, ...change,
});

interface Call {
  method: string;
  path: string;
  body: unknown;
}

/** A server that answers each `METHOD path` with what `routes` make of the body, and keeps what was asked. */
export class FakeServer {
  readonly calls: Call[] = [];

  constructor(private readonly routes: Record<string, (body: unknown) => unknown>) {}

  readonly fetch = async (path: string, init: RequestInit = {}): Promise<Response> => {
    const method = init.method ?? 'GET';
    const body: unknown = typeof init.body === 'string' ? JSON.parse(init.body) : (init.body ?? null);
    this.calls.push({ method, path, body });
    const answer = await this.routes[`${method} ${path}`]?.(body);
    if (answer instanceof Response) return answer;
    if (answer !== undefined) return Response.json(answer);
    return refuse(404, 'not_found', `nothing at ${method} ${path}`);
  };

  paths(method: string): string[] {
    return this.calls.filter((call) => call.method === method).map((call) => call.path);
  }
}

export const refuse = (status: number, code: string, message: string): Response =>
  Response.json({ error: { message, code, type: 'invalid_request_error', param: null } }, { status });
