/** The entry of `npm run psql`: checks the version of Node, then loads the command. Main thread of a process of its own. */
import { requireSupportedNode } from '../core/supported-node.js';

requireSupportedNode();
void import('./psql-tool.js');
