import { X509Certificate } from 'node:crypto';

import { readText, required } from './access-settings.js';
import { SandyardError } from './errors.js';
import type { Values } from './variables.js';

/** Where sandboxes with egress may get, and how. */
export interface EgressSettings {
  /** What may be asked for at the most, as in `allow`; `*` is every public host, and nothing that egress is refused. */
  readonly allowedDomains: readonly string[];
  /** The range that their networks are taken from: `10.217.0.0/16`. */
  readonly subnets: string;
  /** The name servers of the proxy, `ADDRESS` or `ADDRESS:PORT`; none for the engine's own. */
  readonly dns: readonly string[];
  /** The engine's network by which the proxy reaches the outside; `undefined` for one of its own. */
  readonly network: string | undefined;
  /** Ranges that may be reached by an allowed name though they aren't public. */
  readonly unsafeDestinations: readonly string[];
  /** Certificates of authorities, in PEM, that the proxy trusts besides the usual ones where it opens TLS. */
  readonly authorities: readonly string[];
}

export function toEgress(values: Values): EgressSettings {
  return {
    allowedDomains: values.SANDBOX_ALLOWED_DOMAINS ?? ['*'],
    subnets: required(values, 'SANDBOX_EGRESS_SUBNETS'),
    dns: values.SANDBOX_EGRESS_DNS ?? [],
    network: values.SANDBOX_EGRESS_NETWORK,
    unsafeDestinations: values.SANDBOX_EGRESS_UNSAFE_DESTINATIONS ?? [],
    authorities: readAuthorities(values.SANDBOX_EGRESS_CA_FILE),
  };
}

const PEM = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** The certificates in a file. Throws `config_invalid` where there is none, or one of them is none. */
function readAuthorities(file: string | undefined): string[] {
  if (file === undefined) return [];
  const found = readText('SANDBOX_EGRESS_CA_FILE', file).match(PEM) ?? [];
  if (found.length > 0 && found.every(isCertificate)) return found;
  throw new SandyardError('config_invalid', `SANDBOX_EGRESS_CA_FILE is ${file}, which has no certificates in PEM.`, {
    hint: 'Put into it the certificates of the authorities, each from BEGIN CERTIFICATE to END CERTIFICATE.',
  });
}

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).ca;
  } catch {
    return false;
  }
}
