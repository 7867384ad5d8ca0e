import { describe, expect, it, vi } from 'vitest';

import { FrameType } from '../../../src/channel/wire.js';
import { Creation } from '../../../src/create/creation.js';
import type { SettledOptions } from '../../../src/create/isolating.js';
import { planSandbox } from '../../../src/create/plan.js';
import { readManagerDefaults } from '../../../src/config.js';
import type { ContainerSpec } from '../../../src/engine/engine.js';
import { SandyardError } from '../../../src/errors.js';
import { silentLog } from '../../../src/log.js';
import { SandboxSockets } from '../../../src/sandbox-sockets.js';
import { claimedAs } from '../../../src/record/record.js';
import { settleable } from '../../../src/settleable.js';
import { Egress } from '../../../src/egress/egress.js';
import { WardenDelivery } from '../../../src/warden.js';
import type { FakeContainer } from '../../fixtures/fake-engine.js';
import { claimOf, makeFleet, settle } from '../../fixtures/fake-fleet.js';
import { answer } from '../../fixtures/warden-wire.js';

function world({ sockets = SandboxSockets.none } = {}) {
  const fleet = makeFleet({ sockets });
  const checkOpen = vi.fn();
  const warden = new WardenDelivery(fleet.engine, 'sandyard-sandbox:latest');
  const { image, limits, egress: settings } = readManagerDefaults({});
  const images = [image];
  const egress = new Egress({ ...fleet, owner: 'me', settings, images, maxLifetimeMs: limits.maxLifetimeMs });
  const removed = vi.fn((id: string) => fleet.inventory.remove(id));
  const creation = new Creation({ ...fleet, warden, egress, removed, checkOpen });
  const plan = (pool?: string, given: SettledOptions = {}) =>
    planSandbox(given, { id: 'a', owner: 'me', image, limits, pool });
  return { ...fleet, creation, plan, checkOpen, removed };
}

/** Has the warden answer nothing of that type, or with that errno. */
function mute({ warden }: FakeContainer, type: number, errno?: number): void {
  warden.intercept = (frame, tunnel) => {
    if (frame.type !== type) return false;
    if (errno !== undefined) tunnel.send(answer.error(frame.stream, { errno, stage: 0, text: 'full' }));
    return true;
  };
}

it.each([undefined, 'pool'])('gives it its lease before it is answered: for %s', async (pool) => {
  const { creation, plan, engine } = world();
  const record = await creation.make(plan(pool));
  const { warden } = engine.find(record.containerId);
  expect(warden.record.taken).toBe(true);
  expect((warden.record.leaseEndsAt ?? 0) - Date.now()).toBeGreaterThan(3_590_000);
});

it('answers whoever gives up at once, also while the warden does not', async () => {
  const { creation, plan, engine } = world();
  engine.after.startContainer = (name) => mute(engine.find(name), FrameType.recordSet);
  const caller = new AbortController();
  const making = creation.make(plan(), caller.signal).catch((error: unknown) => error);
  await settle();
  caller.abort();
  expect(await making).toMatchObject({ code: 'aborted' });
  expect(engine.containers.size).toBe(0);
});

it('tells what the warden refuses as an error of ours', async () => {
  const { creation, plan, engine } = world();
  engine.after.startContainer = (name) => mute(engine.find(name), FrameType.recordSet, 28);
  await expect(creation.make(plan())).rejects.toMatchObject({ name: 'SandyardError', code: 'engine_error' });
  expect(engine.containers.size).toBe(0);
});

it('does not set the lease of a warm one, by which it can be claimed, before all else is done', async () => {
  const { creation, plan, engine, checkOpen } = world();
  const verified = settleable<void>();
  engine.before.verifyContainer = () => verified.promise;
  const making = creation.make(plan('pool'));
  await settle();
  const [container] = engine.containers.values();
  expect(container?.warden.count('recordSet')).toBe(0);
  verified.resolve(undefined);
  await making;
  expect(checkOpen).toHaveBeenCalledOnce();
  expect(container?.warden.count('recordSet')).toBe(1);
});

it.each([
  ['its caller gives up', (abort: AbortController) => abort.abort()],
  [
    'the manager is closed',
    (_: AbortController, checkOpen: ReturnType<typeof vi.fn>) => checkOpen.mockImplementation(thrown),
  ],
])('never removes a warm one that somebody has claimed when %s', async (_, giveUp) => {
  const { creation, plan, engine, checkOpen } = world();
  const caller = new AbortController();
  engine.after.startContainer = (name) => {
    const container = engine.find(name);
    container.warden.intercept = ({ type }) => {
      if (type !== FrameType.recordSet) return false;
      // As soon as it can be had another manager has it.
      container.warden.record.blob = Buffer.from(JSON.stringify(claimOf()));
      giveUp(caller, checkOpen);
      return false;
    };
  };
  await creation.make(plan('pool'), caller.signal).catch(() => {});
  expect(engine.containers.size).toBe(1);
});

