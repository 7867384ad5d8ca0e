import { isIP } from 'node:net';
import { domainToASCII } from 'node:url';

/*
 * Names of hosts, and the rules of an allow-list. The proxy program and the manager use the same; so this file, as all of
 * this folder, imports nothing but what Node.js brings.
 */

/** Ports that a rule without one allows: plain HTTP and HTTPS. */
const DEFAULT_PORTS: readonly number[] = [80, 443];

/** `pypi.org`, `*.npmjs.org:443`, or `*` for every host, in one way of writing. */
export interface HostRule {
  /** `*`, `*.SUFFIX` or a name; lower-case, in ASCII, without a dot at its end. */
  readonly host: string;
  readonly ports: readonly number[];
}

/** Letters, digits and dots of whatever script, and the two that names have besides. */
const PLAIN = /^[a-z0-9._\u0080-\u{10ffff}-]+$/iu;
const LABEL = /^(?!-)[a-z0-9_-]{1,63}(?<!-)$/;
/** By the last label the URL standard tells a number, in whatever form, from a name: `127.1`, `0x7f000001`, `2130706433`. */
const NUMBER = /^(\d+|0x[0-9a-f]*)$/;

/** A host as it was sent: a name, in one way of writing, or why it is none. */
export type Host = { readonly name: string } | { readonly fault: 'ip_literal' | 'not_a_domain' };

/** International names become ASCII, and one dot at the end goes. An address, in whatever form, is no name. */
export function readHost(text: string): Host {
  if (text.includes(':') || text.startsWith('[') || isIP(text) !== 0) return { fault: 'ip_literal' };
  // As it is parsed as the host of a URL, it must have no characters that end one or are decoded there.
  const given = text.normalize('NFKC').replace(/[.。]$/, '');
  if (!PLAIN.test(given)) return { fault: 'not_a_domain' };
  const name = domainToASCII(given).toLowerCase();
  const labels = name.split('.');
  const last = [labels, given.toLowerCase().split('.')].map((each) => each.at(-1) ?? '');
  if (isIP(name) !== 0 || last.some((label) => NUMBER.test(label))) return { fault: 'ip_literal' };
  const valid = name.length <= 253 && labels.length > 1 && labels.every((label) => LABEL.test(label));
  return valid ? { name } : { fault: 'not_a_domain' };
}

/** `undefined` where the text is no rule. */
export function parseRule(text: string): HostRule | undefined {
  const [, given = '', port] = /^([^:]+)(?::(\d{1,5}))?$/.exec(text.trim()) ?? [];
  const ports = port === undefined ? DEFAULT_PORTS : [Number(port)];
  if (ports.some((number) => number < 1 || number > 65_535)) return undefined;
  if (given === '*') return { host: '*', ports };
  const wild = given.startsWith('*.');
  // A suffix may be a single label, such as `test`, which readHost takes for no name: so it is given one more to check.
  const host = readHost(wild ? `any.${given.slice(2)}` : given);
  if (!('name' in host)) return undefined;
  return { host: wild ? `*.${host.name.slice('any.'.length)}` : host.name, ports };
}

/** As it is shown, and as it is kept. */
export function formatRule({ host, ports }: HostRule): string {
  return ports === DEFAULT_PORTS || ports.length !== 1 ? host : `${host}:${ports[0]}`;
}

/** Whether the rule allows this host, whatever the port. `*.SUFFIX` is what is below the suffix, not the suffix itself. */
export function allowsHost(rule: HostRule, name: string): boolean {
  if (rule.host === '*') return true;
  return rule.host.startsWith('*.') ? name.endsWith(rule.host.slice(1)) : rule.host === name;
}

/** Whether all that the second allows the first allows, too. */
export function covers(ceiling: HostRule, asked: HostRule): boolean {
  if (!asked.ports.every((port) => ceiling.ports.includes(port))) return false;
  if (asked.host === '*') return ceiling.host === '*';
  if (!asked.host.startsWith('*.')) return allowsHost(ceiling, asked.host);
  return (
    asked.host === ceiling.host || (ceiling.host !== asked.host.slice(2) && allowsHost(ceiling, asked.host.slice(2)))
  );
}
