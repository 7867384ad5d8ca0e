import { describe, expect, it } from 'vitest';

import { readManagerDefaults, readConfig } from '../../../src/config.js';
import { checkCeiling } from '../../../src/egress/ceiling.js';
import { proxyVariables, subnetsOf, toEndpoint } from '../../../src/egress/endpoint.js';
import { createOptionsSchema, parseInput } from '../../../src/schemas.js';

const settings = (allowedDomains: string[]) => ({ ...readManagerDefaults({}).egress, allowedDomains });
const network = (egress: object) => parseInput(createOptionsSchema, { network: { egress } }, 'create options').network;

describe('what egress may be asked for', () => {
  it('is all that the operator allows, and each host that is beyond it is named', () => {
    const allowed = settings(['*.npmjs.org', 'pypi.org:443']);
    checkCeiling({ allow: ['registry.npmjs.org', '*.npmjs.org:443', 'pypi.org:443'] }, allowed);
    checkCeiling({ allow: [] }, allowed);
    expect(() => checkCeiling({ allow: ['registry.npmjs.org', 'pypi.org', 'evil.example'] }, allowed)).toThrow(
      expect.objectContaining({
        code: 'limit_exceeded',
        message: 'Egress to pypi.org, evil.example is not allowed here.',
        issues: [
          expect.objectContaining({ path: ['network', 'egress', 'allow', 1] }),
          expect.objectContaining({ path: ['network', 'egress', 'allow', 2] }),
        ],
      }),
    );
  });

  it('is nothing by the service, unless SANDBOX_ALLOWED_DOMAINS is set, and everything by the library', () => {
    expect(() => checkCeiling({ allow: [] }, readConfig({}).egress)).toThrow(/not allowed here/);
    checkCeiling({ allow: ['pypi.org'] }, readConfig({ SANDBOX_ALLOWED_DOMAINS: 'PyPI.org, *.npmjs.org' }).egress);
    checkCeiling({ allow: ['*'] }, readManagerDefaults({}).egress);
  });

  it.each([
    ['SANDBOX_ALLOWED_DOMAINS', '10.0.0.1'],
    ['SANDBOX_EGRESS_SUBNETS', '10.217.0.1/16'],
    ['SANDBOX_EGRESS_SUBNETS', '10.217.0.0/28'],
    ['SANDBOX_EGRESS_DNS', 'dns.example'],
    ['SANDBOX_EGRESS_DNS', '1.2.3.4:70000'],
    ['SANDBOX_EGRESS_UNSAFE_DESTINATIONS', '10.0.0.0'],
    ['SANDBOX_EGRESS_NETWORK', '../x'],
  ])('%s must not be %s', (name, value) => {
    expect(() => readConfig({ [name]: value })).toThrow(new RegExp(name));
  });

  it('is read in one way of writing, with what is left out', () => {
    expect(network({ allow: ['PyPI.org.', 'pypi.org', '*.NPMJS.org:443'] })).toEqual({
      egress: {
        allow: ['pypi.org', '*.npmjs.org:443'],
        learn: false,
        maxBytes: null,
        bytesPerSecond: null,
        maxConnections: 64,
      },
    });
    for (const allow of [['10.0.0.1'], ['https://pypi.org'], ['localhost'], 'pypi.org']) {
      expect(() => network({ allow })).toThrow(/network/);
    }
    expect(() => network({ allow: [], more: 1 })).toThrow(/network/);
  });
});

describe('the networks of sandboxes with egress', () => {
  it('are all of the range, each once', () => {
    const subnets = [...subnetsOf('10.217.4.0/24')];
    expect(new Set(subnets).size).toBe(32);
    expect(subnets.toSorted()[0]).toBe('10.217.4.0/29');
    expect(subnets.every((subnet) => /^10\.217\.4\.\d+\/29$/.test(subnet))).toBe(true);
  });

  it('have the sandbox and the proxy at places of their own', () => {
    const endpoint = toEndpoint('sandyard-a', '10.217.4.8/29');
    expect(endpoint).toEqual({
      network: 'sandyard-a',
      address: '10.217.4.10',
      proxy: { name: 'egress-proxy', address: '10.217.4.11' },
    });
    expect(proxyVariables(endpoint)).toMatchObject({
      HTTPS_PROXY: 'http://egress-proxy:3128',
      https_proxy: 'http://egress-proxy:3128',
      http_proxy: 'http://egress-proxy:3128',
      no_proxy: 'localhost,127.0.0.1,::1',
    });
  });
});
