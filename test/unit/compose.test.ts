import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, test } from 'vitest';
import { parse } from 'yaml';

import { VARIABLES } from '../../src/variables.js';

/* What the compose files promise, by their text alone; that they work is tested with an engine (test/e2e). */

interface Service {
  readonly image: string;
  readonly user?: string;
  readonly privileged?: boolean;
  readonly read_only?: boolean;
  readonly restart?: string;
  readonly cap_add?: readonly string[];
  readonly cap_drop?: readonly string[];
  readonly security_opt?: readonly string[];
  readonly ports?: readonly string[];
  readonly networks?: readonly string[];
  readonly network_mode?: string;
  readonly pid?: string;
  readonly secrets?: readonly string[];
  readonly volumes?: readonly string[];
  readonly environment?: Readonly<Record<string, string | null>>;
  readonly healthcheck?: { readonly test?: readonly string[]; readonly disable?: boolean };
  readonly logging?: { readonly options: Readonly<Record<string, string>> };
  readonly mem_limit?: string;
  readonly memswap_limit?: string;
  readonly pids_limit?: number;
}

interface ComposeFile {
  readonly services: Readonly<Record<string, Service>>;
  readonly secrets?: Readonly<Record<string, { readonly file?: string }>>;
}

function readText(name: string): string {
  return readFileSync(fileURLToPath(new URL(`../../${name}`, import.meta.url)), 'utf8');
}

function read(name: string): { file: ComposeFile; text: string } {
  const text = readText(name);
  return { file: parse(text, { merge: true }) as ComposeFile, text };
}

const prod = read('docker-compose.prod.yml');
const dev = read('docker-compose.dev.yml');
const services = Object.entries(prod.file.services);
/** All but the engine, which needs nearly all rights. */
const confined = services.filter(([name]) => name !== 'docker');

