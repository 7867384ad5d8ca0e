import { z } from 'zod';

import { fields } from '../schemas.js';
import { octalMode } from './request-fields.js';

export const makeDirBody = z
  .strictObject({
    path: fields.path,
    mode: octalMode.optional(),
    parents: z
      .boolean()
      .describe('Whether those above are made, too, and one that exists is no fault; true unless given.')
      .optional(),
  })
  .describe('A directory to make.');

export const renameBody = z
  .strictObject({
    from: fields.path,
    to: fields.path,
    replace: z.boolean().describe('Whether what is there already may be replaced; true unless given.').optional(),
  })
  .describe('A file or directory to move.');

export const chmodBody = z.strictObject({ path: fields.path, mode: octalMode }).describe('Permission bits to set.');
