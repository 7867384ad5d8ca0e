import { describe, expect, test } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import type { LifecycleEvent, PruneResult } from '../../../src/index.js';
import { until, World } from './harness.js';
import { deferred } from './stub-process.js';

describe('what is done to sandboxes as a whole', () => {
  test.each(['start', 'stop', 'restart', 'pause', 'unpause', 'renew'])(
    '%s is done to each, goes on over failures, and exits with 1 then',
    async (verb) => {
      const world = new World();
      for (const id of ['abc', 'def']) world.stub.add(id);
      expect(await world.run(verb, 'abc', 'nope', 'def')).toBe(1);
      expect([world.out, world.err]).toEqual(['abc\ndef\n', 'sandyard: There is no sandbox "nope".\nhint: List.\n']);
      expect(world.stub.called(verb).map(([id]) => id)).toEqual(['abc', 'def']);
      expect([[...world.stub.actors], world.stub.opened, world.stub.closed]).toEqual([['cli'], 0, 1]);
    },
  );

  test('prints descriptions with --json', async () => {
    const world = new World();
    world.stub.add('abc');
    expect(await world.run('pause', '--json', 'abc')).toBe(0);
    expect(JSON.parse(world.out)).toMatchObject([{ id: 'abc', state: 'paused' }]);
  });

  test.each([
    [['stop', 'abc'], { graceMs: undefined }],
    [['stop', '--grace', '30s', 'abc'], { graceMs: 30_000 }],
    [['stop', '--grace', '0s', 'abc'], { graceMs: 0 }],
    [['restart', '--grace', '500ms', 'abc'], { graceMs: 500 }],
    [['renew', 'abc'], { ttlMs: undefined }],
    [['renew', '--ttl', '8h', 'abc'], { ttlMs: 28_800_000 }],
  ])('%j passes on %j', async (args, options) => {
    const world = new World();
    world.stub.add('abc');
    expect(await world.run(...args)).toBe(0);
    expect(world.stub.called(args[0] ?? '')[0]?.[1]).toMatchObject(options);
  });

  test.each([
    [['stop', '--grace', 'soon', 'abc'], '--grace is "soon", which is no duration.'],
    [['renew', '--ttl', '0s', 'abc'], '--ttl is "0s", which is no duration.'],
    [['create', '--on-expiry', 'sleep'], "'sleep' is invalid"],
  ])('refuses %j', async (args, message) => {
    const world = new World();
    expect(await world.run(...args)).toBe(125);
    expect(world.err).toContain(message);
    expect(world.opened).toBe(0);
  });
});

