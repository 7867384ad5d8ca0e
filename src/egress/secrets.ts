import { customAlphabet } from 'nanoid';

import { SandyardError, type InputIssue } from '../errors.js';
import { covers, formatRule, parseRule, type HostRule } from '../proxy/hosts.js';
import { parseSecretHost } from '../proxy/secrets.js';
import type { ParsedCreateOptions } from '../schemas.js';
import type { SandboxTraits } from '../record/record.js';
import type { Concealed } from '../secret-schemas.js';

/* The secrets that a sandbox is made with: whether they can be used, and what stands for them inside. */

/** Found at once by whoever looks for it, and guessed by nobody. */
const newPlaceholder = customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 32);
const PREFIX = 'sandyard-secret-';

/** A secret of a sandbox that is yet to be made. */
export interface PlannedSecret {
  readonly name: string;
  readonly placeholder: string;
  readonly value: Concealed;
  readonly hosts: readonly string[];
  readonly interceptTls: boolean;
}

/** With a placeholder for each. Throws `validation_failed`, naming each that could never be used. */
export function planSecrets({ secrets = {}, network, env = {} }: ParsedCreateOptions): PlannedSecret[] {
  const names = Object.keys(secrets);
  const allow = typeof network === 'object' ? network.egress.allow.flatMap((text) => parseRule(text) ?? []) : undefined;
  const faults = names.flatMap((name) => {
    const secret = secrets[name];
    if (allow === undefined) return [{ path: ['secrets', name], message: 'needs network: { egress: { allow: […] } }' }];
    const taken = Object.hasOwn(env, name) ? [{ path: ['env', name], message: 'is the name of a secret, too' }] : [];
    return [...taken, ...(secret === undefined ? [] : faultsOf(name, secret, allow))];
  });
  checkNone(faults);
  return Object.entries(secrets).map(([name, secret]) => ({
    name,
    placeholder: `${PREFIX}${newPlaceholder()}`,
    ...secret,
  }));
}

function faultsOf(
  name: string,
  { hosts, interceptTls }: { hosts: readonly string[]; interceptTls: boolean },
  allow: readonly HostRule[],
): InputIssue[] {
  return hosts.flatMap((text, index) => {
    const asked = parseSecretHost(text, { interceptTls });
    if (asked === undefined || allow.some((rule) => covers(rule, asked))) return [];
    const advice = interceptTls ? '' : ' (to HTTPS it goes with interceptTls: true)';
    const message = `${formatRule(asked)} is beyond what "allow" has${advice}`;
    return [{ path: ['secrets', name, 'hosts', index], message }];
  });
}

function checkNone(faults: readonly InputIssue[]): void {
  const [first] = faults;
  if (first === undefined) return;
  throw new SandyardError('validation_failed', `Invalid create options: ${first.path.join('.')}: ${first.message}.`, {
    hint: 'A secret goes only to hosts that the sandbox may reach: add them to network.egress.allow.',
    issues: [...faults],
  });
}

/** What may be told of them. */
export function toTraits(secrets: readonly PlannedSecret[]): SandboxTraits['secrets'] {
  return Object.fromEntries(
    secrets.map(({ name, hosts, interceptTls }) => [name, { hosts: [...hosts], interceptTls }]),
  );
}

export function toVariables(secrets: readonly PlannedSecret[]): Record<string, string> {
  return Object.fromEntries(secrets.map(({ name, placeholder }) => [name, placeholder]));
}
