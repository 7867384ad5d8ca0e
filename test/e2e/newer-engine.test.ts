import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';

import { startDind, type DindEngine } from '../fixtures/dind.js';
import { attemptEgress, connectEgress, reasonsOf, startEgressGround, type EgressGround } from '../fixtures/egress.js';
import { IMAGE, testManager } from '../fixtures/run.js';
import { describeCore } from '../integration/core-cases.js';

let engine: DindEngine | undefined;

beforeAll(async () => {
  engine = await startDind();
  await engine.loadImage(IMAGE);
  // From here on everything takes the way that DOCKER_HOST names, as it would for a user.
  for (const [name, value] of Object.entries(engine.env)) vi.stubEnv(name, value);
});

afterAll(async () => {
  vi.unstubAllEnvs();
  await engine?.stop();
});

describeCore('a newer engine, over TCP with TLS', () => testManager());

describe('egress on a newer engine, which is itself in a container', () => {
  let ground: EgressGround;
  beforeAll(async () => {
    ground = await startEgressGround();
  });
  afterAll(() => ground?.stop());

  it.each([
    ['pip download', 'cd /tmp && pip download --no-deps --index-url https://index.test/simple/ hello-egress'],
    ['git clone', 'cd /tmp && git clone https://git.test/repo.git'],
  ])('leads to what is allowed: %s', async (_what, script) => {
    const { exitCode, text, entries } = await attemptEgress(ground.sandbox, script);
    expect(exitCode, text).toBe(0);
    expect(new Set(reasonsOf(entries))).toEqual(new Set([null]));
  });

  it.each([
    ['https://evil.test/', 'host_not_allowed'],
    ['http://index.test:8080/', 'port_not_allowed'],
    ['http://169.254.169.254/', 'ip_literal'],
    ['http://metadata.test/', 'address_not_public'],
    ['http://private.test/', 'address_not_public'],
  ])('refuses %s: %s', async (url, reason) => {
    const { exitCode, entries } = await attemptEgress(ground.sandbox, ['curl', '-sS', '-f', '--max-time', '10', url]);
    expect(exitCode).not.toBe(0);
    expect(reasonsOf(entries)).toEqual([reason]);
  });

  it('leads nowhere past its proxy', async () => {
    const { internet, sandbox } = ground;
    const { Config } = (await engine?.docker.getNetwork(`sandyard-${sandbox.id}`).inspect())?.IPAM ?? {};
    // The newest engines have none in such a network; what older ones have is to lead nowhere.
    const gateways = Config?.flatMap(({ Gateway = [] }) => Gateway) ?? [];
    for (const host of [internet.address, internet.metadataAddress, internet.privateAddress, '172.17.0.1', ...gateways])
      expect((await connectEgress(sandbox, host, 80)).exitCode, host).not.toBe(0);
  });
});

describe('a newer engine, over TCP with TLS', () => {
  it('is one, and speaks a newer API', async () => {
    const manager = await testManager();
    const { address, version, apiVersion } = await manager.engineInfo();
    expect(address).toBe(engine?.dockerHost);
    expect(Number(version.split('.')[0])).toBeGreaterThanOrEqual(26);
    expect(Number(apiVersion.split('.')[1])).toBeGreaterThanOrEqual(45);
    await manager.close();
  });

  it('is not to be had without a certificate', async () => {
    vi.stubEnv('DOCKER_TLS_VERIFY', '');
    vi.stubEnv('DOCKER_CERT_PATH', '');
    try {
      await expect(testManager()).rejects.toMatchObject({ code: 'engine_unavailable' });
    } finally {
      for (const [name, value] of Object.entries(engine?.env ?? {})) vi.stubEnv(name, value);
    }
  });
});