describe('inspect', () => {
  test('describes each, with what is left', async () => {
    const world = new World();
    world.stub.add('abc', { projectName: 'a\u001B[31m', metadata: { a: 'b\nc' } });
    world.stub.add('def', { state: 'exited', exitCode: 90, idleTimeoutMs: 90_000, onExpiry: 'stop', wakeOnUse: true });
    expect(await world.run('inspect', 'abc', 'def')).toBe(0);
    const [first = '', second = ''] = world.out.split('\n\n');
    expect(first).toMatch(/^ID {13}abc\nPROJECT {8}a\\x1b\[31m\nSTATE {10}running\n/);
    expect(first).toMatch(/\nEXPIRES {8}\S+Z \(in 2 hours\)\nLEASE {10}125m\nIDLE TIMEOUT {3}none\n/);
    expect(first).toMatch(/\nMETADATA {7}a=b\\nc$/);
    expect(second).toMatch(/\nSTATE {10}exited \(90\)\n[^]*\nIDLE TIMEOUT {3}90s\nMAX LIFETIME {3}1d\n/);
    expect(second).toContain('stop, and start again on use');
  });

  test('prints an array with --json, and exits with 1 when one failed', async () => {
    const world = new World();
    world.stub.add('abc');
    expect(await world.run('inspect', '--json', 'nope', 'abc')).toBe(1);
    expect(JSON.parse(world.out)).toMatchObject([{ id: 'abc', on_expiry: 'destroy', max_lifetime: 86_400 }]);
    expect(JSON.parse(world.err)).toMatchObject({ error: { code: 'sandbox_not_found' } });
  });
});

describe('wait', () => {
  test('prints each exit code in the order of the ids, as soon as it can', async () => {
    const world = new World();
    const first = deferred<void>();
    const waiting: string[] = [];
    world.stub.add('abc', { state: 'exited', exitCode: 90 });
    world.stub.add('def', { state: 'exited', exitCode: 0 });
    world.stub.wait = async (id) => {
      waiting.push(id);
      if (id === 'def') await first.promise;
      return world.stub.infos.get(id) ?? null;
    };
    const ended = world.run('wait', 'abc', 'def');
    await until(() => world.out === '90\n');
    expect(waiting).toEqual(['abc', 'def']);
    first.resolve();
    expect(await ended).toBe(0);
    expect([world.out, world.err, world.stub.opened]).toEqual(['90\n0\n', '', 1]);
  });

  test('says which was removed, or is not there, and exits with 1', async () => {
    const world = new World();
    world.stub.wait = async (id) => {
      if (id === 'nope') throw new SandyardError('sandbox_not_found', 'There is no sandbox "nope".');
      return null;
    };
    expect(await world.run('wait', 'nope', 'abc')).toBe(1);
    expect(world.out).toBe('');
    expect(world.err).toMatch(/no sandbox "nope"[^]*The sandbox abc was removed: nobody knows how it ended\.\nhint: /);
  });

  test('prints how they ended with --json', async () => {
    const world = new World();
    world.stub.add('abc', { state: 'exited', exitCode: 91 });
    expect(await world.run('wait', '--json', 'abc')).toBe(0);
    expect(JSON.parse(world.out)).toEqual([
      { id: 'abc', state: 'exited', exit_code: 91, reason: 'idle', finished_at: null },
    ]);
  });

  test('ends quietly with Ctrl-C', async () => {
    const world = new World();
    world.stub.wait = (async (_: string, { signal }: { signal: AbortSignal }) => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      throw new SandyardError('aborted', 'The caller gave up.');
    }) as never;
    const ended = world.run('wait', 'abc', 'def');
    await until(() => world.stub.opened === 1);
    await new Promise((resolve) => setTimeout(resolve, 5));
    world.signal('SIGINT');
    expect(await ended).toBe(130);
    expect([world.out, world.err, world.stub.closed]).toEqual(['', '', 1]);
  });
});

describe('events', () => {
  const event: LifecycleEvent = {
    id: 'abcdefgh-1',
    type: 'stopped',
    at: new Date('2026-01-01T00:00:00Z'),
    sandboxId: 'abc',
    owner: 'default',
    tenant: null,
    projectName: 'demo',
    reason: 'lease_expired',
    by: null,
    requestId: null,
    exitCode: 90,
  };

  async function watch(...args: string[]): Promise<World> {
    const world = new World();
    world.stub.happened = [event, { ...event, id: 'abcdefgh-2', type: 'destroyed', by: 'reaper', exitCode: null }];
    const ended = world.run('events', ...args);
    await until(() => world.out.split('\n').length === 3);
    world.signal('SIGINT');
    expect([await ended, world.err, world.stub.opened, world.stub.closed]).toEqual([130, '', 1, 1]);
    return world;
  }

  test('tells them one a line, until Ctrl-C', async () => {
    const { out } = await watch();
    expect(out).toBe(
      '2026-01-01T00:00:00.000Z stopped abc (reason=lease_expired, exit_code=90, project=demo)\n' +
        '2026-01-01T00:00:00.000Z destroyed abc (reason=lease_expired, by=reaper, project=demo)\n',
    );
  });

  test('tells them as objects with --json, one a line', async () => {
    const [first = ''] = (await watch('--json')).out.split('\n');
    expect(JSON.parse(first)).toMatchObject({ type: 'stopped', sandbox_id: 'abc', exit_code: 90, by: null });
  });

  test('passes filters on', async () => {
    const filters = ['type=stopped', 'type=oom', 'sandbox=abc', 'project=a=b'].flatMap((text) => ['--filter', text]);
    const { stub } = await watch(...filters);
    expect(stub.called('events')).toEqual([[{ types: ['stopped', 'oom'], sandboxId: 'abc', projectName: 'a=b' }]]);
  });

  test.each([['type=odd'], ['type=constructor'], ['sandbox='], ['sandbox'], ['colour=red']])(
    'refuses the filter %j',
    async (text) => {
      const world = new World();
      expect(await world.run('events', '--filter', text)).toBe(125);
      expect(world.err).toMatch(/is no filter, or is one too many\.\nhint: /);
      expect(world.opened).toBe(0);
    },
  );

  test('refuses two sandboxes', async () => {
    const world = new World();
    expect(await world.run('events', '-f', 'sandbox=a', '-f', 'sandbox=b')).toBe(125);
  });
});