function thrown(): never {
  throw new SandyardError('manager_closed', 'Closed.');
}

it('leaves a warm one whose lease may have been set', async () => {
  const { creation, plan, engine, log } = world();
  engine.after.startContainer = (name) => mute(engine.find(name), FrameType.recordSet, 28);
  await expect(creation.make(plan('pool'))).rejects.toMatchObject({ name: 'SandyardError' });
  expect(engine.containers.size).toBe(1);
  expect(log.warn).toHaveBeenCalledOnce();
});

it.each([
  ['gives up', new SandyardError('engine_timeout', 'Late.')],
  ['fails', new SandyardError('channel_failed', 'Odd.')],
])(
  'removes a warm one that nobody can have yet when the way to it %s',
  async (_, error) => {
    const { creation, plan, engine } = world();
    engine.before.startContainer = (name) => engine.find(name).warden.cut();
    engine.before.openTunnel = () => {
      throw error;
    };
    await expect(creation.make(plan('pool'))).rejects.toMatchObject({ code: error.code });
    expect(engine.containers.size).toBe(0);
  },
  20_000,
);

it('has run a command in a warm one before it can be claimed, where there is a shell', async () => {
  const { creation, plan, engine } = world();
  let before: number | undefined;
  engine.after.startContainer = (name) => {
    const { warden } = engine.find(name);
    warden.intercept = ({ type, stream }, tunnel) => {
      if (type === FrameType.recordSet) before = warden.count('spawn');
      if (type !== FrameType.spawn) return false;
      tunnel.send(answer.error(stream, { errno: 2, stage: 4, text: 'sh' }));
      return true;
    };
  };
  await creation.make(plan('pool'));
  expect(before).toBe(1);
});

it('removes a warm one that is not what it should be, and that nobody can have yet', async () => {
  const { creation, plan, engine } = world();
  engine.before.verifyContainer = thrown;
  await expect(creation.make(plan('pool'))).rejects.toMatchObject({ code: 'manager_closed' });
  expect(engine.containers.size).toBe(0);
});

it.each<[until: string, left: number]>([
  ['the engine is back and has stopped it', 0],
  ['the engine is back and it runs', 1], // and ends by itself, or somebody has it
  ['the manager is closed', 1],
])('tries to remove what it has half made until %s', async (until, left) => {
  vi.useFakeTimers();
  try {
    const { creation, plan, engine, checkOpen } = world();
    engine.after.startContainer = engine.before.removeContainer = () => {
      throw new SandyardError('engine_unavailable', 'Away.');
    };
    await expect(creation.make(plan())).rejects.toMatchObject({ code: 'engine_unavailable' });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(engine.count('removeContainer')).toBe(4); // at once, and 1, 3 and 7 seconds later
    const isClosed = until.endsWith('closed');
    if (isClosed) checkOpen.mockImplementation(thrown);
    if (until.endsWith('stopped it')) engine.die('sandyard-a');
    delete engine.before.removeContainer;
    await vi.advanceTimersByTimeAsync(200_000);
    expect(engine.containers.size).toBe(left);
    expect(engine.count('removeContainer')).toBe(isClosed ? 4 : 5);
  } finally {
    vi.useRealTimers();
  }
});

it('makes a record that a claim goes over', async () => {
  const { creation, plan } = world();
  const record = await creation.make(plan('pool'));
  expect(record).toMatchObject({ warm: true, pool: 'pool', name: 'sandyard-pool-a', state: 'running' });
  expect(claimedAs(record, claimOf())).toMatchObject({ warm: false, name: 'sandyard-a', env: { A: 'b' } });
});

