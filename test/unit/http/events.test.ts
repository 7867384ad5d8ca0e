import { describe, expect, test } from 'vitest';

import type { LifecycleEventType } from '../../../src/index.js';
import { runApp, send, type RunningApp } from './harness.js';

const EVENTS = '/api/events';
const NDJSON = 'application/x-ndjson';

interface Told {
  readonly id: string;
  readonly type: string;
  readonly sandbox_id: string;
}

function tell(app: RunningApp, type: LifecycleEventType, id = 'sb1', projectName: string | null = null): void {
  app.stub.lifecycle.tell({ type, record: { id, owner: 'default', tenant: null, projectName }, reason: 'requested' });
}

/** A client that reads until it has as many lines, or messages, as it wants. */
async function read(app: RunningApp, path: string, { count, headers = {}, act }: ReadOptions): Promise<string[]> {
  const client = new AbortController();
  const response = await fetch(`${app.url}${path}`, { headers, signal: client.signal });
  expect(response.status).toBe(200);
  act?.();
  const separator = response.headers.get('content-type')?.startsWith(NDJSON) === true ? '\n' : '\n\n';
  let text = '';
  for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    text += chunk;
    if (text.split(separator).length > count) break;
  }
  client.abort();
  return text.split(separator).slice(0, count);
}

interface ReadOptions {
  readonly count: number;
  readonly headers?: Record<string, string>;
  /** Called when the stream has begun. */
  readonly act?: () => void;
}

/** The events; before them comes `ready`, unless the stream goes on after one. */
async function readJson(app: RunningApp, query: string, options: ReadOptions): Promise<Told[]> {
  const goesOn = query.includes('after=') || Boolean(options.headers?.['last-event-id']);
  const lines = await read(app, `${EVENTS}${query}`, {
    ...options,
    count: options.count + Number(!goesOn),
    headers: { accept: NDJSON, ...options.headers },
  });
  const events = lines.map((line) => JSON.parse(line) as Told);
  return goesOn ? events : events.slice(1);
}

describe('/api/events', () => {
  test('tells what happens from then on, as server-sent events', async () => {
    await using app = await runApp();
    tell(app, 'created');
    const [ready, first] = await read(app, EVENTS, { count: 2, act: () => tell(app, 'paused') });
    expect(ready).toMatch(/^id: ([0-9a-z]{8}-1)\nevent: ready\ndata: \{"type":"ready","id":"\1"\}$/);
    expect(first).toMatch(/^id: [0-9a-z]{8}-2\nevent: paused\ndata: \{/);
    expect(JSON.parse(first?.split('data: ')[1] ?? '')).toEqual({
      id: expect.stringMatching(/-2$/) as string,
      type: 'paused',
      at: expect.stringMatching(/^\d{4}-.*Z$/) as string,
      sandbox_id: 'sb1',
      owner: 'default',
      tenant: null,
      project_name: null,
      reason: 'requested',
      by: null,
      request_id: null,
      exit_code: null,
    });
  });

  test('goes on after an event, by the query or by what a browser sends', async () => {
    await using app = await runApp();
    const [one] = await readJson(app, '', { count: 1, act: () => tell(app, 'created') });
    tell(app, 'paused');
    tell(app, 'unpaused');
    const after = one?.id ?? '';
    const [two, three] = await readJson(app, `?after=${after}`, { count: 2 });
    expect([two?.type, three?.type]).toEqual(['paused', 'unpaused']);
    const headers = { 'last-event-id': two?.id ?? '' };
    expect(await readJson(app, `?after=${after}`, { count: 1, headers })).toEqual([three]);
    expect(await readJson(app, `?after=${after}`, { count: 1, headers: { 'last-event-id': '' } })).toEqual([two]);
  });

  test.each([NDJSON, 'text/event-stream'])(
    'a client that has seen only that it is ready misses nothing: %s',
    async (accept) => {
      await using app = await runApp();
      tell(app, 'created');
      const [ready] = await read(app, EVENTS, { count: 1, headers: { accept } });
      const id = /"id":"([^"]+)"/.exec(ready ?? '')?.[1] ?? '';
      tell(app, 'paused');
      tell(app, 'unpaused');
      const goOn = { count: 2, headers: { accept: NDJSON, 'last-event-id': id } };
      expect((await readJson(app, '', goOn)).map(({ type }) => type)).toEqual(['paused', 'unpaused']);
      expect((await readJson(app, `?after=${id}`, { count: 2 })).map(({ type }) => type)).toEqual([
        'paused',
        'unpaused',
      ]);
    },
  );

  test('tells only what was asked for', async () => {
    await using app = await runApp();
    const act = () => {
      tell(app, 'created', 'sb2', 'mine');
      tell(app, 'created', 'sb3', 'mine');
      tell(app, 'oom', 'sb3', 'mine');
      tell(app, 'destroyed', 'sb3', 'others');
      tell(app, 'destroyed', 'sb3', 'mine');
    };
    const query = '?types=created,destroyed&sandbox_id=sb3&project_name=mine';
    expect((await readJson(app, query, { count: 2, act })).map(({ type }) => type)).toEqual(['created', 'destroyed']);
  });

  test.each(['?types=created,born', '?types=', '?sandbox_id=..', '?after=x', '?after=', '?follow=1'])(
    '%s is refused',
    async (query) => {
      await using app = await runApp();
      const { status, json } = await send(app, `${EVENTS}${query}`);
      expect([status, json['code']]).toEqual([422, 'validation_failed']);
    },
  );

  test('what is no more remembered, or is of another run of the service, is a proper 410', async () => {
    await using app = await runApp();
    const [one] = await readJson(app, '', { count: 1, act: () => tell(app, 'created') });
    for (let count = 0; count < 2001; count += 1) tell(app, 'renewed');
    for (const after of [one?.id ?? '', 'aaaaaaaa-1']) {
      const { status, json } = await send(app, EVENTS, { headers: { 'last-event-id': after } });
      expect([status, json['code']]).toEqual([410, 'output_lost']);
    }
  });

  test('ends with the service, and says so', async () => {
    await using app = await runApp();
    const answer = send(app, EVENTS, { headers: { accept: NDJSON } });
    setTimeout(() => app.calls.drain(), 50);
    const { text } = await answer;
    const [ready, last] = text.split('\n');
    expect(JSON.parse(ready ?? '')).toMatchObject({ type: 'ready' });
    expect(JSON.parse(last ?? '')).toMatchObject({ type: 'error', problem: { code: 'manager_closed' } });
  });

  test('ends with the manager', async () => {
    await using app = await runApp();
    const answer = send(app, EVENTS, { headers: { accept: NDJSON } });
    setTimeout(() => app.stub.lifecycle.close(), 50);
    expect((await answer).text).toMatch(/^\{"type":"ready",.*\}\n$/);
  });
});
