import { describe, expect, it } from 'vitest';

import { DiskBounds } from '../../../src/create/disk-bounds.js';
import { Isolating, toPidsLimit } from '../../../src/create/isolating.js';
import { egressSchema } from '../../../src/egress-schemas.js';
import type { EngineInfo } from '../../../src/engine/engine.js';
import { EngineFacts } from '../../../src/engine/facts.js';
import type { IsolationSettings } from '../../../src/isolation.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';

const EGRESS = { egress: egressSchema.parse({ allow: ['example.com'] }) };

const OPEN: IsolationSettings = {
  profile: 'standard',
  runtime: undefined,
  allowedProfiles: undefined,
  allowedNetworks: undefined,
  allowedImages: undefined,
  allowedRuntimes: undefined,
};

function setUp(settings: Partial<IsolationSettings> = {}, has: Partial<EngineInfo> = {}) {
  const engine = new FakeEngine();
  const real = engine.info.bind(engine);
  engine.info = async (...args) => ({ ...(await real(...args)), ...has });
  engine.images.set('ours:1', {});
  const facts = new EngineFacts(engine);
  const disk = new DiskBounds(engine, facts);
  const parts = { facts, disk, settings: { ...OPEN, ...settings }, defaultImage: 'ours:1' };
  return { engine, isolating: new Isolating(parts) };
}

describe('the runtime of a sandbox', () => {
  it("is the engine's own unless one is named", async () => {
    const { isolating } = setUp();
    expect(await isolating.settle({})).not.toHaveProperty('runtime');
  });

  it.each<[asked: object, settings: Partial<IsolationSettings>, runtime: string | undefined]>([
    [{ runtime: 'runc' }, {}, 'runc'],
    [{ runtime: 'auto' }, {}, 'runsc'],
    [{}, { runtime: 'auto' }, 'runsc'],
    [{}, { runtime: 'runsc' }, 'runsc'],
    [{ runtime: 'runc' }, { runtime: 'runsc' }, 'runc'],
    [{ profile: 'strict' }, {}, 'runsc'],
    [{}, { profile: 'strict' }, 'runsc'],
    [{ profile: 'strict', runtime: 'runc' }, {}, 'runc'],
    [{ profile: 'strict' }, { runtime: 'runc' }, 'runc'],
    [{ runtime: 'auto' }, { allowedRuntimes: ['runc'] }, undefined],
    [{ runtime: 'auto' }, { allowedRuntimes: ['runsc'] }, 'runsc'],
    // Its only gVisor has no network: what can't be had is not called the strongest.
    [{ runtime: 'auto', network: 'bridge' }, {}, undefined],
  ])('for %j under %j is %s', async (asked, settings, runtime) => {
    const { isolating } = setUp(settings);
    expect((await isolating.settle(asked)).runtime).toBe(runtime);
  });

  it("is the engine's own where auto finds nothing stronger", async () => {
    const { isolating } = setUp({}, { runtimes: ['runc', 'crun'] });
    expect((await isolating.settle({ runtime: 'auto' })).runtime).toBeUndefined();
  });

  it('may be one of several that are gVisor, by the network that they have', async () => {
    const { isolating } = setUp({}, { runtimes: ['runc', 'runsc', 'runsc-net'], runtimesWithoutNetwork: ['runsc'] });
    expect((await isolating.settle({ runtime: 'auto' })).runtime).toBe('runsc');
    for (const network of ['bridge', EGRESS] as const) {
      expect((await isolating.settle({ runtime: 'auto', network })).runtime).toBe('runsc-net');
    }
  });

  it.each<[asked: object, has: Partial<EngineInfo>, runtime: string]>([
    [{ runtime: 'runsc' }, {}, 'runsc'],
    [{}, { defaultRuntime: 'runsc' }, 'runsc'],
  ])('is refused for %j where it has no network, and one is asked for', async (asked, has, runtime) => {
    const { isolating } = setUp({}, { runtimes: ['runc', 'runsc', 'runsc-net'], ...has });
    await isolating.settle(asked);
    for (const network of ['bridge', EGRESS] as const) {
      await expect(isolating.settle({ ...asked, network })).rejects.toMatchObject({
        code: 'validation_failed',
        message: `The runtime ${runtime} has no network, and "${network === 'bridge' ? 'bridge' : 'egress'}" is asked for.`,
        hint: expect.stringContaining('one of runc, runsc-net,'),
        issues: [{ path: ['runtime'] }],
      });
    }
  });

  it('is asked for anew before it is refused for its network', async () => {
    const { engine, isolating } = setUp();
    await isolating.settle({ runtime: 'runsc' });
    const before = engine.count('info');
    await expect(isolating.settle({ runtime: 'runsc', network: 'bridge' })).rejects.toThrow('has no network');
    expect(engine.count('info')).toBe(before + 1);
    const real = engine.info.bind(engine);
    engine.info = async (...args) => ({ ...(await real(...args)), runtimesWithoutNetwork: [] });
    expect(await isolating.settle({ runtime: 'runsc', network: 'bridge' })).toMatchObject({ runtime: 'runsc' });
  });

  it('is refused when the engine has none of that name, once it was asked anew', async () => {
    const { engine, isolating } = setUp();
    await isolating.settle({}); // so that what the engine has is known
    const before = engine.count('info');
    const missing = {
      code: 'validation_failed',
      issues: [{ path: ['runtime'] }],
      hint: expect.stringContaining('runc'),
    };
    await expect(isolating.settle({ runtime: 'kata' })).rejects.toMatchObject(missing);
    expect(engine.count('info')).toBe(before + 1);
    expect(engine.count('createContainer')).toBe(0);
    await isolating.settle({ runtime: 'runc' });
    expect(engine.count('info')).toBe(before + 1); // known for a while
  });

  it.each<[asked: object, settings: Partial<IsolationSettings>]>([
    [{ runtime: 'runc' }, { allowedRuntimes: ['runsc'] }],
    [{}, { allowedRuntimes: ['runsc'] }], // the engine's own is runc
    [{ runtime: 'auto', network: 'bridge' }, { allowedRuntimes: ['runsc'] }],
  ])('is refused for %j under %j', async (asked, settings) => {
    const { isolating } = setUp(settings);
    const refusal = { code: 'forbidden', details: { setting: 'SANDBOX_ALLOWED_RUNTIMES' } };
    await expect(isolating.settle(asked)).rejects.toMatchObject(refusal);
  });
});

it.each<[IsolationSettings['allowedNetworks'], isAllowed: boolean]>([
  [undefined, true],
  [['none', 'egress'], true],
  [['none', 'bridge'], false],
])('egress is one of the networks that an operator may allow: %j', (allowedNetworks, isAllowed) => {
  const { isolating } = setUp({ allowedNetworks });
  const check = () => isolating.check({ network: EGRESS });
  if (isAllowed) expect(check()).toMatchObject({ network: EGRESS });
  else expect(check).toThrow('The operator doesn\'t allow the network "egress".');
});

describe('the limit on processes', () => {
  it.each([
    [256, null, 256],
    [256, 'runc', 256],
    [64, 'runsc', 2048],
    [1024, 'runsc', 8192],
  ])('of %d in %s is %d for the engine', (pids, runtime, limit) => {
    expect(toPidsLimit(pids, runtime)).toBe(limit);
  });
});