describe('where managers listen for wardens', () => {
  const dataRoot = () => Promise.resolve('/var/lib/docker');
  const mount = { source: '/srv/a', target: '/run/sandyard' };
  const shared = (directory = '/srv') => {
    const sockets = new SandboxSockets({ directory, dataRoot, owner: 'me', log: silentLog });
    const prepare = vi.spyOn(sockets, 'prepare').mockResolvedValue(mount);
    const connect = vi.spyOn(sockets, 'connect').mockResolvedValue(undefined);
    return { ...world({ sockets }), sockets, prepare, connect };
  };
  /** On an engine that can't mount it: on another machine it isn't there. */
  const elsewhere = (directory: string, step: 'createContainer' | 'startContainer' = 'createContainer') => {
    const found = shared(directory);
    const { engine } = found;
    const refuse = (spec: ContainerSpec | undefined) => {
      if (spec?.directory !== undefined) throw new SandyardError('engine_error', 'bind source path does not exist');
    };
    engine.before[step] = (given: ContainerSpec | string) =>
      refuse(typeof given === 'string' ? engine.find(given).spec : given);
    return found;
  };

  it('a sandbox has its directory, and its warden is told of it; it is talked to by nothing of the engine', async () => {
    const { creation, plan, engine, connect } = shared();
    connect.mockImplementation(() => engine.openTunnel('sandyard-a', []) as Promise<never>);
    const { spec } = engine.find((await creation.make(plan())).containerId);
    expect(spec?.directory).toEqual(mount);
    expect(spec?.entrypoint).toContain('--sockets=/run/sandyard');
    expect([engine.count('attachTunnel'), connect.mock.calls.length]).toEqual([0, 1]);
  });

  it('one that does not connect is talked to by the engine', async () => {
    const { creation, plan, engine } = shared();
    await creation.make(plan());
    expect([engine.count('attachTunnel'), engine.count('openTunnel')]).toEqual([0, 1]);
  });

  it.each<[string, SettledOptions]>([
    ['that may run commands as root', { profile: 'dev' }],
    ['on gVisor', { runtime: 'runsc' }],
  ])('one %s has none', async (_, given) => {
    const { creation, plan, engine, prepare } = shared();
    const { spec } = engine.find((await creation.make(plan(undefined, given))).containerId);
    expect([prepare.mock.calls.length, spec?.directory]).toEqual([0, undefined]);
    expect(spec?.entrypoint.join(' ')).not.toContain('--sockets');
  });

  it.each(['createContainer', 'startContainer'] as const)(
    'there is none on another machine, where nobody has asked for it: refused by %s',
    async (step) => {
      const { creation, plan, engine, sockets, removed } = elsewhere('auto', step);
      const { spec } = engine.find((await creation.make(plan())).containerId);
      expect([spec?.directory, sockets.isTried, engine.count('attachTunnel')]).toEqual([undefined, false, 1]);
      expect(removed).toHaveBeenCalledWith('a');
      expect(engine.containers.size).toBe(1);
    },
  );

  it('an engine that can not mount what was asked for is told of', async () => {
    const { creation, plan, engine } = elsewhere('/srv');
    await expect(creation.make(plan())).rejects.toMatchObject({ message: 'bind source path does not exist' });
    expect(engine.containers.size).toBe(0);
  });

  it('what an engine refuses without one, too, says nothing of it', async () => {
    const { creation, plan, engine, sockets } = shared('auto');
    engine.before.createContainer = () => {
      throw new SandyardError('validation_failed', 'The working directory can not be one.');
    };
    await expect(creation.make(plan())).rejects.toMatchObject({ code: 'validation_failed' });
    expect([engine.count('createContainer'), sockets.isTried]).toEqual([2, true]);
    engine.before.createContainer = () => {
      throw new SandyardError('engine_timeout', 'Late.');
    };
    await expect(creation.make(plan())).rejects.toMatchObject({ code: 'engine_timeout' });
    expect(engine.count('createContainer')).toBe(3);
  });

  it('what was prepared is removed where there is no egress for it', async () => {
    const { creation, plan, engine, sockets } = shared();
    const remove = vi.spyOn(sockets, 'remove').mockResolvedValue();
    engine.before.createNetwork = () => {
      throw new SandyardError('engine_error', 'No.');
    };
    const network = {
      egress: { allow: ['example.com'], learn: false, maxBytes: null, bytesPerSecond: null, maxConnections: 8 },
    };
    await expect(creation.make(plan(undefined, { network }))).rejects.toMatchObject({ code: 'engine_error' });
    expect(remove).toHaveBeenCalledWith('a');
    expect(engine.count('createContainer')).toBe(0);
  });

  it('what was prepared is removed with what could not be made', async () => {
    const { creation, plan, engine, removed } = shared();
    engine.before.startContainer = () => {
      throw new SandyardError('engine_error', 'No.');
    };
    await expect(creation.make(plan())).rejects.toMatchObject({ code: 'engine_error' });
    expect(removed).toHaveBeenCalledWith('a');
  });
});
