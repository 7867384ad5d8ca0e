import type Docker from 'dockerode';

import { SandyardError } from '../errors.js';
import { QUICK_MS, type EngineConnection } from './connection.js';
import { NO_IPV6, toCreateOptions } from './container-spec.js';
import { saysThat } from './engine-errors.js';
import type { CallOptions, NetworkSpec, ProxySpec } from './engine.js';

/* Networks in which a container has no way out but a proxy, and the container of that proxy. */

/** The first API version by which a bridge can be told to have no address of the engine's machine in it. */
const ISOLATED_API = 1.48;
/** How many subnets are tried: those that are taken are known but for what other managers take right now. */
const TRIES = 64;
const WORK_MS = 60_000;

export async function createNetwork(
  connection: EngineConnection,
  { name, labels, subnets, isolated }: NetworkSpec,
  options: CallOptions,
): Promise<string> {
  const { apiVersion } = await connection.connected(options);
  let tries = 0;
  for (const subnet of subnets) {
    if (++tries > TRIES) break;
    const settings = {
      Name: name,
      CheckDuplicate: true,
      Driver: 'bridge',
      Internal: isolated,
      EnableIPv6: false,
      IPAM: { Driver: 'default', Config: [{ Subnet: subnet }] },
      Options: isolated ? toIsolation(apiVersion) : { 'com.docker.network.bridge.enable_icc': 'false' },
      Labels: { ...labels },
    };
    const about = { doing: `make the network ${name}`, container: name };
    const made = await connection.call(
      { operation: 'create_network', ...about, deadlineMs: QUICK_MS, ...options },
      (docker, abortSignal) =>
        docker.createNetwork({ ...settings, abortSignal }).then(
          () => true,
          (error: unknown) => {
            if (saysThat.overlaps(error)) return false;
            throw error;
          },
        ),
    );
    if (made) return subnet;
  }
  throw new SandyardError('over_capacity', `There is no subnet left for the network ${name}.`, {
    hint: 'Destroy sandboxes with egress, or give a larger range: SANDBOX_EGRESS_SUBNETS.',
    details: { ceiling: 'egress_subnets' },
  });
}

/** Internal alone leaves the engine's machine with an address in it, by which its services could be reached. */
function toIsolation(apiVersion: string): Record<string, string> {
  return Number(apiVersion) >= ISOLATED_API
    ? { 'com.docker.network.bridge.gateway_mode_ipv4': 'isolated' }
    : { 'com.docker.network.bridge.inhibit_ipv4': 'true' };
}

export async function findSubnet(
  connection: EngineConnection,
  name: string,
  options: CallOptions,
): Promise<string | undefined> {
  const about = { doing: `inspect the network ${name}` };
  const found = await connection.call(
    { operation: 'inspect_network', ...about, deadlineMs: QUICK_MS, idempotent: true, ...options },
    (docker, abortSignal) =>
      // The types know nothing of its signal.
      (
        docker.getNetwork(name).inspect({ abortSignal } as never) as unknown as Promise<Docker.NetworkInspectInfo>
      ).catch((error: unknown) => {
        if (!saysThat.hasNone(error)) throw error;
      }),
  );
  return found?.IPAM?.Config?.[0]?.['Subnet'];
}

export async function connectNetwork(
  connection: EngineConnection,
  name: string,
  {
    container,
    address,
    aliases,
    ...options
  }: CallOptions & { container: string; address: string; aliases: readonly string[] },
): Promise<void> {
  const EndpointConfig = { IPAMConfig: { IPv4Address: address }, Aliases: [...aliases] };
  const about = { doing: `connect a container to the network ${name}`, container };
  await connection.call(
    { operation: 'connect_network', ...about, deadlineMs: QUICK_MS, idempotent: true, ...options },
    (docker, abortSignal) =>
      docker
        .getNetwork(name)
        .connect({ Container: container, EndpointConfig, abortSignal } as Docker.NetworkConnectOptions)
        .catch((error: unknown) => {
          if (!saysThat.isConnected(error)) throw error;
        }),
  );
}

export async function createProxy(
  connection: EngineConnection,
  spec: ProxySpec,
  options: CallOptions,
): Promise<string> {
  const { outside, volume, tmpfs, ...rest } = spec;
  const base = toCreateOptions({ ...rest, env: [], workdir: '/', network: 'none' });
  const VolumeOptions = { NoCopy: true, Labels: { ...volume.labels } } as NonNullable<
    Docker.MountSettings['VolumeOptions']
  >;
  const HostConfig = {
    ...base.HostConfig,
    NetworkMode: outside,
    ReadonlyRootfs: true,
    // It is in the networks of all sandboxes, and must not be a way from one to another.
    Sysctls: { ...NO_IPV6, 'net.ipv4.ip_forward': '0' },
    Tmpfs: { ...tmpfs },
    Mounts: [{ Type: 'volume' as const, Source: volume.name, Target: volume.target, ReadOnly: false, VolumeOptions }],
  };
  const about = { doing: 'create a container', container: spec.name, image: spec.image };
  const { id } = await connection.call(
    { operation: 'create_container', ...about, deadlineMs: WORK_MS, ...options },
    (docker, abortSignal) => docker.createContainer({ ...base, NetworkDisabled: false, HostConfig, abortSignal }),
  );
  return id;
}
