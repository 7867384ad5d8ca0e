import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { SandboxManager } from '../../src/index.js';
import { EventReader, numbers, printed } from '../fixtures/event-reader.js';
import { ESCAPED, escape, MAINS } from '../fixtures/escape.js';
import { countProcesses, eventually, newOwner, removeAll, RUNTIMES, sleep } from '../fixtures/run.js';
import { call, startServiceProcess, type ServiceProcess } from '../fixtures/service.js';

/** Prints a number every 20 ms. */
const COUNTING = 'i=0; while [ $i -lt 250 ]; do i=$((i+1)); echo $i; sleep 0.02; done';

describe('processes of the real service', () => {
  const owner = newOwner();
  const manager = new SandboxManager({ owner, reaper: false });
  let service: ServiceProcess;
  let path: string;
  beforeAll(async () => {
    service = await startServiceProcess({ SANDBOX_OWNER: owner });
    const { body } = await call(service, 'POST', { path: '/api/sandboxes', json: { pids_limit: 512 } });
    path = `/api/sandboxes/${body.id}`;
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await removeAll(manager);
  });

  const start = (json: object) => call(service, 'POST', { path: `${path}/processes`, json });
  const outputUrl = (id: string, query = '') => `${service.url}${path}/processes/${id}/output${query}`;
  const survivors = async (mark: number) => {
    // A pattern that the command line of the search itself doesn't match.
    const json = { command: `pgrep -fc 'slee[p] ${mark}'` };
    return Number((await call(service, 'POST', { path: `${path}/execute`, json })).body.stdout);
  };

  it('starts one, tells of it, feeds it, waits for it and forgets it', async () => {
    const made = await start({ command: ['sh', '-c', 'read a; echo got $a; exit 3'], id: 'life', stdin_open: true });
    expect(made.status).toBe(201);
    expect(made.headers.get('location')).toBe(`${path}/processes/life`);
    expect(made.body).toMatchObject({ id: 'life', state: 'running', exit_code: null, pid: expect.any(Number) });
    expect((await start({ command: ['true'], id: 'life' })).status).toBe(200);
    const listed = await call(service, 'GET', { path: `${path}/processes` });
    expect(listed.body.processes.map(({ id }: { id: string }) => id)).toContain('life');
    expect((await call(service, 'GET', { path: `${path}/processes/life/wait?timeout=0.1` })).status).toBe(204);
    const fed = await call(service, 'POST', { path: `${path}/processes/life/stdin?close=true`, body: 'dinner\n' });
    expect(fed.status).toBe(204);
    const waited = await call(service, 'GET', { path: `${path}/processes/life/wait` });
    expect(waited.body).toMatchObject({ outcome: 'exited', exit_code: 3 });
    expect((await call(service, 'GET', { path: `${path}/processes/life` })).body).toMatchObject({ state: 'exited' });
    await using output = await EventReader.open(outputUrl('life'));
    expect(await output.all()).toMatchObject([
      { type: 'output', seq: 1, data: 'got dinner\n' },
      { type: 'exit', exit_code: 3 },
    ]);
    expect((await call(service, 'DELETE', { path: `${path}/processes/life` })).status).toBe(204);
    expect((await call(service, 'GET', { path: `${path}/processes/life` })).status).toBe(404);
  });

  it('goes on after a lost connection without a gap, by "after" and by Last-Event-ID', async () => {
    const { body } = await start({ command: COUNTING });
    const seen: string[] = [];
    const seqs: number[] = [];
    const take = async (query: string, headers: Record<string, string>, pieces: number) => {
      await using reader = await EventReader.open(outputUrl(body.id, query), { headers });
      for (let left = pieces; left > 0; left -= 1) {
        const event = await reader.next();
        if (event === undefined || event.type === 'exit') return true;
        if (event.type !== 'output') continue;
        seen.push(String(event['data']));
        seqs.push(Number(event['seq']));
      }
      return false;
    };
    const sse = { accept: 'text/event-stream' };
    await take('', {}, 20);
    for (let round = 0; ; round += 1) {
      const last = String(seqs.at(-1));
      const [query, headers] = round % 2 === 0 ? [`?after=${last}`, {}] : ['', { ...sse, 'last-event-id': last }];
      if (await take(query, headers, 60)) break;
    }
    expect(seqs).toEqual(seqs.map((_, index) => index + 1));
    expect(seen.join('')).toBe(Array.from({ length: 250 }, (_, index) => `${index + 1}\n`).join(''));
  });

  it('answers 410 when what is wanted is gone, and says from where on there is more', async () => {
    const { body } = await start({ command: 'head -c 5000000 /dev/zero | tr "\\0" x' });
    const process = `${path}/processes/${body.id}`;
    expect((await call(service, 'GET', { path: `${process}/wait` })).body).toMatchObject({ exit_code: 0 });
    const lost = await call(service, 'GET', { path: `${process}/output` });
    expect(lost).toMatchObject({ status: 410, body: { code: 'output_lost', first_seq: expect.any(Number) } });
    await using reader = await EventReader.open(outputUrl(body.id, `?after=${lost.body.first_seq - 1}`));
    const events = await reader.all();
    expect(numbers(events)[0]).toBe(lost.body.first_seq);
    expect(printed(events)).toMatch(/^x{500000,1048576}$/);
    expect(events.at(-1)).toMatchObject({ type: 'exit' });
  });

  it('sends a heartbeat while nothing is printed', async () => {
    const { body } = await start({ command: 'sleep 17; echo done' });
    await using lines = await EventReader.open(outputUrl(body.id));
    await using serverSent = await EventReader.open(outputUrl(body.id), { headers: { accept: 'text/event-stream' } });
    const [events] = await Promise.all([lines.all(), serverSent.all()]);
    expect(events.map(({ type }) => type)).toEqual(['heartbeat', 'output', 'exit']);
    expect(serverSent.comments).toEqual(['still running']);
  });

  const hangUps = RUNTIMES.flatMap((runtime) =>
    ['application/json', 'application/x-ndjson'].map((accept) => ({ runtime, accept })),
  );
  it.each(hangUps)(
    'ends a command on $runtime, all that it started and nothing else, when the client that waits for $accept hangs up',
    async ({ runtime, accept }) => {
      const mark = accept.includes('ndjson') ? 20_001 : 20_002;
      const { body: made } = await call(service, 'POST', { path: '/api/sandboxes', json: { runtime } });
      const there = `/api/sandboxes/${made.id}`;
      const sandbox = await manager.get(made.id);
      const left = () => countProcesses(sandbox, `sleep ${mark}`);
      const json = { command: ['sh', '-c', 'read word; exit 7'], id: 'neighbour', stdin_open: true };
      expect((await call(service, 'POST', { path: `${there}/processes`, json })).status).toBe(201);
      const hangUp = new AbortController();
      const request = fetch(`${service.url}${there}/execute`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', accept },
        body: JSON.stringify({ command: ['bash', '-c', escape(mark) + MAINS['ignores SIGTERM'](mark)] }),
        signal: hangUp.signal,
      }).then((response) => response.text());
      await eventually(async () => ((await left()) >= ESCAPED ? true : undefined), { what: 'the whole tree' });
      hangUp.abort();
      await expect(request).rejects.toThrow();
      await eventually(async () => ((await left()) === 0 ? true : undefined), { what: 'the end of all survivors' });
      await call(service, 'POST', { path: `${there}/processes/neighbour/stdin`, body: 'go\n' });
      const { body } = await call(service, 'GET', { path: `${there}/processes/neighbour/wait` });
      expect(body).toMatchObject({ outcome: 'exited', exit_code: 7 });
    },
  );

  it('kills a background process with all that it started, and only then', async () => {
    const command = `${escape(20_003)}\necho ready\n${MAINS['ignores SIGTERM'](20_003)}`;
    const { body } = await start({ command: ['bash', '-c', command] });
    {
      await using reader = await EventReader.open(outputUrl(body.id));
      await reader.until((event) => event['data'] === 'ready\n');
    }
    await sleep(500);
    expect(await survivors(20_003)).toBeGreaterThanOrEqual(6);
    const killed = await call(service, 'POST', { path: `${path}/processes/${body.id}/kill`, json: { grace: 0.2 } });
    expect(killed.status).toBe(204);
    expect(await survivors(20_003)).toBe(0);
  });

  it('runs sixteen at once, each with its own output', async () => {
    const outputs = await Promise.all(
      Array.from({ length: 16 }, async (_, index) => {
        const { body } = await start({ command: `for i in $(seq 50); do echo ${index}-$i; sleep 0.01; done` });
        await using reader = await EventReader.open(outputUrl(body.id));
        return printed(await reader.all());
      }),
    );
    for (const [index, output] of outputs.entries()) {
      expect(output).toBe(Array.from({ length: 50 }, (_, line) => `${index}-${line + 1}\n`).join(''));
    }
  });

  it('goes on through a restart of the service, and its output with it', async () => {
    const first = await startServiceProcess({ SANDBOX_OWNER: owner });
    const { body } = await call(first, 'POST', { path: `${path}/processes`, json: { command: COUNTING } });
    const reader = await EventReader.open(`${first.url}${path}/processes/${body.id}/output`);
    const before = await reader.until(({ seq }) => Number(seq) >= 50);
    const ending = reader.all();
    expect(await first.stop('SIGTERM')).toBe(0);
    const last = await ending;
    expect(last.at(-1)).toMatchObject({ type: 'error', problem: { code: 'manager_closed' } });
    const got = [...before, ...last];

    await using second = await startServiceProcess({ SANDBOX_OWNER: owner });
    const after = numbers(got).at(-1);
    await using rest = await EventReader.open(`${second.url}${path}/processes/${body.id}/output?after=${after}`);
    const all = [...got, ...(await rest.all())];
    expect(all.at(-1)).toMatchObject({ type: 'exit', outcome: 'exited', exit_code: 0 });
    expect(numbers(all)).toEqual(numbers(all).map((_, index) => index + 1));
    expect(printed(all)).toBe(Array.from({ length: 250 }, (_, index) => `${index + 1}\n`).join(''));
  });
});
