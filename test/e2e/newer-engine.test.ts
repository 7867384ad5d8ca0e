import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';

import { startDind, type DindEngine } from '../fixtures/dind.js';
import { sandboxImage } from '../fixtures/images.js';
import { testManager } from '../fixtures/run.js';
import { describeCore } from '../integration/core-cases.js';

let engine: DindEngine | undefined;
let image: string;

beforeAll(async () => {
  image = await sandboxImage();
  engine = await startDind();
  await engine.loadImage(image);
  // From here on everything takes the way that DOCKER_HOST names, as it would for a user.
  for (const [name, value] of Object.entries(engine.env)) vi.stubEnv(name, value);
});

afterAll(async () => {
  vi.unstubAllEnvs();
  await engine?.stop();
});

describeCore('a newer engine, over TCP with TLS', () => testManager({ image }));

describe('a newer engine, over TCP with TLS', () => {
  it('is one, and speaks a newer API', async () => {
    const manager = await testManager({ image });
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
      await expect(testManager({ image })).rejects.toMatchObject({ code: 'engine_unavailable' });
    } finally {
      for (const [name, value] of Object.entries(engine?.env ?? {})) vi.stubEnv(name, value);
    }
  });
});
