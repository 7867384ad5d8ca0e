import { required } from './access-settings.js';
import { SandyardError } from './errors.js';
import type { IsolationSettings } from './isolation.js';
import type { Values } from './variables.js';

/** Throws `config_invalid` for defaults that aren't allowed. */
export function toIsolation(values: Values): IsolationSettings {
  const isolation: IsolationSettings = {
    profile: required(values, 'SANDBOX_PROFILE'),
    runtime: values.SANDBOX_RUNTIME,
    allowedProfiles: values.SANDBOX_ALLOWED_PROFILES,
    allowedNetworks: values.SANDBOX_ALLOWED_NETWORKS,
    allowedImages: values.SANDBOX_ALLOWED_IMAGES,
    allowedRuntimes: values.SANDBOX_ALLOWED_RUNTIMES,
  };
  const { profile, runtime, allowedProfiles, allowedRuntimes } = isolation;
  const mistakes = [
    ['SANDBOX_PROFILE', allowedProfiles?.includes(profile) === false],
    ['SANDBOX_RUNTIME', runtime !== undefined && runtime !== 'auto' && allowedRuntimes?.includes(runtime) === false],
  ] as const;
  for (const [name, isWrong] of mistakes) {
    const list = name.replace('SANDBOX_', 'SANDBOX_ALLOWED_');
    if (isWrong) throw new SandyardError('config_invalid', `${name} is not one that ${list}S allows.`);
  }
  return isolation;
}
