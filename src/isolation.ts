import { SandyardError } from './errors.js';

/*
 * What an operator allows callers to choose of a sandbox's isolation, and what they get when they choose nothing. Where a
 * list is `undefined` everything of its kind is allowed.
 */

export const PROFILES = ['standard', 'strict', 'dev'] as const;
/** How much a sandbox is cut off from the kernel and its own file system: see SANDBOX.md. */
export type Profile = (typeof PROFILES)[number];

export const DISK_MODES = ['quota', 'watchdog', 'memory', 'none'] as const;
/**
 * How what a sandbox writes is bounded: by the engine's storage driver, by its own warden, by its memory, where its files
 * are, or not at all.
 */
export type DiskMode = (typeof DISK_MODES)[number];

export const NETWORK_KINDS = ['none', 'bridge', 'egress'] as const;
type NetworkKind = (typeof NETWORK_KINDS)[number];

/** The word for a network, whatever else is said of it. */
export function kindOfNetwork(network: 'none' | 'bridge' | { readonly egress: unknown }): NetworkKind {
  return typeof network === 'string' ? network : 'egress';
}

const GVISOR = /^(runsc|gvisor)/i;

/** Whether the engine's runtime of that name is gVisor, as its name says. */
export function isGvisor(runtime: string | null): boolean {
  return runtime !== null && GVISOR.test(runtime);
}

export interface IsolationSettings {
  /** Unless a caller says otherwise. */
  readonly profile: Profile;
  /** Unless a caller says otherwise: a runtime of the engine, or `auto`. `undefined`: the engine's default. */
  readonly runtime: string | undefined;
  readonly allowedProfiles: readonly Profile[] | undefined;
  readonly allowedNetworks: readonly NetworkKind[] | undefined;
  /** Names, in which `*` stands for anything but `/`. The default image is always allowed. */
  readonly allowedImages: readonly string[] | undefined;
  readonly allowedRuntimes: readonly string[] | undefined;
}

/** What a caller asks for, once the defaults are in. */
interface Asked {
  readonly profile: Profile;
  readonly network: NetworkKind;
  readonly image: string;
}

/** Throws `forbidden`, naming the setting, for what the operator doesn't allow. */
export function checkAllowed(asked: Asked, settings: IsolationSettings & { readonly defaultImage: string }): void {
  const { allowedProfiles, allowedNetworks, allowedImages, defaultImage } = settings;
  if (allowedProfiles?.includes(asked.profile) === false) {
    throw notAllowed(`the profile "${asked.profile}"`, 'SANDBOX_ALLOWED_PROFILES', allowedProfiles);
  }
  if (allowedNetworks?.includes(asked.network) === false) {
    throw notAllowed(`the network "${asked.network}"`, 'SANDBOX_ALLOWED_NETWORKS', allowedNetworks);
  }
  if (allowedImages !== undefined && asked.image !== defaultImage && !isAllowedImage(asked.image, allowedImages)) {
    throw notAllowed(`the image ${asked.image}`, 'SANDBOX_ALLOWED_IMAGES', [defaultImage, ...allowedImages]);
  }
}

/** `forbidden`, naming the setting that says what is allowed. */
export function notAllowed(what: string, setting: string, allowed: readonly string[]): SandyardError {
  return new SandyardError('forbidden', `The operator doesn't allow ${what}.`, {
    hint: `${setting} allows: ${allowed.join(', ')}.`,
    details: { setting },
  });
}

/** Whether one of the patterns is that of the image. A name without a tag is that with `:latest`, on both sides. */
function isAllowedImage(image: string, patterns: readonly string[]): boolean {
  const name = toFullName(image);
  return patterns.some((pattern) => matches(name, toFullName(pattern)));
}

/** As Docker reads it: without its own registry's name, and with a tag. */
function toFullName(reference: string): string {
  const name = reference.replace(/^(index\.)?docker\.io\//, '').replace(/^library\//, '');
  const last = name.slice(name.lastIndexOf('/') + 1);
  return /[:@*]/.test(last) ? name : `${name}:latest`;
}

/** Part by part, so that it takes no longer than the pattern and the name are long, whatever they are. */
function matches(name: string, pattern: string): boolean {
  const parts = pattern.split('/');
  const names = name.split('/');
  return parts.length === names.length && parts.every((part, index) => matchesPart(names[index] ?? '', part));
}

function matchesPart(name: string, pattern: string): boolean {
  const [first = '', ...rest] = pattern.split('*');
  const last = rest.pop();
  if (last === undefined) return name === first;
  if (!name.startsWith(first) || !name.slice(first.length).endsWith(last)) return false;
  let at = first.length;
  for (const middle of rest) {
    const found = name.indexOf(middle, at);
    if (found === -1) return false;
    at = found + middle.length;
  }
  return at <= name.length - last.length;
}
