import { Resolver } from 'node:dns/promises';

import { judgeAddress, type AddressRules } from './addresses.ts';
import { allowsHost, formatRule, parseRule, readHost, type HostRule } from './hosts.ts';

/* Whether a sandbox may connect to a host, and why. */

/** How long a name server may take, and how often it is asked: all that is refused is to be so within five seconds. */
const LOOKUP_MS = 1200;
const LOOKUPS = 2;

export type DenyReason =
  | 'bad_request'
  | 'no_policy'
  | 'ip_literal'
  | 'not_a_domain'
  | 'host_not_allowed'
  | 'port_not_allowed'
  | 'name_not_found'
  | 'address_not_public'
  | 'not_tls'
  | 'sni_mismatch'
  | 'tls_failed'
  | 'not_trusted'
  | 'connect_failed'
  | 'too_many_connections'
  | 'too_many_requests'
  | 'bytes_exhausted'
  | 'policy_changed';

/** What is asked for. */
export interface Target {
  readonly host: string;
  readonly port: number;
}

export type Verdict =
  | { readonly allowed: true; readonly host: string; readonly port: number; readonly rule: string }
  | {
      readonly allowed: false;
      readonly host: string;
      readonly port: number;
      readonly reason: DenyReason;
      readonly detail: string;
    };

/** By name and port alone. */
export function judgeTarget({ host: given, port }: Target, rules: readonly HostRule[]): Verdict {
  const host = readHost(given);
  const deny = (name: string, reason: DenyReason, detail: string): Verdict => ({
    allowed: false,
    host: name.slice(0, 253),
    port,
    reason,
    detail,
  });
  if ('fault' in host) {
    const detail =
      host.fault === 'ip_literal'
        ? 'Addresses are refused in every form; name the host.'
        : 'It is not the name of a domain.';
    return deny(given, host.fault, detail);
  }
  const { name } = host;
  const named = rules.filter((rule) => allowsHost(rule, name));
  const rule = named.find(({ ports }) => ports.includes(port));
  if (rule !== undefined) return { allowed: true, host: name, port, rule: formatRule(rule) };
  if (named.length === 0) return deny(name, 'host_not_allowed', 'No rule of the allow-list names it.');
  const ports = [...new Set(named.flatMap((each) => each.ports))].join(', ');
  return deny(name, 'port_not_allowed', `The allow-list has it with port ${ports} only.`);
}

export function toRules(allow: readonly string[]): HostRule[] {
  return allow.map(parseRule).filter((rule) => rule !== undefined);
}

export type Lookup = { readonly address: string } | { readonly reason: DenyReason; readonly detail: string };

/** Looks names up, once for each connection: what was checked is what is connected to. */
export class Lookups {
  readonly #resolver = new Resolver({ timeout: LOOKUP_MS, tries: LOOKUPS });
  readonly #rules: AddressRules;

  /** Without servers, those that the machine has. */
  constructor({ servers, rules }: { servers: readonly string[]; rules: AddressRules }) {
    if (servers.length > 0) this.#resolver.setServers(servers);
    this.#rules = rules;
  }

  /** One name that leads to a forbidden address leads nowhere, whatever else it leads to. */
  async find(name: string): Promise<Lookup> {
    let found: readonly string[];
    try {
      found = await this.#resolver.resolve4(name);
    } catch (error) {
      const code = (error as { code?: string }).code ?? 'no answer';
      return { reason: 'name_not_found', detail: `It could not be looked up (${code}).` };
    }
    for (const address of found) {
      const fault = judgeAddress(address, this.#rules);
      if (fault !== undefined)
        return { reason: 'address_not_public', detail: `It leads to ${address}, which ${fault}.` };
    }
    const [address] = found;
    return address === undefined ? { reason: 'name_not_found', detail: 'It has no IPv4 address.' } : { address };
  }
}
