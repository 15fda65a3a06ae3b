/** One function for each route of docs/api.md. Everything that fails throws a `RequestError`. */

import type {
  Comparison, Format, Health, Learning, Message, Part, Publication, Reading, Score, Session, Version, VersionList,
} from './type';

/** A request that failed. `status` 0: the server did not answer. `code` is the server's own. */
export class RequestError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
  ) {
    super(message);
    this.name = 'RequestError';
  }

  get unreachable(): boolean {
    return this.status === 0;
  }
}

export interface Exported {
  name: string;
  data: Blob;
  loss: number;
}

interface ErrorBody {
  error?: { message?: string; code?: string | null; type?: string };
}

/** Reads the server's own words out of a failed response. */
export async function readError(response: Response): Promise<RequestError> {
  const body = (await response.json().catch(() => ({}))) as ErrorBody;
  const message = body.error?.message ?? `${response.status} ${response.statusText}`.trim();
  return new RequestError(message, response.status, body.error?.code ?? body.error?.type ?? '');
}

/** Fetches, and throws a `RequestError` unless the answer is a success. An abort stays an AbortError. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { cache: 'no-store', ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new RequestError('', 0, 'unreachable');
  }
  if (!response.ok) throw await readError(response);
  return response;
}

function json(method: string, body: unknown): RequestInit {
  return { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
}

async function get<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await request(path, init)).json()) as T;
}

const at = (id: string): string => `/v1/sessions/${encodeURIComponent(id)}`;

export const client = {
  health: (signal?: AbortSignal) => get<Health>('/healthz', signal ? { signal } : {}),

  createSession: (title: string) => get<Session>('/v1/sessions', json('POST', title ? { title } : {})),
  session: (id: string) => get<Session>(at(id)),
  changeSession: (id: string, change: { title?: string; learning?: Learning }) =>
    get<Session>(at(id), json('PATCH', change)),
  deleteSession: (id: string) => request(at(id), { method: 'DELETE' }),

  async sessions(before?: number): Promise<Session[]> {
    const query = before === undefined ? '' : `&before=${before}`;
    return (await get<{ data: Session[] }>(`/v1/sessions?limit=100${query}`)).data;
  },

  messages: async (id: string) => (await get<{ data: Message[] }>(`${at(id)}/messages`)).data,
  stop: (id: string) => request(`${at(id)}/stop`, { method: 'POST', keepalive: true }),

  readings: async (id: string) => (await get<{ data: Reading[] }>(`${at(id)}/readings`)).data,
  removeReading: (id: string, reading: string) =>
    get<Reading>(`${at(id)}/readings/${encodeURIComponent(reading)}`, { method: 'DELETE' }),
  readFile(id: string, file: File, signal: AbortSignal): Promise<Reading> {
    const body = new FormData();
    body.append('file', file, file.name);
    return get<Reading>(`${at(id)}/readings`, { method: 'POST', body, signal });
  },

  scores: async (id: string) => (await get<{ data: Score[] }>(`${at(id)}/scores`)).data,
  versions: (id: string) => get<VersionList>(`${at(id)}/versions`),
  restore: (id: string, version: number) =>
    get<Session>(`${at(id)}/versions/${version}/restore`, { method: 'POST' }),
  deleteVersion: (id: string, version: number) =>
    request(`${at(id)}/versions/${version}`, { method: 'DELETE' }),
  forget: (id: string) => get<Session>(`${at(id)}/versions`, { method: 'DELETE' }),
  pinVersion: (id: string, version: number, pinned: boolean) =>
    get<Version>(`${at(id)}/versions/${version}`, json('PATCH', { pinned })),
  branch: (id: string, version: number, branch: { title?: string; messages: boolean }) =>
    get<Session>(`${at(id)}/versions/${version}/branch`, json('POST', branch)),
  compare: (id: string, a: number, b: number, text: string, signal: AbortSignal) =>
    get<Comparison>(`${at(id)}/compare`, { ...json('POST', { a: `${a}`, b: `${b}`, text }), signal }),
  published: async () => (await get<{ data: Publication[] }>('/v1/published')).data,
  publish: (id: string, version: number, name: string) =>
    get<Publication>(`${at(id)}/versions/${version}/publish`, json('POST', { name })),
  withdraw: (name: string) => request(`/v1/published/${encodeURIComponent(name)}`, { method: 'DELETE' }),
  adopt: (id: string, published: string) => get<Version>(`${at(id)}/versions/adopt`, json('POST', { published })),
  /** `rank` null: the highest of theirs. `loss`: the share of the sum that the rank could not hold. */
  merge: (id: string, parts: Part[], rank: number | null) =>
    get<Version & { loss: number }>(`${at(id)}/versions/merge`, json('POST', { parts, ...(rank === null ? {} : { rank }) })),
  /** `lossy`: what the format can't say is fitted into it. `loss`: the share that was lost. */
  async exportVersion(id: string, version: number, format: Format, lossy: boolean): Promise<Exported> {
    const response = await request(`${at(id)}/versions/${version}/export?format=${format}&lossy=${lossy}`);
    const name = /filename="([^"]+)"/.exec(response.headers.get('content-disposition') ?? '')?.[1];
    return { name: name ?? `${id}-${version}`, data: await response.blob(), loss: Number(response.headers.get('fluvial-loss') ?? 0) };
  },
  importVersion(id: string, file: File): Promise<Version & { loss: number }> {
    const body = new FormData();
    body.append('file', file, file.name);
    return get<Version & { loss: number }>(`${at(id)}/versions/import`, { method: 'POST', body });
  },
};
