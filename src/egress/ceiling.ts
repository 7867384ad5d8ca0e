import type { EgressSettings } from '../egress-settings.js';
import type { EgressPolicy } from '../egress-schemas.js';
import { SandyardError } from '../errors.js';
import { covers, parseRule } from '../proxy/hosts.js';

/* What egress may be asked for. */

/** Throws `limit_exceeded`, naming each host that is beyond what the operator allows. */
export function checkCeiling({ allow }: Pick<EgressPolicy, 'allow'>, { allowedDomains }: EgressSettings): void {
  if (allowedDomains.length === 0) {
    throw new SandyardError('limit_exceeded', 'Sandboxes with egress are not allowed here.', {
      hint: 'Have the operator set SANDBOX_ALLOWED_DOMAINS to the hosts that may be asked for.',
      issues: [{ path: ['network', 'egress'], message: 'is not allowed: SANDBOX_ALLOWED_DOMAINS is not set' }],
    });
  }
  const ceiling = toRules(allowedDomains);
  const beyond = allow.filter((text) => toRules([text]).every((asked) => !ceiling.some((rule) => covers(rule, asked))));
  if (beyond.length === 0) return;
  throw new SandyardError('limit_exceeded', `Egress to ${beyond.join(', ')} is not allowed here.`, {
    hint: `SANDBOX_ALLOWED_DOMAINS allows ${allowedDomains.join(', ')}. Ask for less, or have the operator add to it.`,
    issues: beyond.map((text) => ({
      path: ['network', 'egress', 'allow', allow.indexOf(text)],
      message: `${text} is beyond what SANDBOX_ALLOWED_DOMAINS allows`,
    })),
  });
}

function toRules(texts: readonly string[]) {
  return texts.map(parseRule).filter((rule) => rule !== undefined);
}
