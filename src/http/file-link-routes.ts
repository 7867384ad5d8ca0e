import { z } from 'zod';

import { fields } from '../schemas.js';
import { time } from '../wire/answers.js';
import { FILES } from './file-routes.js';
import { operation, type Operation } from './operation.js';
import { defined } from './request-fields.js';
import { expiresSeconds, ownerOf } from './token-routes.js';

export const linkBody = z
  .strictObject({
    path: fields.path,
    method: z
      .enum(['GET', 'PUT'])
      .describe('What it is for: to read the file, or to write it; GET unless given.')
      .optional(),
    expires: expiresSeconds.describe('Seconds until it is no longer good; 1800 unless given.').optional(),
  })
  .describe('A link to one file.');

export const linkAnswer = z
  .object({
    url: z.string().describe('The path to use it by, at this service; as it is, with nothing added.'),
    method: z.enum(['GET', 'PUT']),
    path: z.string(),
    link_id: z.string().describe('By which the log calls it.'),
    expires_at: time,
  })
  .describe('A link that was issued.');

export const fileLinkOperations: readonly Operation[] = [
  operation({
    method: 'post',
    path: `${FILES}/links`,
    operationId: 'issueFileLink',
    tag: 'Files',
    summary: 'Link to one file',
    description:
      'Whoever has the link needs no token to read that file, or to write it, until it expires. It is for the path, whatever ' +
      'is there by then, and can not be taken back.',
    body: linkBody,
    answers: { 201: { description: 'The link.', content: { 'application/json': linkAnswer } } },
    errors: ['limit_exceeded'],
    async handle({ manager, access, id, body, response, signal }) {
      const { path, method = 'GET', expires: ttlMs } = body;
      const owner = await ownerOf(id, { manager, signal });
      const request = { owner, sandbox: id, method, path, ...defined({ ttlMs }) };
      const { token, id: linkId, expiresAt } = await access.tokens.issueLink(request);
      const query = new URLSearchParams({ path, link: token });
      const url = `${FILES.replace('{id}', id)}?${query.toString()}`;
      response.status(201).json({ url, method, path, link_id: linkId, expires_at: expiresAt.toISOString() });
    },
  }),
];