describe('prune', () => {
  const pruned: PruneResult = {
    sandboxes: [
      { id: 'abc', reason: 'lease_expired', action: 'removed' },
      { id: 'def', reason: 'lease_expired', action: 'paused' },
    ],
    volumes: [{ kind: 'volume', name: 'sandyard-x', reason: 'image_gone', removed: true }],
    networks: [],
  };

  test('says what and why', async () => {
    const world = new World();
    world.stub.pruned = pruned;
    expect(await world.run('prune')).toBe(0);
    expect(world.out).toBe(
      'KIND      NAME         WHY                     DONE\n' +
        'sandbox   abc          its lease has run out   removed\n' +
        'sandbox   def          its lease has run out   paused\n' +
        'volume    sandyard-x   its image is gone       removed\n',
    );
    expect(world.stub.called('prune')[0]?.[0]).toMatchObject({ dryRun: false });
  });

  test('only says so in a dry run', async () => {
    const world = new World();
    world.stub.pruned = { ...pruned, sandboxes: [{ id: 'abc', reason: 'idle', action: 'none' }], volumes: [] };
    expect(await world.run('prune', '--dry-run')).toBe(0);
    expect(world.out).toMatch(/^sandbox +abc +nothing was done in it for its idle timeout +nothing: a dry run$/m);
    expect(world.stub.called('prune')[0]?.[0]).toMatchObject({ dryRun: true });
  });

  test('exits with 1 when something could not be removed', async () => {
    const world = new World();
    world.stub.pruned = {
      ...pruned,
      networks: [{ kind: 'network', name: 'n', reason: 'unused', removed: false, error: 'in\nuse' }],
    };
    expect(await world.run('prune', '--json')).toBe(1);
    expect(JSON.parse(world.out)).toMatchObject({ dry_run: false, sandboxes: [{ id: 'abc' }, { id: 'def' }] });
    const table = new World();
    table.stub.pruned = world.stub.pruned;
    await table.run('prune');
    expect(table.out).toContain(String.raw`failed: in\nuse`);
  });
});

describe('stats --history', () => {
  const sample = {
    at: new Date('2026-01-01T00:00:00Z'),
    memoryBytes: 1024 ** 2,
    cpuSeconds: 1.25,
    processes: 2,
    networkReceivedBytes: 0,
    networkSentBytes: 2048,
  };

  test('prints a sample a line, or objects', async () => {
    const [table, json] = [new World(), new World()];
    for (const { stub } of [table, json]) {
      stub.add('abc');
      stub.samples = [sample, { ...sample, at: new Date('2026-01-01T00:00:10Z') }];
    }
    expect(await table.run('stats', '--history', 'abc')).toBe(0);
    expect(table.out).toBe(
      'ID    TIME                       CPU SECONDS   MEMORY   PIDS   NET IN / OUT\n' +
        'abc   2026-01-01T00:00:00.000Z   1.25          1MiB     2      0B / 2KiB\n' +
        'abc   2026-01-01T00:00:10.000Z   1.25          1MiB     2      0B / 2KiB\n',
    );
    expect(await json.run('stats', '--history', '--json', 'abc', 'nope')).toBe(1);
    expect(JSON.parse(json.out)).toMatchObject([{ id: 'abc', samples: [{ pids: 2 }, { cpu_seconds: 1.25 }] }]);
  });
});
