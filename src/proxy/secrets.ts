import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { parseAddress } from './addresses.ts';
import { allowsHost, parseRule, type HostRule } from './hosts.ts';

/*
 * What the proxy puts into requests in the place of what a sandbox has. A manager writes it, for the proxy alone, beside
 * the policy of a sandbox; it is read for each request, so what is changed there holds from the next one on.
 */

export interface SecretEntry {
  readonly name: string;
  /** What the sandbox has, and sends: random, so that it stands for nothing else. */
  readonly placeholder: string;
  readonly value: string;
  /** Rules: where the value may go. */
  readonly hosts: readonly string[];
  /** Whether it goes into requests over TLS, which is opened for that, and then into no others. */
  readonly interceptTls: boolean;
}

/** What is shown to the TLS clients of a sandbox, both in PEM. The key of whoever has signed it is nobody's any more. */
export interface Certificate {
  readonly certificate: string;
  readonly key: string;
}

export interface SecretsFile {
  readonly sandbox: string;
  readonly secrets: readonly SecretEntry[];
  /** For the hosts of the secrets with `interceptTls`; `null` where there are none. */
  readonly shown: Certificate | null;
}

export const SECRETS = 'secrets';

export function secretsPath(root: string, address: string): string {
  return join(root, SECRETS, `${address}.json`);
}

/** Those of a sandbox; none where what is at its address was another's. */
export async function readSecrets(
  root: string,
  { address, sandbox }: { address: string; sandbox: string },
): Promise<SecretsFile> {
  const none = { sandbox, secrets: [], shown: null };
  if (parseAddress(address) === undefined) return none;
  try {
    const found = JSON.parse(await readFile(secretsPath(root, address), 'utf8')) as SecretsFile;
    return found.sandbox === sandbox ? found : none;
  } catch {
    return none;
  }
}

/** Where a secret may go, as a rule; `undefined` for what is none. Without a port it is that of its protocol. */
export function parseSecretHost(
  text: string,
  { interceptTls }: Pick<SecretEntry, 'interceptTls'>,
): HostRule | undefined {
  const rule = parseRule(text);
  if (rule === undefined || rule.ports.length === 1) return rule;
  return { host: rule.host, ports: [interceptTls ? 443 : 80] };
}

/** Those that may go to a host, by what was checked of it. What goes over TLS goes by nothing else. */
export function secretsFor(
  secrets: readonly SecretEntry[],
  { host, port, tls }: { host: string; port: number; tls: boolean },
): SecretEntry[] {
  const goesThere = (rule: HostRule | undefined) =>
    rule !== undefined && rule.ports.includes(port) && allowsHost(rule, host) && (!tls || isCertified(rule, host));
  return secrets.filter(
    ({ hosts, interceptTls }) =>
      interceptTls === tls && hosts.some((text) => goesThere(parseSecretHost(text, { interceptTls }))),
  );
}

/** In a certificate a wildcard is one label (RFC 9525, 6.3): what is further down stays untouched. */
function isCertified(rule: HostRule, host: string): boolean {
  return !rule.host.startsWith('*.') || host.split('.').length === rule.host.split('.').length;
}
