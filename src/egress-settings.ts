import { required } from './access-settings.js';
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
}

export function toEgress(values: Values): EgressSettings {
  return {
    allowedDomains: values.SANDBOX_ALLOWED_DOMAINS ?? ['*'],
    subnets: required(values, 'SANDBOX_EGRESS_SUBNETS'),
    dns: values.SANDBOX_EGRESS_DNS ?? [],
    network: values.SANDBOX_EGRESS_NETWORK,
    unsafeDestinations: values.SANDBOX_EGRESS_UNSAFE_DESTINATIONS ?? [],
  };
}
