import type { Engine, ImageInfo, VolumeMount } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';

/*
 * How the warden, which is PID 1 of every sandbox, comes into a container. Our own image has it. For any other it is in
 * a volume that the engine fills from our image: so it works on an engine elsewhere, where no directory of this machine
 * can be mounted.
 */

const WARDEN_DIRECTORY = '/usr/lib/sandyard';
export const WARDEN_PATH = `${WARDEN_DIRECTORY}/warden`;

/** An image with this label has a warden at that path, which speaks this version of the protocol. */
export const WARDEN_LABEL = 'sandyard.warden';
export const PROTOCOL_VERSION = '1';
/** The image that `npm run setup` builds. */
export const OUR_IMAGE = 'sandyard-sandbox:latest';
const VOLUME_PREFIX = 'sandyard-warden-';

/** Brings the warden to the containers of one engine. */
export class WardenDelivery {
  readonly #engine: Engine;
  readonly #defaultImage: string;
  /** By the volume's name. */
  readonly #filled = new Map<string, Promise<void>>();

  constructor(engine: Engine, defaultImage: string) {
    this.#engine = engine;
    this.#defaultImage = defaultImage;
  }

  /**
   * What to mount in a container of the image; `undefined` where the image has the warden, unless it has to be where root
   * can't change it. Throws `image_not_found`.
   */
  async volumeFor(image: ImageInfo, { fromRoot = false } = {}): Promise<VolumeMount | undefined> {
    if (hasWarden(image) && !fromRoot) return undefined;
    const source = hasWarden(image) ? image : await this.#findSource();
    // One for each warden: one that containers use is never changed.
    const name = `${VOLUME_PREFIX}${source.id.replace(/^sha256:/, '').slice(0, 12)}`;
    await this.#fill(name, source.id);
    return { name, target: WARDEN_DIRECTORY };
  }

  /** Has it filled again next time: a container that has it mounted could not be started. */
  forget(volume: VolumeMount): void {
    this.#filled.delete(volume.name);
  }

  async #findSource(): Promise<ImageInfo> {
    for (const reference of new Set([this.#defaultImage, OUR_IMAGE])) {
      const image = await this.#inspect(reference);
      if (image !== undefined && hasWarden(image)) return image;
    }
    throw new SandyardError('image_not_found', `The engine has no image with the warden, such as ${OUR_IMAGE}.`, {
      hint: 'Run `npm run setup` to build it: sandboxes of other images need it, too.',
    });
  }

  async #inspect(reference: string): Promise<ImageInfo | undefined> {
    try {
      return await this.#engine.inspectImage(reference);
    } catch (error) {
      if (isSandyardError(error, 'image_not_found')) return undefined;
      throw error;
    }
  }

  #fill(name: string, image: string): Promise<void> {
    const known = this.#filled.get(name);
    if (known !== undefined) return known;
    const labels = { [WARDEN_LABEL]: PROTOCOL_VERSION };
    const filled = this.#engine.fillVolume({ name, image, path: WARDEN_DIRECTORY, labels });
    this.#filled.set(name, filled);
    filled.catch(() => this.#filled.delete(name));
    return filled;
  }
}

/** The image that a volume has its warden from; `undefined` when it isn't one of those volumes. */
export function wardenVolumeImage(volume: string): string | undefined {
  const image = volume.startsWith(VOLUME_PREFIX) ? volume.slice(VOLUME_PREFIX.length) : '';
  return image === '' ? undefined : image;
}

function hasWarden({ labels }: ImageInfo): boolean {
  return labels[WARDEN_LABEL] === PROTOCOL_VERSION;
}