describe('docker-compose.prod.yml', () => {
  it('has the services that are judged here', () => {
    expect(services.map(([name]) => name)).toEqual(['sandyard', 'docker', 'sandbox-image', 'prometheus']);
  });

  test.each(confined)('%s has a root that is read-only, no capability, and no way to more', (_name, service) => {
    expect(service).toMatchObject({
      read_only: true,
      cap_drop: ['ALL'],
      security_opt: ['no-new-privileges:true'],
      mem_limit: expect.stringMatching(/\d[mg]/) as string,
      pids_limit: expect.any(Number) as number,
    });
    expect(service.memswap_limit).toBe(service.mem_limit);
    expect([service.privileged, service.cap_add, service.network_mode, service.pid]).toEqual(Array(4).fill(undefined));
  });

  test.each(['sandyard', 'prometheus'])('%s is not root', (name) => {
    expect(prod.file.services[name]?.user).toMatch(/^[1-9]\d*:[1-9]\d*$/);
  });

  test.each(services)('%s is watched, started again, and bounded in what it logs', (name, service) => {
    const once = name === 'sandbox-image'; // it builds an image, and ends
    expect(service.restart ?? 'unless-stopped').toBe(once ? 'no' : 'unless-stopped');
    expect(service.healthcheck).toMatchObject(once ? { disable: true } : { test: expect.any(Array) as string[] });
    expect(service.logging?.options).toMatchObject({ 'max-size': '10m', 'max-file': '3' });
  });

  it('mounts nothing of the host that could be written to, and no socket', () => {
    const binds = services.flatMap(([, { volumes = [] }]) => volumes).filter((volume) => /^[./$~]/.test(volume));
    expect(binds.filter((volume) => !volume.endsWith(':ro'))).toEqual([]);
    expect(prod.text).not.toContain('docker.sock');
  });

  it('publishes the service and Prometheus, on loopback unless the operator says otherwise, and never the engine', () => {
    const published = services.flatMap(([name, { ports = [] }]) => ports.map((port) => [name, port]));
    expect(published).toEqual([
      ['sandyard', '${BIND_ADDRESS:-127.0.0.1}:${PORT:-8888}:8888'],
      ['prometheus', '127.0.0.1:${PROMETHEUS_PORT:-9090}:9090'],
    ]);
  });

  it('reaches the engine by TLS with a certificate of its own, whose key nobody else has', () => {
    const { sandyard, docker, 'sandbox-image': image, prometheus } = prod.file.services;
    for (const client of [sandyard, image]) {
      expect(client?.environment).toMatchObject({
        DOCKER_HOST: 'tcp://docker:2376',
        DOCKER_TLS_VERIFY: '1',
        DOCKER_CERT_PATH: '/certs/client',
      });
      expect(client?.volumes).toContain('certs-client:/certs/client:ro');
    }
    expect(docker?.environment).toMatchObject({ DOCKER_TLS_CERTDIR: '/certs' });
    expect(docker?.healthcheck?.test).toContain('--tlsverify');
    const others = services.filter(([, { volumes = [] }]) => volumes.some((volume) => volume.startsWith('certs-ca')));
    expect(others.map(([name]) => name)).toEqual(['docker']);
    expect(prometheus?.volumes?.join()).not.toContain('certs');
  });

  it('keeps Prometheus away from the engine', () => {
    expect(prod.file.services['prometheus']?.networks).toEqual(['monitoring']);
    expect(prod.file.services['sandyard']?.networks).toEqual(['default', 'monitoring']);
    expect(prod.file.services['docker']?.networks).toBeUndefined(); // the default one, and it alone
  });

  it('has its secrets in files, and not in the environment', () => {
    expect(prod.file.secrets).toEqual({
      token: { file: '${TOKEN_FILE:-./deploy/secrets/token}' },
      'token-secret': { file: '${TOKEN_SECRET_FILE:-./deploy/secrets/token-secret}' },
    });
    const { secrets, environment = {} } = prod.file.services['sandyard'] ?? {};
    expect(secrets).toEqual(['token', 'token-secret']);
    expect(environment['SANDBOX_TOKEN_FILE']).toBe('/run/secrets/token');
    expect(environment['SANDBOX_TOKEN_SECRET_FILE']).toBe('/run/secrets/token-secret');
    expect(Object.keys(environment)).not.toContain('SANDBOX_TOKEN');
    expect(Object.keys(environment)).not.toContain('SANDBOX_TOKEN_SECRET');
    expect(prod.file.services['prometheus']?.secrets).toEqual(['token']);
  });

  it('passes every variable on that an operator may set and that is of any use there', () => {
    const passed = Object.keys(prod.file.services['sandyard']?.environment ?? {});
    const passedOrOwn = new Set([...passed, 'HOST', 'PORT', 'SANDBOX_TOKEN', 'SANDBOX_TOKEN_SECRET']);
    passedOrOwn.add('SANDBOX_SOCKET_DIR'); // the engine is another machine to it, and it isn't root
    expect(Object.keys(VARIABLES).filter((name) => !passedOrOwn.has(name))).toEqual([]);
  });
});

describe('docker-compose.dev.yml', () => {
  it('says that the socket is root on the machine, and so do the documents', () => {
    expect(dev.text).toMatch(/^# The mounted socket is root on this machine/m);
    expect(dev.file.services['sandyard']?.volumes?.join()).toContain('/var/run/docker.sock');
    for (const name of ['README.md', 'SANDBOX.md']) expect(readText(name)).toMatch(/socket is root on/);
  });

  it('demands a token, and publishes on loopback only', () => {
    const { ports, environment, cap_drop, security_opt } = dev.file.services['sandyard'] ?? {};
    expect(ports).toEqual(['127.0.0.1:${PORT:-8888}:8888']);
    expect(environment?.['SANDBOX_TOKEN']).toMatch(/^\$\{SANDBOX_TOKEN:\?/);
    expect([cap_drop, security_opt]).toEqual([['ALL'], ['no-new-privileges:true']]);
  });
});
